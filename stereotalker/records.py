"""Frozen records that the stages exchange. They are checked when they are created, and saved as safetensors files.

Nothing is ever pickled. A record whose array has another dtype or shape than documented raises UserError.
T frames, V vertices, H x W pixels, B shape coefficients, S samples. There are 55 joints and 52 facial actions.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import safetensors
import safetensors.numpy

from stereotalker.errors import UserError
from stereotalker.smplx_layout import ACTIONS, JOINTS

SAMPLE_RATE = 16_000  # of every Speech, Hz
# The only key of a file's metadata. safetensors writes several keys in an order that changes, so that equal records
# would give different bytes.
HEADER = "stereotalker"


@dataclass(frozen=True)
class Timed:
    """A word or a phoneme, and when it is spoken."""

    text: str
    start: float  # s
    end: float  # s


@dataclass(frozen=True)
class Speech:
    """The speech of a clip."""

    samples: np.ndarray  # f32 [S] at SAMPLE_RATE, within -1..1
    loudness: float  # LUFS after normalisation; -inf for silence
    words: tuple[Timed, ...] = ()  # empty if they are unknown
    # In order of time; in IPA from espeak-ng and in ARPAbet from forced alignment. Empty if they are unknown.
    phonemes: tuple[Timed, ...] = ()
    recognized: str = ""  # what was heard in a recording without a transcript; empty if nothing, or if it has one
    recognized_language: str = ""  # of that text, as Whisper names it
    unaligned: tuple[tuple[float, float], ...] = ()  # start and end, s, of speech whose words have no times
    unaligned_reason: str = ""  # why they have none, for people

    def __post_init__(self):
        _check(self, samples=(np.float32, (None,)))
        if not np.isfinite(self.samples).all():
            raise UserError(
                "speech holds NaN or infinite samples; expected numbers within -1..1: export the file again"
            )

    @property
    def seconds(self) -> float:
        """Length in s."""
        return len(self.samples) / SAMPLE_RATE


@dataclass(frozen=True)
class Motion:
    """The motion of a body."""

    poses: np.ndarray  # f32 [T, 55, 3] axis-angle rad, SMPL-X joint order
    expression: np.ndarray  # f32 [T, 52] in 0..1, ARKit actions
    trans: np.ndarray  # f32 [T, 3] m, translation of the body
    fps: float  # frames a second
    expression_basis: str = "arkit52"

    def __post_init__(self):
        T = len(self.poses)
        _check(
            self,
            poses=(np.float32, (T, len(JOINTS), 3)),
            expression=(np.float32, (T, len(ACTIONS))),
            trans=(np.float32, (T, 3)),
        )

    @classmethod
    def still(cls, poses: np.ndarray, expression: np.ndarray) -> Motion:
        """A motion of one frame, from a pose f32 [55, 3] and actions f32 [52]. Its frame rate has no meaning."""
        return cls(poses[None], expression[None], np.zeros((1, 3), np.float32), 25.0)

    def frames(self, start: int, stop: int) -> Motion:
        """The frames start..stop-1."""
        return Motion(self.poses[start:stop], self.expression[start:stop], self.trans[start:stop], self.fps)


@dataclass(frozen=True)
class Camera:
    """The camera of every frame."""

    intrinsics: np.ndarray  # f32 [T, 3, 3] px
    extrinsics: np.ndarray  # f32 [T, 4, 4] world -> camera, OpenCV axes, m
    azimuth: np.ndarray  # f32 [T] degrees
    elevation: np.ndarray  # f32 [T] degrees
    size: tuple[int, int]  # (height, width) px

    def __post_init__(self):
        T = len(self.azimuth)
        _check(
            self,
            intrinsics=(np.float32, (T, 3, 3)),
            extrinsics=(np.float32, (T, 4, 4)),
            azimuth=(np.float32, (T,)),
            elevation=(np.float32, (T,)),
        )

    def frames(self, start: int, stop: int) -> Camera:
        """The frames start..stop-1."""
        cut = slice(start, stop)
        height, width = self.size
        return Camera(
            self.intrinsics[cut], self.extrinsics[cut], self.azimuth[cut], self.elevation[cut], (height, width)
        )


@dataclass(frozen=True)
class Avatar:
    """A person who can be animated: the portrait, the body fitted to it, and the portrait's camera."""

    name: str
    portrait: np.ndarray  # u8 [H, W, 3] sRGB
    background: np.ndarray  # u8 [BH, BW, 3], the portrait without the person, as large as the portrait or larger
    regions: np.ndarray  # u8 [H, W], indices into smplx_layout.REGIONS
    betas: np.ndarray  # f32 [B], shape coefficients
    surface: np.ndarray  # f16 [V, 3] m, offsets from the body in the rest pose to the surface of clothes and hair
    poses: np.ndarray  # f32 [55, 3] axis-angle rad, of the portrait
    expression: np.ndarray  # f32 [52] in 0..1, of the portrait
    intrinsics: np.ndarray  # f32 [3, 3] px, of the portrait's camera
    extrinsics: np.ndarray  # f32 [4, 4] world -> camera, OpenCV axes, m
    target: np.ndarray  # f32 [3] m, the point at which cameras look
    style: int  # index of the acting style in acting.reference_acting.STYLES
    # "synthetic"; or "portrait" for a real person, whose consent is on the avatar's card or in the manifest.
    origin: str
    # Whether the portrait shows a hand, and its arms are not crossed; if not, the arms of a clip hardly move.
    arms: bool = True
    # u8 [PH, PW, 3] sRGB, the picture that the portrait was scaled down from, for frames larger than the portrait.
    photo: np.ndarray | None = None

    def __post_init__(self):
        H, W = self.portrait.shape[:2]
        _check(
            self, portrait=(np.uint8, (H, W, 3)), background=(np.uint8, (None, None, 3)), regions=(np.uint8, (H, W)),
            betas=(np.float32, (None,)), surface=(np.float16, (None, 3)), poses=(np.float32, (len(JOINTS), 3)),
            expression=(np.float32, (len(ACTIONS),)), intrinsics=(np.float32, (3, 3)), extrinsics=(np.float32, (4, 4)),
            target=(np.float32, (3,)),
        )  # fmt: skip
        if self.photo is not None:
            _check(self, photo=(np.uint8, (None, None, 3)))
        for name in ("background", "photo"):
            picture = getattr(self, name)
            if picture is not None and not _is_enlarged(picture.shape[:2], (H, W)):
                raise UserError(
                    f"Avatar.{name}: expected the portrait's {H} x {W} px or an enlargement of it, got "
                    f"{picture.shape[0]} x {picture.shape[1]}"
                )


