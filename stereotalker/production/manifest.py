"""The batch manifest: the record of a clip, its checks, and the reader. All faults are reported at once."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from datetime import datetime, time, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from stereotalker.audio.voices import voice_file
from stereotalker.avatar.background_plate import BACKGROUNDS
from stereotalker.avatar.consent import Consent
from stereotalker.avatar.names import check_safe_id, safe_id
from stereotalker.errors import UserError
from stereotalker.geometry.camera_path import CameraPath
from stereotalker.media.photos import is_picture
from stereotalker.media.stereo import Stereo
from stereotalker.params import hour_of_day
from stereotalker.production.localization import by_language
from stereotalker.production.manifest_files import Row, read_rows
from stereotalker.production.performance import Performance
from stereotalker.production.row_records import Captions, Retake, caption_settings
from stereotalker.production.scene import (
    MAX_SIDE_PX,
    Person,
    check_people,
    check_sizes,
    dialogue,
    layout,
    people_list,
    with_inheritance,
)
from stereotalker.validation import StrictModel, explain, invalid_character, is_text

FILE_ENDINGS = (".mp4", ".mov")  # of videos, without and with a transparent background
REST_POSE = Path("rest")  # what start_pose and end_pose call the resting pose
OLD_NAMES = {"rise": "vertical_shift", "pupils": "ipd_mm"}  # keys of older manifests, which still work


_COLOR = re.compile(r"#[0-9a-fA-F]{6}")
# Memory of a worker: of any, and for each pixel of a frame. Measured after 192 frames (two segments at
# 2,160 px): 1.8 GB at 256 x 256 px, 2.6 GB at 512 x 512, 3.2 GB at 1080 x 1920, 4.5 GB at 2160 x 2160.
WORKER_BYTES, WORKER_BYTES_PER_PIXEL = 2.2e9, 500


class Clip(Performance):
    """One row of the manifest: who speaks, what is said, and how it is filmed.

    Paths (`audio`, poses, pictures) are relative to the manifest's folder.
    """

    id: Annotated[str, AfterValidator(check_safe_id)] = Field(
        description="the clip's name, unique in the manifest; the video becomes clips/ID.mp4"
    )
    avatar: str = Field(
        "", description="a name of the avatar library, or a portrait's file, which is fitted once; not in a scene"
    )
    scene: Annotated[tuple[Person, ...], BeforeValidator(people_list)] = Field(
        (),
        description="several people in one picture, in place of `avatar`; they take over what the row says for all",
    )
    background: str = Field(
        "portrait", description="portrait, blur, transparent (a .mov in ProRes 4444), #rrggbb, or a picture's file"
    )
    loudness: float | None = Field(
        None, ge=-40, le=-5, description="LUFS of the clip's sound; null: that of params.yaml"
    )
    camera: CameraPath = Field(CameraPath(), description="where the camera stands and how it moves")
    captions: Annotated[Captions | None, BeforeValidator(caption_settings)] = Field(
        None,
        description="files: OUT/captions/ID.srt and ID.vtt; burnt: drawn into the pictures, too; or how they are drawn",
    )
    stereo: Stereo | None = Field(None, description="left and right eye in one video; null: one camera")
    # `_agree` refuses sides beyond the maximum, because its message says what they would take.
    width: int = Field(
        256, ge=64, json_schema_extra={"maximum": MAX_SIDE_PX}, description="px, even; of each eye where there are two"
    )
    height: int = Field(
        256, ge=64, json_schema_extra={"maximum": MAX_SIDE_PX}, description="px, even; of each eye where there are two"
    )
    fps: float = Field(
        25.0, ge=5, le=60, description="frames a second; 23.976, 29.97 and 59.94 are written as broadcast rates"
    )
    retakes: tuple[Retake, ...] = Field((), description="stretches that are rendered again; the rest is found")
    priority: int = Field(0, description="clips with a higher number are made first")
    deadline: Annotated[datetime | time | None, BeforeValidator(hour_of_day)] = Field(
        None,
        description="local time HH:MM, or date and time YYYY-MM-DD HH:MM; a date alone means its first minute. "
        "Among equal priorities the earlier comes first",
    )

    @model_validator(mode="before")
    @classmethod
    def _inherit(cls, values: Any) -> Any:
        return with_inheritance(values)

    @model_validator(mode="after")
    def _agree(self):
        if any(b.start < a.end for a, b in pairwise(sorted(self.retakes, key=lambda take: take.start))):
            raise ValueError("retakes must not overlap")
        if self.scene:
            self._check_scene()
        elif not self.avatar:
            raise ValueError("avatar: expected a name of the avatar library, or a portrait's file")
        elif self.audio is None and self.script is None:
            raise ValueError("give audio or script, one of them")
        if self.captions and all(person.transcript == "none" for person in self.scene or [self]):
            raise ValueError("captions need words: give a transcript, or leave transcript: none out")
        if (
            self.background not in BACKGROUNDS
            and not _COLOR.fullmatch(self.background)
            and not is_picture(self.background)
        ):
            raise ValueError(
                f"background {self.background!r} is unknown; expected {', '.join(BACKGROUNDS)}, "
                "a colour like #20304a or a picture's file"
            )
        if self.stereo and self.background == "transparent":
            raise ValueError(
                "a transparent clip has one camera: players know no stereo of ProRes; leave out stereo or transparent"
            )
        if max(self.width, self.height) > MAX_SIDE_PX:
            gigabytes = (WORKER_BYTES + WORKER_BYTES_PER_PIXEL * self.width * self.height) / 1e9
            raise ValueError(
                f"{self.width} x {self.height} px: a side has at most {MAX_SIDE_PX} px; a worker would take about"
                f" {gigabytes:.0f} GB of memory for frames of that size"
            )
        if self.width % 2 or self.height % 2:
            raise ValueError(f"width {self.width} and height {self.height} must be even, as H.264 needs")
        return self

    def _check_scene(self) -> None:
        """Raise ValueError for a scene that cannot be."""
        for key in ("avatar", "consent", "cues"):
            if getattr(self, key):
                raise ValueError(f"{key} stands beside scene; give it to one of the people")
        if self.stereo:
            raise ValueError("a scene has one camera; leave out stereo or scene")
        check_people(self.scene, self.script)
        check_sizes(self.scene, (self.height, self.width))

    @property
    def people(self) -> tuple[Clip, ...]:
        """A clip for each person of a scene, as it is filmed alone: transparent, and in the size that it has there.

        Somebody who says nothing has an empty script. A clip that is no scene shows one person: itself.
        """
        if not self.scene:
            return (self,)
        lines = dialogue(self.script or "", self.scene)
        return tuple(self._alone(k, [line.text for line in lines if line.person == k]) for k in range(len(self.scene)))

    def _alone(self, number: int, lines: list[str]) -> Clip:
        """The clip of a person of a scene."""
        person, box = self.scene[number], layout(self.scene, (self.height, self.width))[number]
        own = {name: getattr(person, name) for name in Performance.model_fields}
        if person.audio is None and person.script is None:
            own["script"] = "\n".join(lines)
        size = {"height": box.height, "width": box.width}
        filmed = {
            "id": f"{self.id}.{safe_id(person.label)}",
            "scene": (),
            "background": "transparent",
            "captions": None,
        }
        return self.model_copy(update=own | size | filmed)

    @property
    def video_size(self) -> tuple[int, int]:
        """(height, width) of the video in px. The video of a stereoscopic clip holds both eyes."""
        rows, columns = {None: (1, 1), "side-by-side": (1, 2), "over-under": (2, 1)}[
            self.stereo.layout if self.stereo else None
        ]
        return self.height * rows, self.width * columns

    @property
    def pixels(self) -> int:
        """Number of pixels in one frame of the video."""
        return self.video_size[0] * self.video_size[1]

    @property
    def rendered_pixels(self) -> int:
        """Number of pixels that are rendered for one frame: of each person of a scene."""
        return sum(alone.pixels for alone in self.people)

    @property
    def has_alpha(self) -> bool:
        """Whether the video has a transparent background."""
        return self.background == "transparent"

    @property
    def file_name(self) -> str:
        """Name of the video. H.264 has no transparency, so a transparent clip is ProRes 4444 in a .mov."""
        return self.id + FILE_ENDINGS[self.has_alpha]


class Manifest(StrictModel):
    """The clips of a batch."""

    path: Path
    clips: tuple[Clip, ...]
    notes: tuple[str, ...] = ()  # what the manifest's author should know: keys with newer names

    def in_order(self, now: datetime) -> list[tuple[int, Clip]]:
        """(row, clip) in the order of work: by priority, then deadline, then the manifest's order."""
        rows = enumerate(self.clips, 1)
        return sorted(rows, key=lambda item: (-item[1].priority, due(item[1], now) or datetime.max, item[0]))


