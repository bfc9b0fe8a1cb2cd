"""The manifest of a batch beside what was heard in its recordings, for its author to correct and run again."""

from __future__ import annotations

import json
from collections.abc import Sequence

import yaml

from stereotalker.audio.speech import MAX_ALIGNMENT_S
from stereotalker.production.manifest import Clip, Manifest
from stereotalker.production.outputs import Outputs
from stereotalker.production.report import ClipResult
from stereotalker.store.digests import bytes_digest

FOLLOW_UP_FILE = "heard.yaml"
NEW_FOLLOW_UP_FILE = "heard.new.yaml"
_MARK = b"# Digest of the lines below; if they are changed, this file is not replaced: "
_HEADING = """\
# The clips of {manifest}, and what was heard in their recordings. Where that is wrong, remove the # before
# `transcript`, correct the words (or write none: then the sound alone is used), and run
#   stereotalker produce {path} --out {out}
# Only the clips that you changed are made again.
clips:
"""


def write_follow_up(outputs: Outputs, manifest: Manifest, results: Sequence[ClipResult]) -> None:
    """Write heard.yaml, with every clip of the manifest, if anything was heard. Raises OSError, Unavailable.

    A file that its author has changed stays as it is, and the new one is heard.new.yaml. results: a row for every clip,
    in the manifest's order. A recording that is too long to be aligned with a transcript gets none.
    """
    if not any(row.recognized for row in results):
        return
    name = NEW_FOLLOW_UP_FILE if _is_changed(outputs.read(FOLLOW_UP_FILE)) else FOLLOW_UP_FILE
    out = outputs.folder.absolute() if outputs.folder else outputs
    heading = _HEADING.format(manifest=manifest.path.name, path=outputs.name(name), out=out)
    rows = [_row(clip, result) for clip, result in zip(manifest.clips, results, strict=True)]
    text = (heading + "".join(rows)).encode()
    outputs.put(name, _MARK + bytes_digest(text).encode() + b"\n" + text)


def _is_changed(data: bytes | None) -> bool:
    """Whether a file is there and somebody else has written it: its first line tells the digest of the rest."""
    if data is None:
        return False
    mark, _, text = data.partition(b"\n")
    return mark != _MARK + bytes_digest(text).encode()


def _row(clip: Clip, result: ClipResult) -> str:
    """A clip as a row of a manifest in YAML, with absolute paths, and what was heard as a comment."""
    row = yaml.safe_dump([clip.model_dump(mode="json", exclude_defaults=True)], sort_keys=False, allow_unicode=True)
    can_align = result.frames / clip.fps <= MAX_ALIGNMENT_S
    if not result.recognized or not can_align:
        return row
    if clip.scene:
        heard = json.dumps(result.recognized, ensure_ascii=False)
        return row + f"  # heard, to be written as `transcript` of each person: {heard}\n"
    return row + f"  # transcript: {json.dumps(result.recognized, ensure_ascii=False)}\n"
