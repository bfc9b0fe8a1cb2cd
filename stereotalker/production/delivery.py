"""Where the videos of a batch lie in its outputs. A file is only ever found in the folder that fits its verdict.

captions/    SubRip and WebVTT files of clips that ask for them
clips/       what passed
             each video with its record, a JSON file of the clip's name (clip_record.py)
review/      what a person should look at first
rejected/    what failed the quality gate
previews/    small versions of the whole batch, if wanted
superseded/  what a later run did not make again: its clip failed, was judged otherwise, or lost its consent
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from stereotalker.production.captions import ENDINGS
from stereotalker.production.manifest import FILE_ENDINGS, Clip
from stereotalker.production.outputs import Outputs

RECORD_ENDING = ".json"
FOLDERS = {"pass": "clips", "review": "review", "fail": "rejected"}


@dataclass(frozen=True)
class Places:
    """Names in the outputs of what belongs to a clip."""

    video: str
    poster: str
    record: str

    @classmethod
    def of(cls, clip: Clip, verdict: str) -> Places:
        """Where a clip with this verdict is delivered."""
        folder = FOLDERS[verdict]
        return cls(f"{folder}/{clip.file_name}", f"posters/{clip.id}.jpg", f"{folder}/{clip.id}{RECORD_ENDING}")


def deliver(
    outputs: Outputs,
    clip: Clip,
    places: Places,
    video: Path,
    poster: Path,
    record: bytes,
    captions: dict[str, str] | None = None,
) -> None:
    """Copy a finished video and what belongs to it to the outputs, and move its older videos away.

    captions: see `deliver_captions`.
    """
    deliver_captions(outputs, clip, captions or {})
    outputs.place(places.video, video)
    outputs.place(places.poster, poster)
    outputs.put(places.record, record)
    supersede(outputs, clip.id, keep=places)


def deliver_captions(outputs: Outputs, clip: Clip, captions: dict[str, str]) -> None:
    """Write the files with captions, and remove older ones. captions: their text, by ending, see `to_files`."""
    for ending in ENDINGS:
        name = f"captions/{clip.id}.{ending}"
        if ending not in captions:
            outputs.remove(name)
        elif outputs.read(name) != captions[ending].encode():
            outputs.put(name, captions[ending].encode())


def deliver_preview(outputs: Outputs, clip: Clip, video: Path) -> str:
    """Copy a preview to the outputs. Returns its name there."""
    outputs.place(f"previews/{clip.file_name}", video)
    return f"previews/{clip.file_name}"


def supersede(outputs: Outputs, clip: str, keep: Places | None = None) -> None:
    """Move the videos and records of a clip to superseded/, all but `keep`. clip: its id."""
    for folder in FOLDERS.values():
        for ending in (*FILE_ENDINGS, RECORD_ENDING):
            name = f"{folder}/{clip}{ending}"
            if keep is None or name not in (keep.video, keep.record):
                outputs.move(name, f"superseded/{clip}{ending}")
