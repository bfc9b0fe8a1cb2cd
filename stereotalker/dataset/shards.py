"""Takes on disk: one tar a person in WebDataset's layout (files of one sample share the name before the first dot), which any tool opens.

Bytes are a function of the takes: fixed owners, times and order. Written whole or not at all.
"""

from __future__ import annotations

import errno
import io
import json
import tarfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
import safetensors.numpy
from PIL import Image
from scipy.io import wavfile

from stereotalker.acting.gestures import Gesture
from stereotalker.errors import UserError
from stereotalker.records import SAMPLE_RATE, Avatar, Camera, Motion, Speech, Timed
from stereotalker.smplx_layout import REGIONS
from stereotalker.store.files import write_atomic
from stereotalker.synthetic.takes import Take

FULL_DISK = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
)  # what is refused with its reason, so that the rest goes on
DEPTH_UNIT_M = 1e-4  # of the 16-bit depth pictures; 0 is background
JPEG = {"quality": 95, "subsampling": 0}
_PALETTE = [
    v
    for colour in (
        (0, 0, 0),
        (90, 60, 40),
        (240, 200, 170),
        (200, 40, 60),
        (60, 100, 180),
        (90, 160, 90),
        (240, 160, 60),
        (90, 90, 110),
    )
    for v in colour
]
assert len(_PALETTE) == 3 * len(REGIONS)
_AVATAR_ARRAYS = ("betas", "surface", "poses", "expression", "intrinsics", "extrinsics", "target")


def write_shard(path: Path, takes: list[Take], extras: list[dict]) -> None:
    """Write a person's takes. extras: goes into each take's JSON (where its speech comes from)."""
    write_tar(
        path,
        (
            (f"{take.identity:06d}-{take.number}.{name}", data)
            for take, extra in zip(takes, extras, strict=True)
            for name, data in _files(take, extra)
        ),
    )


def write_tar(path: Path, members: Iterable[tuple[str, bytes]]) -> None:
    """Write files by name, in the given order."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in members:
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    write_atomic(path, buffer.getvalue())


def _files(take: Take, extra: dict) -> Iterator[tuple[str, bytes]]:
    avatar, camera = take.avatar, take.camera
    yield "json", json.dumps({
        "identity": take.identity, "take": take.number, "person": take.person, "start": take.start, "fps": take.motion.fps,
        "frames": take.image.shape[1], "cameras": len(camera), "size": list(camera[0].size), "regions": list(REGIONS), "depth_unit_m": DEPTH_UNIT_M,
        "loudness": take.speech.loudness if np.isfinite(take.speech.loudness) else None,
        "words": [[w.text, w.start, w.end] for w in take.speech.words], "phonemes": [[p.text, p.start, p.end] for p in take.speech.phonemes],
        "gestures": [asdict(g) for g in take.gestures],
        "avatar": {"name": avatar.name, "style": avatar.style, "origin": avatar.origin},
    } | extra, ensure_ascii=False).encode()  # fmt: skip
    yield "wav", wav_bytes(take.speech.samples)
    yield "motion.safetensors", safetensors.numpy.save({"poses": take.motion.poses, "expression": take.motion.expression, "trans": take.motion.trans, "keypoints": take.keypoints} | {
        f"camera{c}.{name}": getattr(view, name) for c, view in enumerate(camera) for name in ("intrinsics", "extrinsics", "azimuth", "elevation")
    })  # fmt: skip
    yield (
        "avatar.safetensors",
        safetensors.numpy.save({name: np.ascontiguousarray(getattr(avatar, name)) for name in _AVATAR_ARRAYS}),
    )
    yield "portrait.png", picture_bytes(avatar.portrait, "PNG")
    yield "background.png", picture_bytes(avatar.background, "PNG")
    yield "portrait.regions.png", _labels(avatar.regions)
    C, T = take.image.shape[:2]
    for c in range(C):
        for t in range(T):
            yield f"c{c}.t{t:04d}.jpg", picture_bytes(take.image[c, t], "JPEG", **JPEG)
            yield f"c{c}.t{t:04d}.regions.png", _labels(take.regions[c, t])
            near = np.where(
                np.isfinite(take.depth[c, t]), np.rint(np.nan_to_num(take.depth[c, t], posinf=0) / DEPTH_UNIT_M), 0
            )
            yield f"c{c}.t{t:04d}.depth.png", picture_bytes(near.astype(np.uint16), "PNG")


def read_shard(path: Path) -> list[Take]:
    """Every take of a shard. Frames come back from JPEG, everything else exactly (depth to DEPTH_UNIT_M). Raises UserError."""
    try:
        with tarfile.open(path) as tar:
            files = {entry.name: tar.extractfile(entry).read() for entry in tar if entry.isfile()}
    except (OSError, tarfile.TarError) as error:
        raise UserError(
            f"{path} is not a shard of takes ({error}); delete it and run the stage `people` again"
        ) from None
    keys = sorted({name.split(".")[0] for name in files})
    try:
        return [
            _take({name.split(".", 1)[1]: data for name, data in files.items() if name.startswith(key + ".")})
            for key in keys
        ]
    except KeyError as error:
        raise UserError(
            f"{path}: file {error} of a take is missing; delete the shard and run the stage `people` again"
        ) from None


def read_summaries(folder: Path) -> Iterator[tuple[Path, list[dict]]]:
    """Every shard of a folder with the JSON of its takes, without decoding pictures."""
    for path in sorted(folder.glob("people-*.tar")):
        with tarfile.open(path) as tar:
            yield path, [json.loads(tar.extractfile(entry).read()) for entry in tar if entry.name.endswith(".json")]


def read_portrait(path: Path) -> np.ndarray:
    """The portrait of a shard's person, u8 [H, W, 3]."""
    with tarfile.open(path) as tar:
        return _array(tar.extractfile(next(entry for entry in tar if entry.name.endswith(".portrait.png"))).read())


