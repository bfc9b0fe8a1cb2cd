"""Takes on disk: one tar file (shard) per person in the layout of WebDataset, which any tar tool opens.

All files of one take share the name before the first dot. The bytes of a shard are a function of its takes: owners,
times and order are fixed. A shard is written whole or not at all.

C cameras, T frames, H x W pixels.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from PIL import Image

from stereotalker.acting.gesture_planning import Gesture
from stereotalker.errors import UserError
from stereotalker.media.audio_files import wav_bytes
from stereotalker.records import SAMPLE_RATE, Avatar, Camera, Motion, Speech, Timed
from stereotalker.smplx_layout import REGION_COLORS, REGIONS
from stereotalker.store.files import write_atomic
from stereotalker.synthetic.takes import Take

DEPTH_UNIT_M = 1e-4  # metres per step of the 16-bit depth pictures, in which 0 means background
JPEG_OPTIONS = {"quality": 95, "subsampling": 0}
# Fields of Avatar in avatar.safetensors. Its pictures are PNG files; its name, style and origin are in the JSON.
_AVATAR_ARRAYS = ("betas", "surface", "poses", "expression", "intrinsics", "extrinsics", "target")


def write_shard(path: Path, takes: list[Take], extras: list[dict]) -> None:
    """Write a person's takes as one shard. extras: more keys for each take's JSON, such as the source of its speech."""
    write_tar(
        path,
        (
            (f"{take.identity:06d}-{take.number}.{name}", data)
            for take, extra in zip(takes, extras, strict=True)
            for name, data in _files(take, extra)
        ),
    )


def write_tar(path: Path, members: Iterable[tuple[str, bytes]]) -> None:
    """Write a tar file of (name, content) pairs in the given order, atomically."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in members:
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    write_atomic(path, buffer.getvalue())


def _files(take: Take, extra: dict) -> Iterator[tuple[str, bytes]]:
    """(name after the first dot, content) of every file of a take."""
    avatar, camera = take.avatar, take.camera
    metadata = {
        "identity": take.identity,
        "take": take.number,
        "person": take.person,
        "start": take.start,
        "fps": take.motion.fps,
        "frames": take.image.shape[1],
        "cameras": len(camera),
        "size": list(camera[0].size),
        "regions": list(REGIONS),
        "depth_unit_m": DEPTH_UNIT_M,
        "loudness": take.speech.loudness if np.isfinite(take.speech.loudness) else None,
        "words": [[w.text, w.start, w.end] for w in take.speech.words],
        "phonemes": [[p.text, p.start, p.end] for p in take.speech.phonemes],
        "gestures": [asdict(g) for g in take.gestures],
        "avatar": {"name": avatar.name, "style": avatar.style, "origin": avatar.origin},
    }
    yield "json", json.dumps(metadata | extra, ensure_ascii=False).encode()
    yield "wav", wav_bytes(take.speech.samples, SAMPLE_RATE)
    motion_arrays = {
        "poses": take.motion.poses,
        "expression": take.motion.expression,
        "trans": take.motion.trans,
        "keypoints": take.keypoints,
    }
    camera_arrays = {
        f"camera{c}.{name}": getattr(view, name)
        for c, view in enumerate(camera)
        for name in ("intrinsics", "extrinsics", "azimuth", "elevation")
    }
    yield "motion.safetensors", safetensors.numpy.save(motion_arrays | camera_arrays)
    yield (
        "avatar.safetensors",
        safetensors.numpy.save({name: np.ascontiguousarray(getattr(avatar, name)) for name in _AVATAR_ARRAYS}),
    )
    yield "portrait.png", picture_bytes(avatar.portrait, "PNG")
    yield "background.png", picture_bytes(avatar.background, "PNG")
    yield "portrait.regions.png", _region_picture(avatar.regions)
    C, T = take.image.shape[:2]
    for c in range(C):
        for t in range(T):
            yield f"c{c}.t{t:04d}.jpg", picture_bytes(take.image[c, t], "JPEG", **JPEG_OPTIONS)
            yield f"c{c}.t{t:04d}.regions.png", _region_picture(take.regions[c, t])
            depth = take.depth[c, t]
            steps = np.where(np.isfinite(depth), np.rint(np.nan_to_num(depth, posinf=0) / DEPTH_UNIT_M), 0)
            yield f"c{c}.t{t:04d}.depth.png", picture_bytes(steps.astype(np.uint16), "PNG")


