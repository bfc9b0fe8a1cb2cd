"""Stage `report`: the results of a batch, as an HTML page and as JSON.

Every clip of the manifest has a row, whatever happened to it. The page can be opened from a disk and needs no network.
"""

from __future__ import annotations

import base64
import io
import json
import math
from dataclasses import asdict, dataclass, field

import numpy as np
from jinja2 import Environment, PackageLoader
from PIL import Image, ImageOps

from stereotalker.errors import UserError, error_signature
from stereotalker.media.contact_sheet import grid, split_into_rows
from stereotalker.production.clip_cues import CueOutcome
from stereotalker.production.manifest import Manifest
from stereotalker.production.outputs import Outputs
from stereotalker.validation import as_utf8

_SHEET_COLOR = (0x20, 0x24, 0x2B)  # behind the posters, as the page is
BATCH_FILE = "batch.json"
# Values of ClipResult.shown, the verdicts first.
CLIP_STATES = ("pass", "review", "fail", "failed", "stopped")


@dataclass(frozen=True)
class ClipResult:
    """The result of one clip. It is saved in results.json."""

    id: str
    row: int  # in the manifest, from 1
    state: str  # "done", "failed", or "stopped": the batch ended before, and the next run makes it
    error: str = ""  # one line: what was expected, what came, what to do
    verdict: str = ""  # of the quality gate, if the clip is done: pass, review or fail
    reasons: tuple[str, ...] = ()  # for the verdict, and other notes
    measures: dict[str, float] = field(default_factory=dict)  # of the quality gate
    recognized: str = ""  # what was heard in a recording without a transcript
    cues: tuple[CueOutcome, ...] = ()  # what the speaker was asked to do, and when it is done
    sha256: str = ""  # of the delivered video
    video: str = ""  # name of the file in the outputs; the same for the next four
    poster: str = ""
    preview: str = ""
    record: str = ""
    log: str = ""
    frames: int = 0
    rendered: int = 0  # frames that were rendered, not found in the store
    attempts: int = 1
    seconds: dict[str, float] = field(default_factory=dict)  # of work, by stage
    made: list[str] = field(default_factory=list)  # stages not found in the store; "render" once for each segment
    facts: dict[str, str] = field(default_factory=dict)  # what the clip is, for the page: avatar, size, seed, ...

    @property
    def ok(self) -> bool:
        """Whether the clip was made and did not fail the quality gate."""
        return self.state == "done" and self.verdict != "fail"

    @property
    def shown(self) -> str:
        """The clip's state in one word: the verdict if it was made, else "failed" or "stopped". One of CLIP_STATES."""
        return self.verdict if self.state == "done" else self.state


@dataclass(frozen=True)
class Again:
    """Which clips of the last run are made again. A clip that has no result yet is made in any case."""

    states: frozenset[str] = frozenset()  # some of CLIP_STATES
    clips: frozenset[str] = frozenset()  # ids

    def includes(self, row: ClipResult) -> bool:
        """Whether the clip of this row is made again."""
        return row.shown in self.states or row.id in self.clips

    def previous(self, outputs: Outputs, clips: set[str]) -> dict[str, ClipResult]:
        """The results of the last run. clips: ids of the manifest.

        Raises UserError if there was no run, or if a clip is named that the manifest does not have.
        """
        rows = previous_results(outputs)
        if not rows:
            raise UserError(
                "--status, --failed and --again need the results of an earlier run in --out; there are none"
            )
        if unknown := self.clips - clips:
            raise UserError(f"--again {', '.join(sorted(unknown))}: the manifest has no such clip")
        return rows


@dataclass(frozen=True)
class BatchRecord:
    """The versions of everything that a batch was made with, recorded at its start."""

    name: str
    manifest: str  # path
    started: str  # local time, ISO 8601
    release: str  # digest of the release; empty if the weights belong to none
    release_number: int  # 0 for the package
    models: dict[str, str]  # stage -> SHA-256 of its weights
    code: str  # digest of the source, see store.code.code_version
    commit: str  # of the checkout; empty for an installed package
    params: str  # digest of all parameters


