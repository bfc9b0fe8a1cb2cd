"""The batch manifest: YAML, JSONL or CSV -> clips. Every fault is reported at once, with file, row and clip id."""

from __future__ import annotations

import csv
import json
import re
from datetime import datetime, time, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, model_validator

from stereotalker.acting.reference_acting import STYLE_INDEX
from stereotalker.avatar.consent import Consent
from stereotalker.avatar.names import check_safe_id, safe_id
from stereotalker.errors import UserError
from stereotalker.geometry.camera_path import CameraPath
from stereotalker.media.photos import is_picture
from stereotalker.media.stereo import Stereo
from stereotalker.params import hour_of_day
from stereotalker.validation import StrictModel

_JSON_COLUMNS = ("camera.points", "retakes", "emotion")  # of a CSV file
REST_POSE = Path("rest")


class Retake(StrictModel):
    """A stretch of the clip that is rendered again with another seed or camera; the rest stays as it was."""

    start: float = Field(ge=0, description="s")
    end: float = Field(gt=0, description="s")
    seed: int | None = Field(None, ge=0)
    camera: CameraPath | None = None

    @model_validator(mode="after")
    def _agree(self):
        if self.end <= self.start:
            raise ValueError(f"retake must end after its start, got {self.start:g} to {self.end:g} s")
        if self.seed is None and self.camera is None:
            raise ValueError("retake needs a seed or a camera, or both")
        return self

    def frames(self, fps: float, frames: int) -> tuple[int, int]:
        """Its first frame, and the one behind its last, of a clip of so many."""
        return round(self.start * fps), min(round(self.end * fps), frames)


class EmotionKey(StrictModel):
    """From `time` on the face is `name`."""

    time: float = Field(0.0, ge=0, description="s")
    name: Literal["neutral", "happy", "serious"]
    amount: float = Field(1.0, ge=0, le=1)


def _emotion_keys(value):
    """A name alone holds from the start."""
    return [{"name": value}] if isinstance(value, str) else value


BACKGROUNDS = ("portrait", "blur", "transparent")
_COLOUR = re.compile(r"#[0-9a-fA-F]{6}")


class Clip(StrictModel):
    """One row of the manifest. `script` is spoken by `voice` in `language`; `audio` and poses are paths relative to the manifest."""

    id: Annotated[str, AfterValidator(check_safe_id)]
    avatar: str = Field(description="a name of the library, or a portrait's file, which is fitted once")
    consent: Consent | None = Field(None, description="of a portrait's file; an avatar of the library has its own")
    arms: Literal["auto", "invent"] = Field(
        "auto", description="auto: of a portrait without hands the arms stay as they are; invent: they move"
    )
    background: str = Field(
        "portrait", description="portrait, blur, transparent (a .mov in ProRes 4444), #rrggbb, or a picture's file"
    )
    audio: Path | None = None
    script: str | None = None
    transcript: str | None = Field(None, description="what is said in `audio`, in `language`")
    language: str = "en-us"
    voice: str = ""
    rate: int = Field(165, ge=80, le=400, description="words a minute")
    camera: CameraPath = CameraPath()
    stereo: Stereo | None = Field(None, description="left and right eye in one video; null: one camera")
    width: int = Field(256, ge=64, le=1024)
    height: int = Field(256, ge=64, le=1024)
    fps: float = Field(25.0, ge=5, le=60)
    seed: int = Field(0, ge=0)
    gesture: float = Field(1.0, ge=0, le=2)
    style: str | None = Field(None, description="a personality of people.acting; null: the avatar's")
    gaze: Literal["free", "camera"] = "free"
    body: Literal["moving", "still"] = "moving"
    emotion: Annotated[tuple[EmotionKey, ...], BeforeValidator(_emotion_keys)] = ()
    start_pose: Path | None = Field(None, description="`rest`, or a motion .npz whose last frame the clip begins in")
    end_pose: Path | None = Field(None, description="`rest`, or a motion .npz whose first frame the clip ends in")
    retakes: tuple[Retake, ...] = ()
    priority: int = Field(0, description="higher goes first")
    deadline: Annotated[datetime | time | None, BeforeValidator(hour_of_day)] = Field(
        None, description="local; among equal priorities the earlier goes first"
    )

    @model_validator(mode="after")
    def _agree(self):
        if any(b.start < a.end for a, b in pairwise(sorted(self.retakes, key=lambda take: take.start))):
            raise ValueError("retakes must not overlap")
        if (self.audio is None) == (self.script is None):
            raise ValueError("give audio or script, one of them")
        if self.transcript is not None and self.audio is None:
            raise ValueError("transcript is what is said in an audio file; a script needs none")
        if (
            self.background not in BACKGROUNDS
            and not _COLOUR.fullmatch(self.background)
            and not is_picture(self.background)
        ):
            raise ValueError(
                f"background {self.background!r} is unknown; expected {', '.join(BACKGROUNDS)}, a colour like #20304a or a picture's file"
            )
        if self.consent is not None and not is_picture(self.avatar):
            raise ValueError(
                "consent beside an avatar of the library, which has its own; give it with a portrait's file"
            )
        if self.style is not None and self.style not in STYLE_INDEX:
            raise ValueError(f"style {self.style!r} is unknown; expected one of {', '.join(STYLE_INDEX)}")
        if self.body == "still" and self.end_pose is not None:
            raise ValueError("a body that is still keeps the pose it begins in: give end_pose or body still, not both")
        if any(b.time <= a.time for a, b in pairwise(self.emotion)):
            raise ValueError("emotion key frames must have rising times")
        if self.stereo and self.background == "transparent":
            raise ValueError(
                "a transparent clip has one camera: players know no stereo of ProRes; leave out stereo or transparent"
            )
        if self.width % 2 or self.height % 2:
            raise ValueError(f"width {self.width} and height {self.height} must be even, as H.264 needs")
        return self

    @property
    def video_size(self) -> tuple[int, int]:
        """(height, width) px of the file: both eyes' where there are two."""
        down, across = {None: (1, 1), "side-by-side": (1, 2), "over-under": (2, 1)}[self.stereo and self.stereo.layout]
        return self.height * down, self.width * across

    @property
    def pixels(self) -> int:
        """Of a frame of the file."""
        return self.video_size[0] * self.video_size[1]

    @property
    def file_name(self) -> str:
        """Of its video: H.264 knows no transparency."""
        return f"{self.id}.{'mov' if self.background == 'transparent' else 'mp4'}"