def read_shards(folder: Path) -> Iterator[Take]:
    """Every take of a folder, in the order of names."""
    for path in sorted(folder.glob("people-*.tar")):
        yield from read_shard(path)


def _take(files: dict[str, bytes]) -> Take:
    told = json.loads(files["json"])
    arrays, own = (safetensors.numpy.load(files[f"{name}.safetensors"]) for name in ("motion", "avatar"))
    C, T = told["cameras"], told["frames"]
    size = tuple(told["size"])

    def stack(read, ending):
        return np.stack([[read(files[f"c{c}.t{t:04d}.{ending}"]) for t in range(T)] for c in range(C)])

    depth = stack(_array, "depth.png").astype(np.float32) * np.float32(told["depth_unit_m"])
    speech = Speech(
        np.frombuffer(files["wav"][44:], np.int16).astype(np.float32) / 32767, -np.inf if told["loudness"] is None else told["loudness"],
        *(tuple(Timed(*item) for item in told[name]) for name in ("words", "phonemes")),
    )  # fmt: skip
    return Take(
        identity=told["identity"], number=told["take"], person=told["person"], start=told["start"], speech=speech,
        avatar=Avatar(portrait=_array(files["portrait.png"]), background=_array(files["background.png"]), regions=_array(files["portrait.regions.png"]), **own, **told["avatar"]),
        motion=Motion(arrays["poses"], arrays["expression"], arrays["trans"], told["fps"]),
        gestures=tuple(Gesture(g["name"], g["time"], tuple(g["hands"])) for g in told["gestures"]),
        camera=tuple(Camera(*(arrays[f"camera{c}.{name}"] for name in ("intrinsics", "extrinsics", "azimuth", "elevation")), size) for c in range(C)),
        image=stack(_array, "jpg"), regions=stack(_array, "regions.png"), depth=np.where(depth > 0, depth, np.inf).astype(np.float32),
        keypoints=arrays["keypoints"],
    )  # fmt: skip


def try_writing(path: Path, text: str, log: Callable[[str], None]) -> None:
    """Write a list of what was refused; the disk that refused the shards may refuse this too, and the log has the reasons."""
    try:
        path.write_text(text)
    except OSError as error:
        log(f"{path} cannot be written: {error.strerror}")


def wav_bytes(samples: np.ndarray) -> bytes:
    """16-bit WAV of speech f32 [S] at SAMPLE_RATE."""
    buffer = io.BytesIO()
    wavfile.write(buffer, SAMPLE_RATE, np.rint(np.clip(samples, -1, 1) * 32767).astype(np.int16))
    return buffer.getvalue()


def picture_bytes(array: np.ndarray, kind: str, **options) -> bytes:
    """A picture as a file of the given kind (PNG, JPEG)."""
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, kind, **options)
    return buffer.getvalue()


def _labels(regions: np.ndarray) -> bytes:
    picture = Image.frombytes("P", regions.shape[::-1], regions.tobytes())
    picture.putpalette(_PALETTE)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def _array(data: bytes) -> np.ndarray:
    return np.array(Image.open(io.BytesIO(data)))