def read_shard(path: Path) -> list[Take]:
    """Every take of a shard. Frames have the losses of JPEG, depth is rounded to DEPTH_UNIT_M, all else is exact.

    Raises UserError where the file is damaged or incomplete.
    """
    try:
        with tarfile.open(path) as tar:
            files = {entry.name: _read_entry(tar, entry) for entry in tar if entry.isfile()}
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
    """Every shard of a folder, in the order of names, with the JSON of its takes; pictures are not decoded."""
    for path in sorted(folder.glob("people-*.tar")):
        with tarfile.open(path) as tar:
            yield path, [json.loads(_read_entry(tar, entry)) for entry in tar if entry.name.endswith(".json")]


def read_portrait(path: Path) -> np.ndarray:
    """The portrait of a shard's person, u8 [H, W, 3]."""
    with tarfile.open(path) as tar:
        return _decode_picture(_read_entry(tar, next(e for e in tar if e.name.endswith(".portrait.png"))))


def read_shards(folder: Path) -> Iterator[Take]:
    """Every take of a folder, in the order of names."""
    for path in sorted(folder.glob("people-*.tar")):
        yield from read_shard(path)


def _read_entry(tar: tarfile.TarFile, entry: tarfile.TarInfo) -> bytes:
    """The content of a regular file in an archive."""
    file = tar.extractfile(entry)
    assert file is not None
    return file.read()


def _take(files: dict[str, bytes]) -> Take:
    """Decode the files of one take. Raises KeyError with the name of a file that is missing."""
    metadata = json.loads(files["json"])
    motion_arrays = safetensors.numpy.load(files["motion.safetensors"])
    avatar_fields: dict[str, Any] = safetensors.numpy.load(files["avatar.safetensors"]) | metadata["avatar"]
    C, T = metadata["cameras"], metadata["frames"]
    size = tuple(metadata["size"])

    def stack(read, ending):
        return np.stack([[read(files[f"c{c}.t{t:04d}.{ending}"]) for t in range(T)] for c in range(C)])

    depth = stack(_decode_picture, "depth.png").astype(np.float32) * np.float32(metadata["depth_unit_m"])
    words, phonemes = (tuple(Timed(*item) for item in metadata[name]) for name in ("words", "phonemes"))
    loudness = -np.inf if metadata["loudness"] is None else metadata["loudness"]
    # The samples follow the 44 bytes of the WAV header.
    samples = np.frombuffer(files["wav"][44:], np.int16).astype(np.float32) / 32767
    return Take(
        identity=metadata["identity"],
        number=metadata["take"],
        person=metadata["person"],
        start=metadata["start"],
        speech=Speech(samples, loudness, words, phonemes),
        avatar=Avatar(
            portrait=_decode_picture(files["portrait.png"]),
            background=_decode_picture(files["background.png"]),
            regions=_decode_picture(files["portrait.regions.png"]),
            **avatar_fields,
        ),
        motion=Motion(motion_arrays["poses"], motion_arrays["expression"], motion_arrays["trans"], metadata["fps"]),
        gestures=tuple(Gesture(g["name"], g["time"], tuple(g["hands"])) for g in metadata["gestures"]),
        camera=tuple(
            Camera(
                size=size,
                **{n: motion_arrays[f"camera{c}.{n}"] for n in ("intrinsics", "extrinsics", "azimuth", "elevation")},
            )
            for c in range(C)
        ),
        image=stack(_decode_picture, "jpg"),
        regions=stack(_decode_picture, "regions.png"),
        depth=np.where(depth > 0, depth, np.inf).astype(np.float32),
        keypoints=motion_arrays["keypoints"],
    )


def write_or_log(path: Path, text: str, log: Callable[[str], None]) -> None:
    """Write the list of refused items, or log the error.

    A full disk that refused shards may refuse this file too; that must not end the run, because the log has the
    reasons.
    """
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        log(f"{path} cannot be written: {error.strerror}")


def picture_bytes(array: np.ndarray, kind: str, **options) -> bytes:
    """Encode a picture (u8 [H, W, 3], u8 [H, W] or u16 [H, W]) as a file of the given kind: PNG, JPEG."""
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, kind, **options)
    return buffer.getvalue()


def _region_picture(regions: np.ndarray) -> bytes:
    """Encode region labels u8 [H, W] as a PNG with a palette."""
    picture = Image.frombytes("P", regions.shape[::-1], regions.tobytes())
    picture.putpalette([value for color in REGION_COLORS for value in color])
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def _decode_picture(data: bytes) -> np.ndarray:
    return np.array(Image.open(io.BytesIO(data)))