@dataclass(frozen=True)
class BatchSummary:
    """The result of a batch."""

    results: list[ClipResult]  # one for every clip, in the manifest's order
    stopped: str  # why the batch ended early; empty if it did not
    wall_seconds: float
    useful_seconds: float  # workers' time in attempts that succeeded
    lost_seconds: float  # workers' time in attempts that did not
    stopped_by_breaker: bool = False  # whether it stopped because clip after clip failed with the same cause

    def count(self, shown: str) -> int:
        """Number of clips in a state, one of CLIP_STATES."""
        return sum(result.shown == shown for result in self.results)

    @property
    def status(self) -> int:
        """Exit status: 0 all were made and passed; 1 some failed; 3 stopped before the end; 4 some need a review."""
        if any(result.state == "failed" or result.verdict == "fail" for result in self.results):
            return 1
        return 3 if self.count("stopped") else 4 if self.count("review") else 0

    def reasons(self, most: int = 5) -> list[str]:
        """The commonest reasons for clips that did not pass, with the number of clips, the commonest first."""
        texts = [r.error or "; ".join(r.reasons) for r in self.results if r.shown != "pass"]
        found: dict[str, list[str]] = {}
        for text in filter(None, texts):
            found.setdefault(error_signature(text), []).append(text)
        ranked = sorted(found.values(), key=len, reverse=True)[:most]
        return [f"{len(alike)} x {alike[0]}" for alike in ranked]

    def summary(self) -> str:
        """One line of text."""
        counts = [f"{self.count(shown)} {shown}" for shown in CLIP_STATES if self.count(shown)]
        reason = f"; stopped: {self.stopped}" if self.stopped else ""
        return f"{len(self.results)} clips: {', '.join(counts)}{reason}"


def write_report(outputs: Outputs, batch: BatchRecord, end: BatchSummary) -> str:
    """Write report.html and results.json. Returns the path or URL of the page. Raises OSError or Unavailable."""
    templates = Environment(loader=PackageLoader("stereotalker", "assets"), autoescape=True)
    templates.filters["duration"] = duration
    counts = {shown: end.count(shown) for shown in CLIP_STATES if end.count(shown)}
    totals: dict[str, float] = {}
    for stage, seconds in (item for result in end.results for item in result.seconds.items()):
        totals[stage] = totals.get(stage, 0.0) + seconds
    page = templates.get_template("report.html.j2").render(batch=batch, end=end, counts=counts, totals=totals)
    outputs.put("report.html", as_utf8(page).encode())
    summary = {
        "batch": asdict(batch),
        "stopped": end.stopped,
        "wall_seconds": end.wall_seconds,
        "clips": [asdict(r) for r in end.results],
    }
    outputs.put("results.json", json.dumps(without_nan(summary), indent=1, allow_nan=False).encode())
    return outputs.name("report.html")


def write_batch(outputs: Outputs, batch: BatchRecord, has_ended: bool) -> None:
    """Write batch.json, which says with which release a batch began, and whether all its clips have ended."""
    values = asdict(batch) | {"has_ended": has_ended}
    outputs.put(BATCH_FILE, (json.dumps(values, indent=1) + "\n").encode())


def unfinished_batch(outputs: Outputs, manifest: Manifest) -> BatchRecord | None:
    """The record of the batch of this manifest that began in these outputs and has not ended; None if there is none."""
    try:
        values = json.loads(outputs.read(BATCH_FILE) or b"null")
        begun = None if values is None or values.pop("has_ended") else BatchRecord(**values)
        return begun if begun and begun.manifest == str(manifest.path.absolute()) else None
    except (ValueError, KeyError, TypeError):
        return None


def duration(seconds: float) -> str:
    """A duration as text for a person: 34.2 s, 12 min or 3.5 h."""
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def contact_sheet(outputs: Outputs, results: list[ClipResult], most: int = 60, side: int = 128) -> str:
    """The middle frames of the first `most` clips that were made, on one JPEG, as a data URI; empty if there is none.

    side: width and height in px of each cell.
    """
    found = (outputs.read(result.poster) for result in results if result.poster)
    posters = [data for data in found if data is not None][:most]
    if not posters:
        return ""
    pictures = (Image.open(io.BytesIO(data)).convert("RGB") for data in posters)
    tiles = [np.asarray(ImageOps.pad(picture, (side, side), color=_SHEET_COLOR)) for picture in pictures]
    sheet = Image.fromarray(grid(split_into_rows(tiles, min(10, len(tiles))), _SHEET_COLOR))
    buffer = io.BytesIO()
    sheet.save(buffer, "JPEG", quality=75)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def previous_results(outputs: Outputs) -> dict[str, ClipResult]:
    """The results of the last run with the same outputs, by clip id; empty if there was none, or it cannot be read."""
    try:
        clips = json.loads(outputs.read("results.json") or b"{}").get("clips", [])
        return {clip["id"]: _result(clip) for clip in clips}
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}


def _result(values: dict) -> ClipResult:
    """A ClipResult from results.json, where null stands for nan."""
    measures = {name: math.nan if value is None else value for name, value in values["measures"].items()}
    cues = tuple(CueOutcome(**cue) for cue in values.get("cues", ()))
    return ClipResult(**values | {"reasons": tuple(values["reasons"]), "measures": measures, "cues": cues})


def without_nan(value):
    """The value with None in place of nan and infinity, which JSON cannot express."""
    if isinstance(value, dict):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