class Manifest(StrictModel):
    path: Path
    clips: tuple[Clip, ...]

    def in_order(self, now: datetime) -> list[tuple[int, Clip]]:
        """(row, clip) as they are to be made: priority, then deadline, then the manifest's order."""
        rows = enumerate(self.clips, 1)
        return sorted(rows, key=lambda item: (-item[1].priority, due(item[1], now) or datetime.max, item[0]))


def due(clip: Clip, now: datetime) -> datetime | None:
    """A clip's deadline as a moment; a time of day is the next one."""
    if clip.deadline is None or isinstance(clip.deadline, datetime):
        return (
            clip.deadline.astimezone().replace(tzinfo=None) if clip.deadline and clip.deadline.tzinfo else clip.deadline
        )
    moment = datetime.combine(now, clip.deadline)
    return moment if moment > now else moment + timedelta(days=1)


def read_manifest(path: Path) -> Manifest:
    """Read .yaml/.yml (defaults + clips), .jsonl (a clip a line) or .csv (a clip a row). Raises UserError with every fault."""
    readers = {".yaml": _yaml_rows, ".yml": _yaml_rows, ".jsonl": _jsonl_rows, ".csv": _csv_rows}
    if not path.is_file():
        raise UserError(f"{path}: manifest not found; expected a .yaml, .jsonl or .csv file")
    if path.suffix.lower() not in readers:
        raise UserError(f"{path}: a manifest ends in .yaml, .jsonl or .csv, not {path.suffix!r}")
    try:
        rows, faults = readers[path.suffix.lower()](path)
    except (yaml.YAMLError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: not readable as {path.suffix[1:]}: {' '.join(str(error).split())}") from None
    clips: list[Clip] = []
    seen: dict[str, int] = {}
    for row, values in rows:
        name = values.get("id")
        where = f"{path}, row {row}, clip {name!r}" if name else f"{path}, row {row}"
        faults += [
            f"{where}: unknown key {key!r}; expected one of {', '.join(Clip.model_fields)}"
            for key in values
            if key not in Clip.model_fields
        ]
        if isinstance(name, str) and name in seen:
            faults.append(f"{where}: id is already taken by row {seen[name]}; ids must differ")
        try:
            clips.append(Clip.model_validate({key: value for key, value in values.items() if key in Clip.model_fields}))
        except ValidationError as error:
            faults += [f"{where}: {_explain(fault)}" for fault in error.errors()]
        if isinstance(name, str):
            seen.setdefault(name, row)
    if not rows and not faults:
        faults.append(f"{path}: no clips; expected at least one")
    if faults:
        raise UserError("\n".join(faults))
    return Manifest(path=path, clips=tuple(_located(clip, path.parent) for clip in clips))


def emotion_key(text: str) -> dict[str, str]:
    """NAME, NAME:AMOUNT, TIME:NAME or TIME:NAME:AMOUNT -> an EmotionKey's fields. Raises UserError."""
    parts = text.split(":") if text[:1].isdigit() else ["0", *text.split(":")]
    if not 2 <= len(parts) <= 3:
        raise UserError(f"emotion {text!r}; expected NAME or TIME:NAME:AMOUNT, like happy or 2.5:happy:0.6")
    return dict(zip(("time", "name", "amount"), parts, strict=False))  # the amount may be left out


def consent_of(holder: str | None, scope: str | None, expires: str | None) -> Consent | None:
    """From what a command line says; None where it says nothing. Raises UserError."""
    if holder is None and scope is None and expires is None:
        return None
    try:
        return Consent.model_validate({"holder": holder, "scope": scope, "expires": expires})
    except ValidationError as error:
        raise UserError("\n".join(f"consent {_explain(fault)}" for fault in error.errors())) from None


def single_clip(name: str, values: dict) -> Clip:
    """A clip of no manifest and no avatar. Raises UserError with every fault."""
    try:
        return Clip.model_validate({"id": safe_id(name), "avatar": "none"} | values)
    except ValidationError as error:
        raise UserError("\n".join(_explain(fault) for fault in error.errors())) from None


def _explain(fault: dict) -> str:
    field = ".".join(str(part) for part in fault["loc"])
    if fault["type"] == "extra_forbidden":
        return f"unknown key {field!r}"
    if fault["type"] == "missing":
        return f"{field} is missing"
    got = "" if isinstance(fault.get("input"), dict) else f" (got {fault.get('input')!r})"
    told = (
        "expected keys and their values"
        if fault["type"] == "model_type"
        else fault["msg"].removeprefix("Value error, ")
    )
    return f"{field + ': ' if field else ''}{told}{got}"


def _located(clip: Clip, folder: Path) -> Clip:
    named = {name: getattr(clip, name) for name in ("audio", "start_pose", "end_pose")}
    moved = {
        name: folder / path
        for name, path in named.items()
        if path is not None and path != REST_POSE and not path.is_absolute()
    }
    pictures = {
        name: str(folder / getattr(clip, name)) for name in ("avatar", "background") if is_picture(getattr(clip, name))
    }
    return clip.model_copy(update=moved | pictures)


def _yaml_rows(path: Path) -> tuple[list[tuple[int, dict]], list[str]]:
    content = yaml.safe_load(path.read_text())
    if not isinstance(content, dict) or not isinstance(content.get("clips"), list):
        return [], [f"{path}: expected a mapping with `clips:` (a list) and, if wanted, `defaults:`"]
    defaults = content.get("defaults") or {}
    faults = [
        f"{path}: unknown key {key!r} beside defaults and clips" for key in content if key not in ("defaults", "clips")
    ]
    if not isinstance(defaults, dict):
        return [], [*faults, f"{path}: defaults must be a mapping"]
    rows = []
    for number, entry in enumerate(content["clips"], 1):
        if isinstance(entry, dict):
            rows.append((number, {**{k: v for k, v in defaults.items() if not _overruled(k, entry)}, **entry}))
        else:
            faults.append(f"{path}, row {number}: expected a mapping of a clip's keys, got {entry!r}")
    return rows, faults


def _overruled(key: str, entry: dict) -> bool:
    """A default audio gives way to a clip's script, and the other way round."""
    return (key == "audio" and "script" in entry) or (key == "script" and "audio" in entry)


def _jsonl_rows(path: Path) -> tuple[list[tuple[int, dict]], list[str]]:
    rows, faults = [], []
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), 1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
        except json.JSONDecodeError as error:
            faults.append(f"{path}, row {number}: not JSON: {error.msg} at column {error.colno}")
            continue
        if isinstance(entry, dict):
            rows.append((number, entry))
        else:
            faults.append(f"{path}, row {number}: expected an object of a clip's keys, got {line.strip()[:40]!r}")
    return rows, faults


def _csv_rows(path: Path) -> tuple[list[tuple[int, dict]], list[str]]:
    """Columns are a clip's keys; `camera.azimuth` reaches inside; an empty cell takes the key's default."""
    rows, faults = [], []
    with open(path, newline="", encoding="utf-8-sig") as file:
        for number, cells in enumerate(csv.DictReader(file), 2):
            if cells.pop(None, None) is not None or None in cells.values():
                faults.append(
                    f"{path}, row {number}, clip {cells.get('id')!r}: the number of cells differs from the header's"
                )
                continue
            values: dict[str, Any] = {}
            for column, cell in cells.items():
                if cell == "" and column != "script":
                    continue
                if cell == "" and cells.get("audio"):
                    continue
                try:
                    value = json.loads(cell) if column in _JSON_COLUMNS and cell.lstrip()[:1] in "[{" else cell
                except json.JSONDecodeError as error:
                    faults.append(f"{path}, row {number}, clip {cells.get('id')!r}: {column}: not JSON: {error.msg}")
                    continue
                first, _, second = column.partition(".")
                if second and isinstance(values.setdefault(first, {}), dict):
                    values[first][second] = value
                else:
                    values[first] = value
            rows.append((number, values))
    return rows, faults
