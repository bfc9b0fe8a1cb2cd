"""What is removed from the store, and what is kept."""

import os
import time

import pytest
from batch_helpers import cli, write_batch

from stereotalker.avatar.library import Library
from stereotalker.errors import Unavailable, UserError
from stereotalker.media.content_credentials import open_signer
from stereotalker.params import load_params
from stereotalker.production.clip_stages import ClipMaker
from stereotalker.production.manifest import read_manifest
from stereotalker.production.retention import collect, usage
from stereotalker.runtime import process_identity
from stereotalker.store.local import Store

pytestmark = pytest.mark.integration


def age(store, days):
    """Make every entry as old as if it had been used last so many days ago."""
    for marker in store.glob("*/*/done.json"):
        os.utime(marker, (time.time() - days * 24 * 3600, marker.stat().st_mtime))


def test_old_entries_are_collected_and_those_of_listed_batches_kept(run_batch, tmp_path, home, tiny_models):
    batches = [write_batch(tmp_path, [{"id": "a", "script": word, "voice": "espeak"}], word) for word in ("one", "two")]
    for batch in batches:
        run_batch(batch, out=batch.stem)
    before = usage(Store(home.store))
    assert before["render"].entries == 2 and before["render"].bytes > 0
    age(home.store, 31)
    maker = ClipMaker(tiny_models, Store(home.store), open_signer(load_params().provenance, home.credentials),
                      Library(home.avatars))  # fmt: skip
    kept = [read_manifest(batches[0])]
    unknown = write_batch(tmp_path, [{"id": "x", "avatar": "zoe", "script": "one"}], "unknown")
    with pytest.raises(UserError, match="clip 'x': avatar 'zoe' is unknown.*nothing was removed"):
        collect(maker.store, 0, [read_manifest(unknown)], maker, dry_run=False)
    would = collect(maker.store, 30, kept, maker, dry_run=True)
    assert usage(maker.store) == before
    removed = collect(maker.store, 30, kept, maker, dry_run=False)
    assert removed == would and 0 < removed.entries < sum(u.entries for u in before.values())
    kept_row = run_batch(batches[0], out="again").results[0]
    assert kept_row.made == []  # nothing of the listed batch was removed
    assert "render" in run_batch(batches[1], out="again2").results[0].made
    assert collect(maker.store, 30, [], maker, dry_run=False).entries == 0  # everything was used just now


def test_nothing_is_collected_while_a_batch_uses_the_store(tmp_path, tiny_models):
    store = Store(tmp_path)
    store.make("stage", "key", lambda folder: (folder / "a").write_text("x"))
    age(tmp_path, 100)
    with store.in_use(), pytest.raises(Unavailable, match="is in use by"):
        collect(store, 30, [], ClipMaker(tiny_models, store), dry_run=False)
    (tmp_path / ".running").mkdir(exist_ok=True)
    (tmp_path / ".running" / "killed").write_text(f"{process_identity.HOST}/999999/1")  # it left its note behind
    assert collect(store, 30, [], ClipMaker(tiny_models, store), dry_run=False).entries == 1
    assert not store.has("stage", "key")


def test_the_store_is_shown_and_cleared_from_the_command_line(home):
    store = Store(home.store)
    store.make("render", "key", lambda folder: (folder / "a").write_bytes(bytes(1_000_000)))
    shown = cli("store", "du", home=home)
    assert shown.returncode == 0 and "render" in shown.stdout and "1.0 MB" in shown.stdout
    assert "removed 0 entries" in cli("store", "gc", home=home).stdout
    age(home.store, 40)
    assert "would remove 1 entries" in cli("store", "gc", "--dry-run", home=home).stdout
    age(home.store, 40)
    assert "removed 0 entries" in cli("store", "gc", "--keep", "8w", home=home).stdout
    assert "removed 1 entries, 1.0 MB, not used for 30 days" in cli("store", "gc", "--keep", "30d", home=home).stdout
    assert cli("store", "gc", "--keep", "5", home=home).returncode == 2
