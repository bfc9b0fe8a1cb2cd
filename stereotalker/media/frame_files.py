"""Frames without loss in a small file: an array in NumPy's format, compressed by zstd.

Each frame but the first is stored as its difference to the one before, modulo 256. Most of a talking person's picture
does not move, so the differences are mostly zeros.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import zstandard
from numpy.lib import format as npy

_LEVEL = 1  # of zstd; higher ones take more time, and the files hardly get smaller


def save_frames(path: Path, frames: np.ndarray) -> None:
    """Write frames u8 [T, H, W, C]."""
    if frames.dtype != np.uint8 or frames.ndim != 4:
        raise ValueError(f"frames are {frames.dtype} {list(frames.shape)}; expected uint8 [T, H, W, C]")
    compressor = zstandard.ZstdCompressor(_LEVEL)
    with open(path, "wb") as file, compressor.stream_writer(file) as stream:
        npy.write_array_header_1_0(stream, {"descr": "|u1", "fortran_order": False, "shape": frames.shape})
        before = np.zeros(frames.shape[1:], np.uint8)
        for frame in frames:
            stream.write(np.ascontiguousarray(frame - before).data)
            before = frame


def load_frames(path: Path) -> np.ndarray:
    """Frames u8 [T, H, W, C] of a file of `save_frames`. Raises ValueError if it is cut short, or another file."""
    with open(path, "rb") as file, zstandard.ZstdDecompressor().stream_reader(file) as stream:
        npy.read_magic(stream)
        shape, is_fortran, kind = npy.read_array_header_1_0(stream)
        if is_fortran or kind != np.uint8 or len(shape) != 4:
            raise ValueError(f"{path} holds an array {kind} {list(shape)}; expected uint8 [T, H, W, C]")
        frames = np.empty(shape, np.uint8)
        for t, frame in enumerate(frames):
            if stream.readinto(frame.reshape(-1).data) != frame.nbytes:
                raise ValueError(f"{path} ends before frame {t}")
            if t:
                frame += frames[t - 1]
    return frames
