"""Stage `report`: one page per batch, a row for every clip of the manifest, always. Opens from disk, needs no network."""

from __future__ import annotations

import base64
import io
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

import av
from jinja2 import Environment, PackageLoader
from PIL import Image

from stereotalker.store import write_atomic


@dataclass(frozen=True)
class ClipResult:
    """How one clip ended."""

    id: str
    row: int  # in the manifest, from 1
    ok: bool
    error: str = ""  # one line: what was expected, what came, what to do
    video: str = ""  # path relative to the report
    frames: int = 0
    seconds: dict[str, float] = field(default_factory=dict)  # by stage
    made: list[str] = field(default_factory=list)  # stages not found in the store; "render" once a segment
    facts: dict[str, str] = field(default_factory=dict)  # avatar, size, seed, ...


@dataclass(frozen=True)
class BatchRecord:
    """What a batch was made with, pinned at its start."""

    name: str
    manifest: str
    started: str  # local time, ISO 8601
    models: dict[str, str]  # stage -> SHA-256 of its weights
    versions: dict[str, str]  # stage -> registry version, or "unregistered"
    code: str
    commit: str
    params: str  # digest


def write_report(out: Path, batch: BatchRecord, results: list[ClipResult], wall_seconds: float) -> Path:
    """Write out/report.html and out/results.json; returns the page's path."""
    page = Environment(loader=PackageLoader("stereotalker", "assets"), autoescape=True).get_template("report.html.j2")
    rows = [(result, _poster(out / result.video) if result.ok else "") for result in results]
    html = page.render(batch=batch, rows=rows, failed=sum(not r.ok for r in results), wall=wall_seconds)
    write_atomic(out / "report.html", html.encode())
    summary = {"batch": asdict(batch), "wall_seconds": wall_seconds, "clips": [asdict(r) for r in results]}
    write_atomic(out / "results.json", json.dumps(summary, indent=1).encode())
    return out / "report.html"


def _poster(video: Path) -> str:
    """A frame from before the middle (where the decoder can start) as a small JPEG data URI."""
    with av.open(str(video)) as container:
        stream = container.streams.video[0]
        container.seek(int(stream.duration / 2), stream=stream)
        picture = next(container.decode(stream)).to_image()
    picture.thumbnail((256, 256), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
