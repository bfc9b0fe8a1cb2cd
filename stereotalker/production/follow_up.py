"""The manifest of a batch beside what was heard in its recordings, for its author to correct and run again."""

from __future__ import annotations

import json
from collections.abc import Sequence

import yaml

from stereotalker.audio.speech import MAX_ALIGNMENT_S
from stereotalker.production.manifest import Clip, Manifest
from stereotalker.production.outputs import Outputs
from stereotalker.production.report import ClipResult

FOLLOW_UP_FILE = "heard.yaml"
_HEADING = """\
# The manifest {manifest}, and what was heard in its recordings. Where that is wrong, remove the # before `transcript`,
# correct the words, and run
#   stereotalker produce {path} --out {out}
# Only the clips that you changed are made again.
clips:
"""


def write_follow_up(outputs: Outputs, manifest: Manifest, results: Sequence[ClipResult]) -> None:
    """Write heard.yaml, with every clip of the manifest; remove it if nothing was heard. Raises OSError, Unavailable.

    results: a row for every clip, in the manifest's order. A recording that is too long to be aligned with a
    transcript gets none.
    """
    if not any(row.recognized for row in results):
        outputs.remove(FOLLOW_UP_FILE)
        return
    heading = _HEADING.format(manifest=manifest.path.name, path=outputs.name(FOLLOW_UP_FILE), out=outputs)
    rows = [_row(clip, result) for clip, result in zip(manifest.clips, results, strict=True)]
    outputs.put(FOLLOW_UP_FILE, (heading + "".join(rows)).encode())


def _row(clip: Clip, result: ClipResult) -> str:
    """A clip as a row of a manifest in YAML, with absolute paths, and what was heard as a comment."""
    row = yaml.safe_dump([clip.model_dump(mode="json", exclude_defaults=True)], sort_keys=False, allow_unicode=True)
    can_align = result.frames / clip.fps <= MAX_ALIGNMENT_S
    if not result.recognized or not can_align:
        return row
    return row + f"  # transcript: {json.dumps(result.recognized, ensure_ascii=False)}\n"