@dataclass(frozen=True)
class Control:
    """The control maps of every frame, which condition the renderer. They are computed without any network."""

    warp: np.ndarray  # u8 [T, H, W, 3], reference warp: the portrait on the moved body, over the background plate
    # u8 [T, H, W]: 255 where the portrait shows this surface, less where its color is estimated (see
    # control.reference_warp), 0 outside the person.
    visibility: np.ndarray
    normals: np.ndarray  # u8 [T, H, W, 3], normals in camera space; 128 stands for 0; all zero outside the person
    labels: np.ndarray  # u8 [T, H, W], region labels of the body's surface and of hair beside it, as in the portrait
    plate: np.ndarray  # u8 [T, H, W, 3], the background plate as this camera shows it
    coverage: np.ndarray  # u8 [T, H, W], share of a pixel that the person covers in the warp, of 255
    azimuth: np.ndarray  # f32 [T] degrees
    elevation: np.ndarray  # f32 [T] degrees

    def __post_init__(self):
        T, H, W = self.labels.shape
        image = (np.uint8, (T, H, W, 3))
        _check(
            self, warp=image, normals=image, plate=image, visibility=(np.uint8, (T, H, W)),
            labels=(np.uint8, (T, H, W)), coverage=(np.uint8, (T, H, W)),
            azimuth=(np.float32, (T,)), elevation=(np.float32, (T,)),
        )  # fmt: skip

    def frames(self, start: int, stop: int) -> Control:
        """The maps of frames start..stop-1: views."""
        return Control(*(getattr(self, field.name)[start:stop] for field in fields(self)))

    def part(self, rows: slice, columns: slice) -> Control:
        """The same maps of a part of the picture: views."""
        names = "warp", "visibility", "normals", "labels", "plate", "coverage"
        return replace(self, **{name: getattr(self, name)[:, rows, columns] for name in names})


