"""The local store, digests, atomic files, and records on disk."""

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from stereotalker.errors import UserError
from stereotalker.records import Motion, Speech, Timed, load, save
from stereotalker.store.digests import digest
from stereotalker.store.files import write_atomic
from stereotalker.store.local import MARKER, Store


def write_text(text):
    """A function that fills the folder of a store entry with one file."""
    return lambda folder: (folder / "a.txt").write_text(text)


def test_an_entry_is_made_once_and_found_again(tmp_path):
    store, calls = Store(tmp_path), []
    for _ in range(2):
        folder = store.make("stage", "key", lambda f: (calls.append(1), write_text("x")(f)))
    assert len(calls) == 1 and (folder / "a.txt").read_text() == "x" and store.find("stage", "key") == folder
    assert store.find("stage", "other") is None


@pytest.mark.parametrize(
    "damage",
    [
        lambda f: (f / "a.txt").write_text("y"),
        lambda f: (f / "a.txt").unlink(),
        lambda f: (f / "a.txt").write_text(""),
        lambda f: (f / MARKER).write_text("{"),
    ],
)
def test_a_damaged_entry_is_remade(tmp_path, damage):
    store = Store(tmp_path)
    damage(store.make("stage", "key", write_text("x")))
    assert store.find("stage", "key") is None
    assert (store.make("stage", "key", write_text("x")) / "a.txt").read_text() == "x"


def test_a_failed_write_leaves_nothing(tmp_path):
    def fail(folder):
        write_text("half")(folder)
        raise ValueError("stop")

    with pytest.raises(ValueError, match="stop"):
        Store(tmp_path).make("stage", "key", fail)
    assert not list((tmp_path / "stage").iterdir())


def test_entries_being_written_or_removed_are_not_listed(tmp_path, monkeypatch):
    """Their marker exists for a moment under a temporary name, before or after the folder is renamed."""
    store, seen = Store(tmp_path), []
    rename = os.rename

    def list_and_rename(source, target):
        seen.append([(entry.stage, entry.key) for entry in store.entries()])
        rename(source, target)
        seen.append([(entry.stage, entry.key) for entry in store.entries()])

    monkeypatch.setattr("stereotalker.store.local.os.rename", list_and_rename)
    store.make("stage", "key", write_text("x"))
    store.discard("stage", "key")
    there = [("stage", "key")]
    assert seen == [[], there, there, []]


def test_what_a_killed_writer_leaves_is_not_found_and_is_swept(tmp_path):
    code = (
        "import os, signal, pathlib, sys\nfrom stereotalker.store.local import Store\n"
        "def write(f):\n (f / 'a.txt').write_text('half'); os.kill(os.getpid(), signal.SIGKILL)\n"
        "Store(pathlib.Path(sys.argv[1])).make('stage', 'key', write)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)]).returncode == -9
    store = Store(tmp_path)
    assert store.find("stage", "key") is None and len(list((tmp_path / "stage").iterdir())) == 1
    assert store.sweep() == 1 and not list((tmp_path / "stage").iterdir())


def test_sweeping_spares_entries_that_are_being_written(tmp_path):
    store = Store(tmp_path)
    swept = []
    store.make("stage", "key", lambda f: (write_text("x")(f), swept.append(store.sweep())))
    assert swept == [0] and store.find("stage", "key")


def test_many_threads_make_one_entry(tmp_path):
    store = Store(tmp_path)

    def write(folder):
        time.sleep(0.02)
        write_text("x")(folder)

    with ThreadPoolExecutor(8) as threads:
        folders = set(threads.map(lambda _: store.make("stage", "key", write), range(8)))
    assert len(folders) == 1 and [p.name for p in (tmp_path / "stage").iterdir()] == ["key"]


def test_digests_differ_between_values_and_types():
    values = [
        1,
        1.0,
        "1",
        True,
        None,
        [1],
        [[1]],
        {"a": 1},
        {"b": 1},
        b"1",
        np.ones(1),
        np.ones(1, np.float32),
        ["ab", "c"],
        ["a", "bc"],
    ]
    assert len({digest(v) for v in values}) == len(values)
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    with pytest.raises(TypeError):
        digest(object())


def test_an_atomic_write_replaces_the_file(tmp_path):
    path = tmp_path / "f" / "x.json"
    write_atomic(path, b"1")
    write_atomic(path, b"2")
    assert path.read_bytes() == b"2" and os.listdir(path.parent) == ["x.json"]


def test_records_are_read_as_they_were_saved(tmp_path):
    speech = Speech(np.linspace(-1, 1, 50, dtype=np.float32), -20.5, (Timed("hi", 0.0, 0.5),), (Timed("h", 0.0, 0.1),))
    save(speech, tmp_path / "s.safetensors")
    read = load(Speech, tmp_path / "s.safetensors")
    assert read.words == speech.words and read.phonemes == speech.phonemes and read.loudness == -20.5
    assert np.array_equal(read.samples, speech.samples)
    with pytest.raises(UserError, match="expected a saved Motion"):
        load(Motion, tmp_path / "s.safetensors")


def test_records_check_their_shapes():
    with pytest.raises(UserError, match=r"Motion.poses: expected float32 \[2, 55, 3\]"):
        Motion(np.zeros((2, 54, 3), np.float32), np.zeros((2, 52), np.float32), np.zeros((2, 3), np.float32), 25.0)
    with pytest.raises(UserError, match="NaN"):
        Speech(np.array([0, np.nan], np.float32), -20.0)
