"""Stage `report`: one page per batch, a row for every clip of the manifest, always. Opens from disk, needs no network."""

from __future__ import annotations

import base64
import io
import json
import math
from dataclasses import asdict, dataclass, field

from jinja2 import Environment, PackageLoader
from PIL import Image

from stereotalker.errors import SAME_CAUSE, UserError
from stereotalker.production.outputs import Outputs

SHOWN = ("pass", "review", "fail", "failed", "stopped")  # ClipResult.shown


@dataclass(frozen=True)
class ClipResult:
    """How one clip ended."""

    id: str
    row: int  # in the manifest, from 1
    state: str  # "done", "failed", or "stopped": not reached, made by the next run
    error: str = ""  # one line: what was expected, what came, what to do
    verdict: str = ""  # of the quality gate, when done: pass, review, fail
    reasons: tuple[str, ...] = ()  # of the verdict, and what else there is to know
    measures: dict[str, float] = field(default_factory=dict)  # of the quality gate
    video: str = ""  # name below the outputs' place
    poster: str = ""
    preview: str = ""
    log: str = ""
    frames: int = 0
    rendered: int = 0  # frames that were made, not found in the store
    attempts: int = 1
    seconds: dict[str, float] = field(default_factory=dict)  # by stage
    made: list[str] = field(default_factory=list)  # stages not found in the store; "render" once a segment
    facts: dict[str, str] = field(default_factory=dict)  # avatar, size, seed, ...

    @property
    def ok(self) -> bool:
        """Made, and not refused by the quality gate."""
        return self.state == "done" and self.verdict != "fail"

    @property
    def shown(self) -> str:
        """One word for lists and filters."""
        return self.verdict if self.state == "done" else self.state


@dataclass(frozen=True)
class BatchRecord:
    """What a batch was made with, pinned at its start."""

    name: str
    manifest: str
    started: str  # local time, ISO 8601
    models: dict[str, str]  # stage -> SHA-256 of its weights
    versions: dict[str, str]  # stage -> registry version, or "unregistered"
    data: dict[str, str]  # output of the data pipeline -> its digest in dvc.lock
    code: str
    commit: str
    params: str  # digest


@dataclass(frozen=True)
class BatchEnd:
    """How a batch ended."""

    results: list[ClipResult]  # a row for every clip, in the manifest's order
    stopped: str  # why it ended early; empty: it did not
    wall_seconds: float
    useful_seconds: float  # of workers
    lost_seconds: float

    @property
    def broken(self) -> bool:
        """Stopped by the breaker: another night would fail alike."""
        return SAME_CAUSE in self.stopped

    def count(self, shown: str) -> int:
        return sum(result.shown == shown for result in self.results)

    @property
    def status(self) -> int:
        """Exit status: 0 all made and passed; 1 some failed; 3 stopped before the end; 4 some want a look."""
        if any(result.state == "failed" or result.verdict == "fail" for result in self.results):
            return 1
        return 3 if self.count("stopped") else 4 if self.count("review") else 0

    def summary(self) -> str:
        counted = [f"{self.count(shown)} {shown}" for shown in SHOWN if self.count(shown)]
        return f"{len(self.results)} clips: {', '.join(counted)}" + (
            f"; stopped: {self.stopped}" if self.stopped else ""
        )


def write_report(outputs: Outputs, batch: BatchRecord, end: BatchEnd) -> str:
    """Write report.html and results.json; returns the page's path or URL."""
    templates = Environment(loader=PackageLoader("stereotalker", "assets"), autoescape=True)
    templates.filters["duration"] = duration
    counts = {shown: end.count(shown) for shown in SHOWN if end.count(shown)}
    totals: dict[str, float] = {}
    for stage, seconds in (item for result in end.results for item in result.seconds.items()):
        totals[stage] = totals.get(stage, 0.0) + seconds
    page = templates.get_template("report.html.j2").render(batch=batch, end=end, counts=counts, totals=totals)
    outputs.put("report.html", page.encode())
    summary = {
        "batch": asdict(batch),
        "stopped": end.stopped,
        "wall_seconds": end.wall_seconds,
        "clips": [asdict(r) for r in end.results],
    }
    outputs.put("results.json", json.dumps(_without_nan(summary), indent=1, allow_nan=False).encode())
    return outputs.name("report.html")


def duration(seconds: float) -> str:
    """For a person: 34.2 s, 12 min, 3.5 h."""
    return (
        f"{seconds:.1f} s"
        if seconds < 120
        else f"{seconds / 60:.0f} min"
        if seconds < 7200
        else f"{seconds / 3600:.1f} h"
    )


def contact_sheet(outputs: Outputs, results: list[ClipResult], most: int = 60, side: int = 128) -> str:
    """Middle frames of the first clips on one JPEG, as a data URI; empty where no clip was made."""
    posters = [outputs.read(result.poster) for result in results if result.poster][:most]
    if not posters:
        return ""
    columns = min(10, len(posters))
    sheet = Image.new("RGB", (columns * side, -(-len(posters) // columns) * side), "#20242b")
    for index, data in enumerate(posters):
        picture = Image.open(io.BytesIO(data))
        picture.thumbnail((side, side))
        sheet.paste(
            picture,
            (
                index % columns * side + (side - picture.width) // 2,
                index // columns * side + (side - picture.height) // 2,
            ),
        )
    buffer = io.BytesIO()
    sheet.save(buffer, "JPEG", quality=75)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def rows_before(outputs: Outputs) -> dict[str, ClipResult]:
    """What the last run there left, by clip id. Raises UserError where there was none."""
    past = outputs.read("results.json")
    if past is None:
        raise UserError(f"--failed: no results.json in {outputs}; run the batch once without it")
    return {clip["id"]: _result(clip) for clip in json.loads(past)["clips"]}


def _result(values: dict) -> ClipResult:
    measures = {name: math.nan if value is None else value for name, value in values["measures"].items()}
    return ClipResult(**values | {"reasons": tuple(values["reasons"]), "measures": measures})


def _without_nan(value):
    """JSON knows neither nan nor infinity: null."""
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
