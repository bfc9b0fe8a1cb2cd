"""Batch manifests in three formats: defaults, and the errors that name every fault."""

import json

import pytest
from pydantic import ValidationError

from stereotalker.errors import UserError
from stereotalker.production.manifest import Clip, read_manifest

YAML = """
defaults: {avatar: ava, fps: 30, script: hello}
clips:
  - {id: one}
  - {id: two, audio: speech/two.wav, camera: {kind: orbit, swing: 10}}
"""


def write(tmp_path, name, text):
    path = tmp_path / name
    path.write_text(text)
    return path


def test_a_clips_own_values_replace_the_defaults(tmp_path):
    one, two = read_manifest(write(tmp_path, "b.yaml", YAML)).clips
    assert (one.script, one.audio, one.fps) == ("hello", None, 30)
    assert two.script is None and two.audio == tmp_path / "speech/two.wav" and two.camera.swing == 10


def test_yaml_jsonl_and_csv_give_the_same_clips(tmp_path):
    rows = [
        {"id": "a", "avatar": "ava", "script": "hi, you", "seed": 3},
        {"id": "b", "avatar": "ben", "script": "yes", "seed": 4},
    ]
    by_yaml = read_manifest(write(tmp_path, "b.yaml", json.dumps({"clips": rows})))
    by_jsonl = read_manifest(write(tmp_path, "b.jsonl", "\n".join(map(json.dumps, rows)) + "\n\n"))
    by_csv = read_manifest(write(tmp_path, "b.csv", 'id,avatar,script,seed\na,ava,"hi, you",3\nb,ben,yes,4\n'))
    assert by_yaml.clips == by_jsonl.clips == by_csv.clips


def test_csv_columns_may_name_camera_keys_and_empty_cells_are_skipped(tmp_path):
    clip, other = read_manifest(
        write(tmp_path, "b.csv", "id,avatar,audio,script,camera.azimuth,fps\na,ava,x.wav,,12.5,\nb,ava,,hi,,12\n")
    ).clips
    assert clip.camera.azimuth == 12.5 and clip.fps == 25 and clip.script is None
    assert other.fps == 12 and other.audio is None


def test_all_faults_are_reported_at_once_with_row_and_id(tmp_path):
    path = write(tmp_path, "b.yaml", """
defaults: {avatar: ava}
clips:
  - {id: ok, script: hi}
  - {id: odd, script: hi, width: 255}
  - {id: ../evil, script: hi}
  - {id: ok, script: twice}
  - {id: typo, script: hi, gestures: 2}
  - {id: both, script: hi, audio: a.wav}
  - {script: nameless}
  - {id: far, script: hi, camera: {azimuth: 80}}
  - just text
""")  # fmt: skip
    with pytest.raises(UserError) as error:
        read_manifest(path)
    lines = str(error.value).splitlines()
    assert len(lines) == 8 and all(str(path) in line for line in lines)
    text = str(error.value)
    for part in (
        "row 2, clip 'odd'",
        "row 3, clip '../evil'",
        "row 4, clip 'ok': id is already taken by row 1",
        "unknown key 'gestures'",
        "row 6, clip 'both': give audio or script",
        "row 7: id is missing",
        "camera.azimuth",
        "row 9: expected a mapping",
    ):
        assert part in text


@pytest.mark.parametrize(
    ("name", "text", "complaint"),
    [
        ("b.yaml", "clips: [", "not readable as yaml"),
        ("b.yaml", "- a\n- b\n", "expected a mapping with `clips:`"),
        ("b.yaml", "clips: []\n", "no clips"),
        ("b.yaml", "clips: [{id: a, avatar: ava, script: x}]\nclip: []\n", "unknown key 'clip'"),
        ("b.jsonl", "{oops\n", "row 1: not JSON"),
        ("b.jsonl", "[1]\n", "row 1: expected an object"),
        ("b.csv", "id,avatar,script\na,ava,hi,extra\n", "number of cells"),
        ("b.txt", "", "ends in .yaml"),
        ("b.yaml", "clips: [{id: a, avatar: ava, script: x, camera: {kind: keyframes}}]", "camera points"),
        (
            "b.yaml",
            "clips: [{id: a, avatar: ava, script: x, camera: {kind: keyframes, points: [{time: 0, elevation: 21}]}}]",
            "less than or equal to 20",
        ),
        ("b.yaml", "clips: [{id: a, avatar: ava, script: x, camera: {zoom: 3}}]", "less than or equal to 2"),
        ("b.yaml", "clips: [{id: a, avatar: ava, script: x, stereo: {layout: crossed}}]", "side-by-side"),
        (
            "b.yaml",
            "clips: [{id: a, avatar: ava, script: x, stereo: {}, background: transparent}]",
            "leave out stereo or transparent",
        ),
        (
            "b.yaml",
            "clips: [{id: a, avatar: ava, script: x, camera: {kind: keyframes, points: [{time: 1}, {time: 1}]}}]",
            "rising times",
        ),
        (
            "b.yaml",
            "clips: [{id: a, avatar: ava, script: x, camera: {swing: 30, period: 3}}]",
            "of kind fixed does not read period, swing; kind: orbit does",
        ),
        (
            "b.yaml",
            # These are the defaults of an orbit, and still they are refused.
            "clips: [{id: a, avatar: ava, script: x, camera: {swing: 15, period: 8}}]",
            "does not read period, swing",
        ),
        (
            "b.yaml",
            "clips: [{id: a, avatar: ava, script: x, camera: orbit}]",
            "camera: expected keys and their values .got 'orbit'",
        ),
        (
            "b.yaml",
            "clips: [{id: a, avatar: ava, script: x, camera: {kind: keyframes, points: [{time: 0}, {time: .inf}]}}]",
            "finite number",
        ),
        ("b.yaml", "clips: [{id: a, avatar: ava, script: x, camera: {kind: orbit, period: .inf}}]", "finite number"),
        (
            "b.yaml",
            "clips: [{id: a, avatar: ava, script: x, camera: {kind: keyframes, zoom: 2, points: [{time: 0}]}}]",
            "of kind keyframes does not read zoom",
        ),
        (
            "b.yaml",
            "clips: [{id: a, avatar: ava, script: x, camera: {kind: orbit, azimuth: 40, swing: 20}}]",
            "60 degrees",
        ),
    ],
)
def test_invalid_manifests_are_refused_with_the_reason(tmp_path, name, text, complaint):
    with pytest.raises(UserError, match=complaint):
        read_manifest(write(tmp_path, name, text))


def test_a_missing_manifest_is_refused(tmp_path):
    with pytest.raises(UserError, match="not found"):
        read_manifest(tmp_path / "nowhere.yaml")


@pytest.mark.parametrize("size", [(4000, 2250), (2250, 4000), (2162, 64)])
def test_a_frame_that_is_too_large_is_refused_with_the_limit_and_its_memory(size):
    with pytest.raises(ValidationError, match=rf"{size[0]} x {size[1]} px: a side has at most 2160 px.* \d+ GB"):
        Clip(id="a", avatar="ava", script="hi", width=size[0], height=size[1])


@pytest.mark.parametrize("size", [(1080, 1920), (1920, 1080), (2160, 2160), (2160, 926), (64, 64), (66, 130)])
def test_frames_of_any_shape_within_the_limit_are_accepted(size):
    clip = Clip(id="a", avatar="ava", script="hi", width=size[0], height=size[1])
    assert (clip.width, clip.height) == size