# Largest relative difference of the aspect ratios of a picture and its reduced form, whose sides are whole pixels.
_MAX_ASPECT_ERROR = 0.01

Record = TypeVar("Record")


def save(record, path: Path) -> None:
    """Write a record to a safetensors file. Arrays become tensors; all other fields go into the header as JSON."""
    values = {field.name: getattr(record, field.name) for field in fields(record)}
    arrays = {name: np.ascontiguousarray(v) for name, v in values.items() if isinstance(v, np.ndarray)}
    others = {name: _to_json(v) for name, v in values.items() if name not in arrays}
    safetensors.numpy.save_file(
        arrays, path, metadata={HEADER: json.dumps({"record": type(record).__name__, "fields": others})}
    )


def load(kind: type[Record], path: Path) -> Record:
    """Read a record of the given class.

    Raises UserError for a record of another class or with wrong arrays, TypeError if fields are missing or unknown.
    """
    with safetensors.safe_open(path, framework="np") as file:
        arrays = {name: file.get_tensor(name) for name in file.keys()}
        return _record(kind, arrays, file.metadata() or {}, path)


def load_bytes(kind: type[Record], data: bytes, path: Path) -> Record:
    """As `load`, from the bytes of the file at `path`, which were read before."""
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return _record(kind, safetensors.numpy.load(data), header.get("__metadata__", {}), path)


def _record(kind: type[Record], arrays: dict[str, np.ndarray], metadata: dict[str, str], path: Path) -> Record:
    """The record with the arrays and the metadata of a file."""
    header = json.loads(metadata.get(HEADER, "{}"))
    if header.get("record") != kind.__name__:
        raise UserError(f"{path}: expected a saved {kind.__name__}, found {header.get('record', 'no record')!r}")
    values = arrays | header["fields"]
    for name in ("words", "phonemes"):
        if name in values:
            values[name] = tuple(Timed(*item) for item in values[name])
    if "unaligned" in values:
        values["unaligned"] = tuple((start, end) for start, end in values["unaligned"])
    if "size" in values:
        values["size"] = tuple(values["size"])
    return kind(**values)


def _to_json(value):
    """A field's value as JSON can hold it: tuples of Timed become lists."""
    return (
        [[t.text, t.start, t.end] for t in value]
        if isinstance(value, tuple) and value and isinstance(value[0], Timed)
        else value
    )


def _is_enlarged(size: tuple[int, int], small: tuple[int, int]) -> bool:
    """Whether a size (height, width) px is not smaller than another, with the same aspect ratio but for rounding."""
    aspect_ratios = size[0] / size[1], small[0] / small[1]
    is_large = size[0] >= small[0] and size[1] >= small[1]
    return is_large and abs(aspect_ratios[0] / aspect_ratios[1] - 1) <= _MAX_ASPECT_ERROR


def _check(record, **expected) -> None:
    """Raise UserError for an array of another dtype or shape. expected: field -> (dtype, shape); None is any length."""
    for name, (dtype, shape) in expected.items():
        value = getattr(record, name)
        shape_matches = len(value.shape) == len(shape) and all(
            n in (None, m) for n, m in zip(shape, value.shape, strict=True)
        )
        if value.dtype != dtype or not shape_matches:
            description = f"{np.dtype(dtype).name} {list(shape)}"
            raise UserError(
                f"{type(record).__name__}.{name}: expected {description}, got {value.dtype.name} {list(value.shape)}"
            )