def due(clip: Clip, now: datetime) -> datetime | None:
    """A clip's deadline as a local date and time; a time of day means the next one."""
    if clip.deadline is None or isinstance(clip.deadline, datetime):
        return (
            clip.deadline.astimezone().replace(tzinfo=None) if clip.deadline and clip.deadline.tzinfo else clip.deadline
        )
    moment = datetime.combine(now, clip.deadline)
    return moment if moment > now else moment + timedelta(days=1)


def read_manifest(path: Path) -> Manifest:
    """Read .yaml/.yml (defaults and clips), .jsonl (a clip a line) or .csv (a clip a row).

    Raises UserError with every fault at once, each with file, row and clip id.
    """
    if not is_text(str(path)):
        raise UserError(f"{str(path)!a}: the path of the manifest is not UTF-8; rename the file or its folder")
    rows, faults = read_rows(path)
    clips: list[Clip] = []
    row_of: dict[str, int] = {}
    for row in _in_all_languages(path, rows, faults):
        name = row.values.get("id")
        where = f"{path}, row {row.number}, clip {name!r}" if name else f"{path}, row {row.number}"
        unknown = [key for key in row.values if key not in Clip.model_fields]
        expected = ", ".join(Clip.model_fields)
        faults += [f"{where}: unknown key {key!r}; expected one of {expected}" for key in unknown]
        if bad := {key: value for key, value in row.values.items() if not is_text(value)}:
            faults += [f"{where}: {key} holds {invalid_character(value)}; remove it" for key, value in bad.items()]
            continue
        if isinstance(name, str) and name in row_of:
            faults.append(f"{where}: id is already taken by row {row_of[name]}; ids must differ")
        try:
            clips.append(Clip.model_validate({key: value for key, value in row.values.items() if key not in unknown}))
        except ValidationError as error:
            faults += list(dict.fromkeys(f"{where}: {_explain(fault, row)}" for fault in error.errors()))
        if isinstance(name, str):
            row_of.setdefault(name, row.number)
    if not rows and not faults:
        faults.append(f"{path}: no clips; expected at least one")
    if faults:
        raise UserError("\n".join(faults))
    located = tuple(_with_paths_from(clip, path.parent) for clip in clips)
    return Manifest(path=path, clips=located, notes=tuple(_old_names([row.values for row in rows])))


