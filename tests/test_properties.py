"""Properties that hold for all input, searched by hypothesis: windows, retakes, manifests and the store."""

import json
import shutil
import tempfile
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from stereotalker.diffusion.windows import Window, windows
from stereotalker.errors import UserError
from stereotalker.production.manifest import Clip, read_manifest
from stereotalker.production.segments import assemble
from stereotalker.store.local import MARKER, Store

settings.register_profile("suite", max_examples=60, deadline=None, derandomize=True)
settings.load_profile("suite")


@given(st.integers(1, 500), st.integers(1, 60), st.data())
def test_windows_cover_every_frame_and_share_their_overlap(frames, length, data):
    overlap = data.draw(st.integers(0, length - 1))
    grid = windows(frames, length, overlap)
    assert grid[0].start == 0 and grid[-1].stop == frames and [w.index for w in grid] == list(range(len(grid)))
    for before, after in pairwise(grid):
        assert before.stop - after.start == after.overlap == overlap
        assert before.stop - before.start == length
    assert all(0 < window.stop - window.start <= length for window in grid)


@given(st.integers(1, 300), st.integers(1, 40))
def test_a_segment_does_not_depend_on_the_length_of_the_clip(frames, length):
    longer = windows(frames + length, length)
    assert [w for w in windows(frames, length) if w.stop - w.start == length] == longer[: frames // length]


@given(st.integers(1, 80), st.lists(st.tuples(st.integers(0, 79), st.integers(1, 30)), max_size=5), st.integers(1, 16))
def test_each_frame_comes_from_the_last_part_that_holds_it(frames, retakes, chunk):
    """retakes: (first frame, number of frames). Each part is stored in chunks, and the value of a frame is its part."""
    spans = [(0, frames), *((start, min(start + count, frames)) for start, count in retakes if start < frames)]
    parts, stored = [], {}
    for number, (start, stop) in enumerate(spans):
        keys = []
        for first in range(start, stop, chunk):
            key = f"{number}/{first}"
            stored[key] = np.full(min(chunk, stop - first), number)
            keys.append(key)
        parts.append((Window(number, start, stop, 0), tuple(keys)))
    result = np.concatenate(list(assemble(parts, frames, stored.__getitem__)))
    expected = np.zeros(frames, int)
    for number, (start, stop) in enumerate(spans):
        expected[start:stop] = number
    assert np.array_equal(result, expected)


IDS = st.text("abcXYZ019._-", min_size=1, max_size=12)
CLIPS = st.fixed_dictionaries(
    {"id": IDS, "avatar": st.sampled_from(["ava", "ben"]), "script": st.text(min_size=1, max_size=30)},
    optional={
        "width": st.integers(60, 1030),
        "fps": st.floats(4, 61),
        "seed": st.integers(-1, 5),
        "gesture": st.floats(allow_nan=True),
        "camera": st.fixed_dictionaries(
            {"kind": st.sampled_from(["fixed", "orbit", "spin"])},
            optional={"azimuth": st.floats(-60, 60), "rise": st.floats(-1, 1), "swing": st.floats(-50, 50)},
        ),
        "retakes": st.lists(st.fixed_dictionaries({"start": st.floats(0, 5), "end": st.floats(0, 5)}), max_size=2),
        "colour": st.none(),
    },
)


def read(folder: str, name: str, text: str):
    path = Path(folder) / name
    path.write_text(text, encoding="utf-8")
    try:
        return read_manifest(path).clips
    except UserError as error:
        return str(error)


@given(st.lists(CLIPS, min_size=1, max_size=4))
def test_a_manifest_is_read_or_refused_alike_in_every_format(clips):
    with tempfile.TemporaryDirectory() as folder:
        in_yaml = read(folder, "a.yaml", yaml.safe_dump({"clips": clips}, allow_unicode=True))
        in_json = read(folder, "a.jsonl", "".join(json.dumps(clip) + "\n" for clip in clips))
    if isinstance(in_yaml, str):
        assert isinstance(in_json, str) and all(", row " in line for line in in_yaml.splitlines())
        assert in_yaml.replace("a.yaml", "") == in_json.replace("a.jsonl", "")
    else:
        assert in_yaml == in_json and [clip.id for clip in in_yaml] == [clip["id"] for clip in clips]
        assert all(Clip.model_validate(clip.model_dump(exclude_unset=True)) == clip for clip in in_yaml)


@pytest.mark.parametrize(
    ("older", "newer"),
    [
        ({"camera": {"rise": 0.2}}, {"camera": {"vertical_shift": 0.2}}),
        ({"stereo": {"pupils": 70}}, {"stereo": {"ipd_mm": 70}}),
        (
            {"camera": {"kind": "keyframes", "points": [{"time": 0, "rise": 0.1}]}},
            {"camera": {"kind": "keyframes", "points": [{"time": 0, "vertical_shift": 0.1}]}},
        ),
    ],
)
def test_older_names_of_keys_still_work_with_a_note(tmp_path, older, newer):
    read_clips = []
    for name, keys in (("older", older), ("newer", newer)):
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump({"clips": [{"id": "a", "avatar": "ava", "script": "hi", **keys}]}))
        read_clips.append(read_manifest(path))
    assert read_clips[0].clips == read_clips[1].clips
    assert not read_clips[1].notes and "older name still works" in read_clips[0].notes[0]


class StoreMachine(RuleBasedStateMachine):
    """Makes, finds and damages entries and kills writers in any order: an entry is whole or it is not found."""

    keys = Bundle("keys")

    def __init__(self):
        super().__init__()
        self.root = Path(tempfile.mkdtemp())
        self.store = Store(self.root)
        self.whole: set[str] = set()

    def teardown(self):
        shutil.rmtree(self.root)

    @rule(target=keys, name=st.sampled_from("abc"))
    def name(self, name):
        return name

    @rule(key=keys)
    def make(self, key):
        folder = self.store.make("stage", key, lambda folder: (folder / "file").write_text(key))
        self.whole.add(key)
        assert (folder / "file").read_text() == key

    @rule(key=keys)
    def find(self, key):
        found = self.store.find("stage", key)
        assert (found is not None) == (key in self.whole)

    @rule(key=keys)
    def writer_fails(self, key):
        def fail(folder):
            (folder / "file").write_text("half")
            raise ValueError("stopped")

        if key in self.whole:
            self.store.make("stage", key, fail)  # It is found, so nothing is written.
        else:
            with pytest.raises(ValueError, match="stopped"):
                self.store.make("stage", key, fail)

    @rule(key=keys)
    def writer_was_killed(self, key):
        """The file that a killed process leaves behind."""
        left = self.root / "stage" / f"{key}.another-host.1-1.tmp"
        left.mkdir(parents=True, exist_ok=True)
        (left / "file").write_text("half")

    @rule(key=keys, name=st.sampled_from(["file", MARKER]))
    def deletion_was_killed(self, key, name):
        """A folder under its final name without one of its files, as a stopped deletion leaves it."""
        path = self.root / "stage" / key / name
        if path.exists():
            path.unlink()
            self.whole.discard(key)

    @rule(key=keys)
    def file_is_cut(self, key):
        path = self.root / "stage" / key / "file"
        if path.exists():
            path.write_text("")
            self.whole.discard(key)

    @rule()
    def sweep(self):
        self.store.sweep()

    @invariant()
    def found_entries_are_whole(self):
        assert all(self.store.find("stage", key) is not None for key in self.whole)


TestStore = StoreMachine.TestCase
