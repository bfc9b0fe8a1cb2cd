"""The canary: some clips of a batch are made with the challenger as well, judged, and not delivered."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from stereotalker.avatar.library import Library
from stereotalker.models import Models
from stereotalker.params import Params
from stereotalker.production.admission import AdmissionControl
from stereotalker.production.clip import make_clip
from stereotalker.production.clip_stages import ClipMaker, StageTimings
from stereotalker.production.manifest import Clip
from stereotalker.production.outputs import Outputs
from stereotalker.production.report import ClipResult, without_nan
from stereotalker.runtime.home import Home
from stereotalker.store.remote import AnyStore
from stereotalker.tasks.pool import LocalSlot, Pool
from stereotalker.tasks.registry import Registry

FILE = "canary.json"  # in the outputs: the verdicts of both releases on the same clips


def run_canary(
    clips: Sequence[Clip],
    rows: dict[str, ClipResult],
    params: Params,
    home: Home,
    store: AnyStore,
    outputs: Outputs,
    say: Callable[[str], None],
) -> None:
    """Make clips with the challenger, and write its verdicts beside the champion's. Nothing is done without one.

    rows: results of the batch by clip id. The clips are rendered in this process, after the batch. A line in the ledger
    says how many came out worse.
    """
    registry = Registry(home, params.releases)
    challenger = registry.challenger()
    if challenger is None:
        return
    source = registry.source(challenger)
    models = Models(params, source.folder, source.release, source.number, source.store)
    maker = ClipMaker(models, store, None, Library(home.avatars))
    table: list[dict[str, Any]] = []
    with store.in_use():
        for clip in clips:
            ours = rows[clip.id]
            pool = Pool([LocalSlot(models, store)], params.produce.worker, AdmissionControl(), store)
            try:
                finished = make_clip(clip, maker, pool.render, lambda *_: None, StageTimings())
                verdict = finished.verdict
                theirs = {"verdict": verdict.verdict, "reasons": list(verdict.reasons), "measures": verdict.measures}
            except Exception as error:  # a challenger that breaks is what the canary is for
                theirs = {"verdict": "failed", "reasons": [f"{type(error).__name__}: {error}"], "measures": {}}
            before = {"verdict": ours.shown, "reasons": list(ours.reasons), "measures": ours.measures}
            table.append({"clip": clip.id, "champion": before, "challenger": theirs})
    order = ("pass", "review", "fail", "failed", "stopped")
    worse = [
        r["clip"] for r in table if order.index(r["challenger"]["verdict"]) > order.index(r["champion"]["verdict"])
    ]
    text = f"{len(worse)} of {len(table)} clips came out worse{': ' if worse else ''}{', '.join(worse)}"
    values = {"challenger": {"number": challenger.number, "digest": challenger.digest}, "clips": table}
    outputs.put(FILE, (json.dumps(without_nan(values), indent=1) + "\n").encode())
    registry.note("canary", challenger, text)
    say(f"canary: {challenger}: {text}")