def _in_all_languages(path: Path, rows: list[Row], faults: list[str]) -> Iterator[Row]:
    """The rows of a manifest, each once for every language that it is spoken in. Faults are added to the list."""
    for row in rows:
        found, wrong = by_language(row)
        faults += [f"{path}, row {row.number}, clip {row.values.get('id')!r}: {fault}" for fault in wrong]
        yield from found


def _explain(fault: ErrorDetails, row: Row) -> str:
    """One line for a fault of a row. Where YAML made something else of an unquoted text, it says so."""
    key = str(fault["loc"][0]) if fault["loc"] else ""
    if key == "deadline":  # pydantic has two faults, for a date with a time and for a time of day
        return f"deadline: expected HH:MM, or YYYY-MM-DD HH:MM, got {row.values.get('deadline')!r}"
    if fault["type"] == "string_type" and key in row.spelled:
        spelled = row.spelled[key]
        return f'{key}: YAML reads {spelled} as {row.values[key]!r}; put it in quotes: "{spelled}"'
    value = fault.get("input")
    if fault["type"] in ("float_parsing", "int_parsing") and isinstance(value, str) and "," in value:
        return f"{explain(fault)}; write {value.replace(',', '.')}"
    return explain(fault)


def _old_names(value: Any) -> list[str]:
    """Notes on the older names of keys that are used anywhere in the rows."""
    used = {old for old in OLD_NAMES if _has_key(value, old)}
    return [f"the key `{old}` is now called `{OLD_NAMES[old]}`; the older name still works" for old in sorted(used)]


