"""What stages hand to each other: frozen records, checked once when made, saved as safetensors (never pickled).

T frames, V vertices, H x W picture, J = 55 joints, E = 52 facial actions, B shape coefficients.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TypeVar

import numpy as np
import safetensors
from safetensors.numpy import save_file

from stereotalker.errors import UserError
from stereotalker.smplx_layout import ACTIONS, JOINTS

SAMPLE_RATE = 16_000  # Hz, of every Speech in the project
_HEADER = "stereotalker"  # the one key of a file's metadata: safetensors writes several in an order that changes


@dataclass(frozen=True)
class Timed:
    """A word or a phoneme and when it is spoken."""

    text: str
    start: float  # s
    end: float  # s


@dataclass(frozen=True)
class Speech:
    samples: np.ndarray  # f32 [S] at SAMPLE_RATE, within -1..1
    loudness: float  # LUFS after normalisation; -inf for silence
    words: tuple[Timed, ...] = ()  # empty: unknown
    phonemes: tuple[Timed, ...] = ()  # espeak-ng's in IPA, the aligner's in ARPAbet; rising times; empty: unknown

    def __post_init__(self):
        _check(self, samples=(np.float32, (None,)))
        if not np.isfinite(self.samples).all():
            raise UserError(
                "speech holds NaN or infinite samples; expected numbers within -1..1: export the file again"
            )

    @property
    def seconds(self) -> float:
        return len(self.samples) / SAMPLE_RATE


@dataclass(frozen=True)
class Motion:
    poses: np.ndarray  # f32 [T, 55, 3] axis-angle rad, SMPL-X joint order
    expression: np.ndarray  # f32 [T, 52] in 0..1, ARKit actions ("arkit52")
    trans: np.ndarray  # f32 [T, 3] m
    fps: float
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
        """One frame of a pose [55, 3] and actions [52]; its rate means nothing."""
        return cls(poses[None], expression[None], np.zeros((1, 3), np.float32), 25.0)

    def frames(self, start: int, stop: int) -> Motion:
        return Motion(self.poses[start:stop], self.expression[start:stop], self.trans[start:stop], self.fps)


@dataclass(frozen=True)
class Camera:
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
        cut = slice(start, stop)
        return Camera(
            self.intrinsics[cut], self.extrinsics[cut], self.azimuth[cut], self.elevation[cut], tuple(self.size)
        )


@dataclass(frozen=True)
class Avatar:
    """A person to be driven: the portrait, the body under it, and where the camera stood."""

    name: str
    portrait: np.ndarray  # u8 [H, W, 3] sRGB
    background: np.ndarray  # u8 [H, W, 3] the portrait without the person
    regions: np.ndarray  # u8 [H, W] index into layout.REGIONS
    betas: np.ndarray  # f32 [B]
    surface: np.ndarray  # f16 [V, 3] m: clothes and hair over the rest-pose body
    poses: np.ndarray  # f32 [55, 3] of the portrait
    expression: np.ndarray  # f32 [52] of the portrait
    intrinsics: np.ndarray  # f32 [3, 3] px
    extrinsics: np.ndarray  # f32 [4, 4]
    target: np.ndarray  # f32 [3] m, the point cameras look at
    style: int  # index of the acting style
    origin: str  # "synthetic", or "portrait": of a person, whose consent is on the avatar's card or in the manifest
    arms: bool = True  # whether the portrait shows a hand; where not, clips leave the arms as they are

    def __post_init__(self):
        H, W = self.portrait.shape[:2]
        _check(
            self, portrait=(np.uint8, (H, W, 3)), background=(np.uint8, (H, W, 3)), regions=(np.uint8, (H, W)),
            betas=(np.float32, (None,)), surface=(np.float16, (None, 3)), poses=(np.float32, (len(JOINTS), 3)),
            expression=(np.float32, (len(ACTIONS),)), intrinsics=(np.float32, (3, 3)), extrinsics=(np.float32, (4, 4)),
            target=(np.float32, (3,)),
        )  # fmt: skip


@dataclass(frozen=True)
class Control:
    """What the body and the portrait say about every frame, before any network."""

    warp: np.ndarray  # u8 [T, H, W, 3] the portrait's pixels on the moved body, over the background plate
    visibility: np.ndarray  # u8 [T, H, W] 255 where the portrait saw that surface, less where it is guessed (control.warp), 0 outside the person
    normals: np.ndarray  # u8 [T, H, W, 3] camera space, 128 = 0; zero outside the person
    labels: np.ndarray  # u8 [T, H, W] region of the body surface, and of hair beside it, from the portrait's regions
    plate: np.ndarray  # u8 [T, H, W, 3] background seen by this camera
    azimuth: np.ndarray  # f32 [T] degrees
    elevation: np.ndarray  # f32 [T] degrees

    def __post_init__(self):
        T, H, W = self.labels.shape
        image = (np.uint8, (T, H, W, 3))
        _check(
            self, warp=image, normals=image, plate=image, visibility=(np.uint8, (T, H, W)), labels=(np.uint8, (T, H, W)),
            azimuth=(np.float32, (T,)), elevation=(np.float32, (T,)),
        )  # fmt: skip


Record = TypeVar("Record")


def save(record, path: Path) -> None:
    """Arrays become safetensors tensors, everything else its JSON header."""
    values = {field.name: getattr(record, field.name) for field in fields(record)}
    arrays = {name: np.ascontiguousarray(v) for name, v in values.items() if isinstance(v, np.ndarray)}
    rest = {name: _plain(v) for name, v in values.items() if name not in arrays}
    save_file(arrays, path, metadata={_HEADER: json.dumps({"record": type(record).__name__, "fields": rest})})


def load(kind: type[Record], path: Path) -> Record:
    """Read a record of the given class; anything missing, surplus or of another class is an error."""
    with safetensors.safe_open(path, framework="np") as file:
        header = json.loads((file.metadata() or {}).get(_HEADER, "{}"))
        if header.get("record") != kind.__name__:
            raise UserError(f"{path}: expected a saved {kind.__name__}, found {header.get('record', 'no record')!r}")
        values = {name: file.get_tensor(name) for name in file.keys()} | header["fields"]
    for name in ("words", "phonemes"):
        if name in values:
            values[name] = tuple(Timed(*item) for item in values[name])
    if "size" in values:
        values["size"] = tuple(values["size"])
    return kind(**values)


def _plain(value):
    return (
        [[t.text, t.start, t.end] for t in value]
        if isinstance(value, tuple) and value and isinstance(value[0], Timed)
        else value
    )


def _check(record, **expected) -> None:
    for name, (dtype, shape) in expected.items():
        value = getattr(record, name)
        matches = len(value.shape) == len(shape) and all(
            n in (None, m) for n, m in zip(shape, value.shape, strict=True)
        )
        if value.dtype != dtype or not matches:
            wanted = f"{np.dtype(dtype).name} {list(shape)}"
            raise UserError(
                f"{type(record).__name__}.{name}: expected {wanted}, got {value.dtype.name} {list(value.shape)}"
            )
