"""The `st3d` box, by which headsets and video sites tell the two eyes of an .mp4 (Google's Spherical Video V2 RFC). ffmpeg reads it, but writes it only where its source had one."""

from __future__ import annotations

import os
import shutil
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

_MODES = {"over-under": 1, "side-by-side": 2}  # the left eye comes first
# Boxes that hold others, and how many bytes of their own stand before those (ISO/IEC 14496-12 and -15).
_HOLDERS = {b"moov": 8, b"trak": 8, b"mdia": 8, b"minf": 8, b"stbl": 8, b"stsd": 16, b"avc1": 86}
_PLACES = {b"stco": "I", b"co64": "Q"}  # tables of places in the file, and how a place is written


class _Box(NamedTuple):
    kind: bytes
    start: int
    end: int


def write_stereo_boxes(path: Path, layout: str) -> None:
    """Add the box to a file of H.264 whose moov stands before its media, as ffmpeg's +faststart writes it. layout: side-by-side or over-under."""
    temporary = path.with_name(f"{path.name}.st3d")
    try:
        with path.open("rb") as file, temporary.open("wb") as told:
            _copy_to_moov(file, told)
            told.write(_with_box(file, struct.pack(">I4sIB", 13, b"st3d", 0, _MODES[layout])))
            shutil.copyfileobj(file, told)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _copy_to_moov(file: BinaryIO, told: BinaryIO) -> None:
    """Leaves `file` at the moov's beginning."""
    while (head := file.read(8))[4:] != b"moov":
        assert head[4:] != b"mdat", "moov stands before the media"
        told.write(head + file.read(int.from_bytes(head[:4]) - 8))
    file.seek(-8, os.SEEK_CUR)


def _with_box(file: BinaryIO, box: bytes) -> bytearray:
    """The moov that `file` stands at, with `box` at the end of its avc1; what comes after the moov moves by the box's length."""
    size = int.from_bytes(file.read(4))
    moov = bytearray(struct.pack(">I", size) + file.read(size - 4))
    boxes = list(_boxes(moov, 0, size))
    avc1 = next(b for b in boxes if b.kind == b"avc1")
    for kind, start, end in boxes:
        if start <= avc1.start and avc1.end <= end:
            struct.pack_into(">I", moov, start, end - start + len(box))
        elif kind in _PLACES:
            table = f">{int.from_bytes(moov[start + 12 : start + 16])}{_PLACES[kind]}"
            struct.pack_into(
                table, moov, start + 16, *(at + len(box) for at in struct.unpack_from(table, moov, start + 16))
            )
    moov[avc1.end : avc1.end] = box
    return moov


def _boxes(data: bytes, start: int, end: int) -> Iterator[_Box]:
    """Every box, those within others too."""
    while start < end:
        size, kind = struct.unpack_from(">I4s", data, start)
        yield _Box(kind, start, start + size)
        if kind in _HOLDERS:
            yield from _boxes(data, start + _HOLDERS[kind], start + size)
        start += size