def _has_key(value: Any, key: str) -> bool:
    if isinstance(value, dict):
        return key in value or any(_has_key(item, key) for item in value.values())
    return isinstance(value, list) and any(_has_key(item, key) for item in value)


def emotion_key(text: str) -> dict[str, str]:
    """NAME, NAME:AMOUNT, TIME:NAME or TIME:NAME:AMOUNT -> an EmotionKey's fields. Raises UserError."""
    parts = text.split(":") if text[:1].isdigit() else ["0", *text.split(":")]
    if not 2 <= len(parts) <= 3:
        raise UserError(f"emotion {text!r}; expected NAME or TIME:NAME:AMOUNT, like happy or 2.5:happy:0.6")
    return dict(zip(("time", "name", "amount"), parts, strict=False))  # the amount may be left out


def consent_of(holder: str | None, scope: str | None, expires: str | None) -> Consent | None:
    """Consent from the options of a command line; None if no option is given. Raises UserError."""
    if holder is None and scope is None and expires is None:
        return None
    try:
        return Consent.model_validate({"holder": holder, "scope": scope, "expires": expires})
    except ValidationError as error:
        raise UserError("\n".join(f"consent {explain(fault)}" for fault in error.errors())) from None


def single_clip(name: str, values: dict) -> Clip:
    """A clip without manifest and avatar, for its motion alone. Raises UserError with every fault."""
    try:
        return Clip.model_validate({"id": safe_id(name), "avatar": "none"} | values)
    except ValidationError as error:
        raise UserError("\n".join(explain(fault) for fault in error.errors())) from None


def _with_paths_from(clip: Clip, folder: Path) -> Clip:
    """The clip with paths that no longer depend on the working directory: relative ones are taken from `folder`."""
    changes: dict[str, Any] = _own_paths(clip, folder)
    if is_picture(clip.background):
        changes["background"] = str(_existing_spelling(folder.absolute() / clip.background))
    if clip.captions and clip.captions.font:
        font = _existing_spelling(folder.absolute() / clip.captions.font)
        changes["captions"] = clip.captions.model_copy(update={"font": font})
    if clip.scene:
        changes["scene"] = tuple(person.model_copy(update=_own_paths(person, folder)) for person in clip.scene)
    return clip.model_copy(update=changes)


def _own_paths(performance: Performance, folder: Path) -> dict[str, Any]:
    """The paths of a clip or of a person of a scene, taken from `folder`, by key."""
    named = {name: getattr(performance, name) for name in ("audio", "start_pose", "end_pose")}
    paths: dict[str, Any] = {
        name: _existing_spelling(folder.absolute() / path)
        for name, path in named.items()
        if path is not None and path != REST_POSE
    }
    if is_picture(performance.avatar):
        paths["avatar"] = str(_existing_spelling(folder.absolute() / performance.avatar))
    if own := voice_file(performance.voice):
        paths["voice"] = own[0] + str(_existing_spelling(folder.absolute() / own[1]))
    return paths


def _existing_spelling(path: Path) -> Path:
    """The path, or that of the file beside it whose name differs only in how Unicode composes its letters.

    macOS names files with letters and accents apart, and most editors write them as one.
    """
    if path.exists() or not path.parent.is_dir():
        return path
    wanted = unicodedata.normalize("NFC", path.name)
    alike = [other for other in path.parent.iterdir() if unicodedata.normalize("NFC", other.name) == wanted]
    return alike[0] if len(alike) == 1 else path
