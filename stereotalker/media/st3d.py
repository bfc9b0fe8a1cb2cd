"""Writes the `st3d` box, from which headsets and video sites know how the two eyes share an .mp4.

The box is defined in Google's Spherical Video V2 RFC. ffmpeg reads it, but writes it only if its input had one.
"""

from __future__ import annotations

import os
import shutil
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

_MODES = {"over-under": 1, "side-by-side": 2}  # the left eye comes first
# Boxes that contain other boxes, and the number of their own bytes before those (ISO/IEC 14496-12 and -15).
_CONTAINERS = {b"moov": 8, b"trak": 8, b"mdia": 8, b"minf": 8, b"stbl": 8, b"stsd": 16, b"avc1": 86}
# Boxes with tables of file offsets, and the struct format of an offset.
_OFFSET_TABLES = {b"stco": "I", b"co64": "Q"}


class _Box(NamedTuple):
    kind: bytes  # four characters
    start: int  # of its header, in bytes
    end: int


def write_stereo_boxes(path: Path, layout: str) -> None:
    """Add the `st3d` box to an H.264 file, in place.

    The moov box must be before the media, as ffmpeg's +faststart writes it. layout: side-by-side or over-under.
    """
    temporary = path.with_name(f"{path.name}.st3d")
    try:
        with path.open("rb") as file, temporary.open("wb") as output:
            _copy_to_moov(file, output)
            output.write(_with_box(file, struct.pack(">I4sIB", 13, b"st3d", 0, _MODES[layout])))
            shutil.copyfileobj(file, output)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _copy_to_moov(file: BinaryIO, output: BinaryIO) -> None:
    """Copy the boxes before the moov box. Afterwards `file` is at the start of the moov box."""
    while (head := file.read(8))[4:] != b"moov":
        assert head[4:] != b"mdat", "moov stands before the media"
        output.write(head + file.read(int.from_bytes(head[:4]) - 8))
    file.seek(-8, os.SEEK_CUR)


def _with_box(file: BinaryIO, box: bytes) -> bytearray:
    """Read the moov box at the position of `file`, and return it with `box` added at the end of its avc1 box.

    The sizes of the boxes around avc1 are increased. The file offsets too, because all media follow the moov box.
    """
    size = int.from_bytes(file.read(4))
    moov = bytearray(struct.pack(">I", size) + file.read(size - 4))
    boxes = list(_boxes(moov, 0, size))
    avc1 = next(b for b in boxes if b.kind == b"avc1")
    for kind, start, end in boxes:
        if start <= avc1.start and avc1.end <= end:
            struct.pack_into(">I", moov, start, end - start + len(box))
        elif kind in _OFFSET_TABLES:
            table = f">{int.from_bytes(moov[start + 12 : start + 16])}{_OFFSET_TABLES[kind]}"
            offsets = struct.unpack_from(table, moov, start + 16)
            struct.pack_into(table, moov, start + 16, *(offset + len(box) for offset in offsets))
    moov[avc1.end : avc1.end] = box
    return moov


def _boxes(data: bytes | bytearray, start: int, end: int) -> Iterator[_Box]:
    """Yield every box between two positions, and the boxes inside them."""
    while start < end:
        size, kind = struct.unpack_from(">I4s", data, start)
        yield _Box(kind, start, start + size)
        if kind in _CONTAINERS:
            yield from _boxes(data, start + _CONTAINERS[kind], start + size)
        start += size
