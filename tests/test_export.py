"""Motion controls of a clip, and motion files for other programs: npz, Live Link csv, bvh and a preview."""

import csv
import io

import numpy as np
import pytest
from scipy.spatial.transform import Rotation
from typer.testing import CliRunner

from stereotalker.acting.reference_acting import STYLE_INDEX
from stereotalker.avatar.names import safe_id
from stereotalker.cli.main import app
from stereotalker.errors import UserError
from stereotalker.evaluation.motion_metrics import lip_closure_rate
from stereotalker.media.video_files import probe
from stereotalker.motion.export import LIVE_LINK_COLUMNS, bvh_bytes, export, live_link_csv, npz_bytes, read_npz
from stereotalker.motion.post_processing import Emotion, with_blinks, with_emotion, with_gaze, with_still_body
from stereotalker.motion.preview import draw, mannequin
from stereotalker.production.manifest import Clip, single_clip
from stereotalker.production.motion_controls import Speaker, clip_motion_controls, make_motion
from stereotalker.records import Motion
from stereotalker.smplx_layout import ACTION, ACTIONS, JOINT, JOINTS, PARENTS

pytestmark = pytest.mark.integration


def test_npz_files_are_read_as_they_were_written(motion, body, tmp_path):
    (tmp_path / "a.npz").write_bytes(npz_bytes(motion, body))
    read = read_npz(tmp_path / "a.npz")
    assert (
        np.array_equal(read.poses, motion.poses)
        and np.array_equal(read.expression, motion.expression)
        and read.fps == 25.0
    )
    with np.load(tmp_path / "a.npz", allow_pickle=False) as file:
        assert (
            file["poses"].shape == (len(motion.poses), 165)
            and str(file["gender"]) == "neutral"
            and str(file["surface_model_type"]) == "smplx"
        )


@pytest.mark.parametrize(
    "make",
    [
        lambda p: p.write_bytes(b"no"),
        lambda p: np.savez(p, poses=np.zeros((3, 99)), trans=np.zeros((3, 3)), mocap_frame_rate=25),
        lambda p: np.savez(p, a=1),
        lambda p: None,
        lambda p: p.write_bytes(b"PK\x03\x04 broken"),
        lambda p: np.save(open(p, "wb"), np.zeros(3)),
        lambda p: np.savez(p, poses=np.zeros((0, 165)), trans=np.zeros((0, 3)), mocap_frame_rate=25),
        lambda p: np.savez(p, poses=np.full((2, 165), np.nan), trans=np.zeros((2, 3)), mocap_frame_rate=25),
    ],
)
def test_files_that_hold_no_motion_are_refused(tmp_path, make):
    make(tmp_path / "a.npz")
    with pytest.raises(UserError, match="is not a motion|expected"):
        read_npz(tmp_path / "a.npz")


def test_live_link_files_have_the_expected_columns_and_values(motion):
    rows = list(csv.DictReader(io.StringIO(live_link_csv(motion).decode())))
    assert (
        len(rows) == len(motion.poses)
        and list(rows[0])[:2] == ["Timecode", "BlendShapeCount"]
        and list(rows[0])[2:] == list(LIVE_LINK_COLUMNS)
    )
    assert len(LIVE_LINK_COLUMNS) == 61 and LIVE_LINK_COLUMNS[14:18] == ("JawForward", "JawRight", "JawLeft", "JawOpen")
    assert {c[0].lower() + c[1:] for c in LIVE_LINK_COLUMNS[:52]} == set(ACTIONS)
    values = np.array([[float(row[c]) for c in LIVE_LINK_COLUMNS] for row in rows])
    assert values[:, :52].min() >= 0 and values[:, :52].max() <= 1
    assert np.corrcoef(values[:, LIVE_LINK_COLUMNS.index("JawOpen")], motion.poses[:, JOINT["jaw"], 0])[0, 1] > 0.99
    assert np.allclose(
        values[:, LIVE_LINK_COLUMNS.index("MouthSmileLeft")], motion.expression[:, ACTION["mouthSmileLeft"]], atol=1e-5
    )
    assert rows[26]["Timecode"] == "00:00:01:01.000"


def test_bvh_files_place_the_joints_as_the_body_does(motion, body):
    lines = bvh_bytes(motion, body).decode().splitlines()
    names = [line.split()[1] for line in lines if line.split()[0] in ("ROOT", "JOINT")]
    assert sorted(names) == sorted(JOINTS) and lines.count("}") == 1
    values = np.array([float(v) for v in lines[-1].split()])
    angles = dict(zip(names, values[3:].reshape(-1, 3), strict=True))
    rest = body.joints(np.zeros(body.betas, np.float32))
    world, position = {}, {}
    for name in names:
        joint = JOINT[name]
        rotation = Rotation.from_euler("ZXY", angles[name], degrees=True)
        parent = PARENTS[joint]
        world[joint] = rotation if parent < 0 else world[parent] * rotation
        position[joint] = (
            values[:3] / 100 if parent < 0 else position[parent] + world[parent].apply(rest[joint] - rest[parent])
        )
    last = len(motion.poses) - 1
    expected = body.posed_joints(motion.frames(last, last + 1), np.zeros(body.betas, np.float32))[0][0]
    assert max(np.abs(position[JOINT[name]] - expected[JOINT[name]]).max() for name in names) < 1e-4


def test_unknown_formats_are_refused(motion, body, tmp_path):
    with pytest.raises(UserError, match="format fbx; expected some of npz, csv, bvh"):
        export(motion, body, tmp_path / "a", ["fbx"])


def test_emotions_fade_in_and_out_and_keep_lips_closed(motion, speech, body):
    smile = ACTION["mouthSmileLeft"]
    happy = with_emotion(motion, (Emotion(0.0, "happy"), Emotion(1.5, "serious")))
    added = happy.expression - motion.expression
    assert (
        added[:30, smile].min() > 0.3
        and added[-5:, smile].max() < 0.05
        and happy.expression[-5:, ACTION["browDownLeft"]].min() > 0.3
    )
    assert np.abs(np.diff(added[:, smile])).max() < 0.12 and with_emotion(motion, ()) is motion
    for name in ("happy", "serious"):
        assert lip_closure_rate(with_emotion(motion, (Emotion(0.0, name),)), speech, body) >= 0.88


def test_the_gaze_follows_a_moving_camera(motion):
    T = len(motion.poses)
    azimuth, elevation = np.linspace(-20, 20, T), np.full(T, 5.0)
    looking = with_gaze(motion, azimuth, elevation)
    turn = Rotation.identity(T)
    for name in ("pelvis", "spine1", "spine2", "spine3", "neck", "head", "left_eye"):
        turn = turn * Rotation.from_rotvec(looking.poses[:, JOINT[name]])
    gaze = turn.apply([0.0, 0.0, 1.0])
    to_camera = np.stack(
        [
            np.sin(np.radians(azimuth)) * np.cos(np.radians(5)),
            np.full(T, np.sin(np.radians(5))),
            np.cos(np.radians(azimuth)) * np.cos(np.radians(5)),
        ],
        1,
    )
    error_deg = np.degrees(np.arccos(np.clip((gaze * to_camera).sum(1), -1, 1)))
    assert error_deg.max() < 4.0 and error_deg.mean() < 2.0


def test_blinks_come_at_a_natural_rate_and_depend_on_the_seed():
    still = Motion(
        np.zeros((1500, 55, 3), np.float32), np.zeros((1500, 52), np.float32), np.zeros((1500, 3), np.float32), 25.0
    )
    lids = with_blinks(still, 3).expression[:, ACTION["eyeBlinkLeft"]] > 0.5
    assert (
        12 <= (lids[1:] & ~lids[:-1]).sum() <= 30
        and with_blinks(still, 3).expression.tobytes()
        == with_blinks(still, 3).expression.tobytes()
        != with_blinks(still, 4).expression.tobytes()
    )


def test_a_still_body_moves_only_its_head(motion):
    still = with_still_body(motion)
    moving = [name for name in JOINTS if still.poses[:, JOINT[name]].std(0).max() > 1e-4]
    assert {"head", "neck", "jaw"} <= set(moving) <= {"head", "neck", "jaw", "left_eye", "right_eye"}


def test_motion_controls_are_read_from_a_manifest_row(tmp_path, motion, body):
    (tmp_path / "a.npz").write_bytes(npz_bytes(motion, body))
    row = {
        "id": "a",
        "avatar": "ava",
        "script": "hi",
        "style": "teacher",
        "gaze": "camera",
        "body": "still",
        "emotion": "happy",
        "start_pose": tmp_path / "a.npz",
    }
    controls = clip_motion_controls(Clip.model_validate(row), 3, 40)
    assert controls.style == STYLE_INDEX["teacher"] and controls.gaze.shape == (2, 40) and controls.still
    assert np.array_equal(controls.start.poses[0], motion.poses[-1]) and controls.end is None
    resting = clip_motion_controls(Clip(id="a", avatar="ava", script="hi", end_pose="rest"), 3, 40)
    assert resting.end.poses.shape == (1, 55, 3)
    plain = clip_motion_controls(Clip(id="a", avatar="ava", script="hi"), 3, 40)
    assert (
        plain.style == 3
        and plain.gaze is None
        and plain.digest() != controls.digest() == clip_motion_controls(Clip.model_validate(row), 3, 40).digest()
    )


def test_a_speaker_gestures_from_where_the_clip_rests(avatar, body):
    clip = Clip(id="a", avatar="ava", script="hi", start_pose="rest")
    speaker = Speaker(avatar, body)
    controls = clip_motion_controls(clip, 0, 40, speaker)
    # The rest pose of a speaker is that of the portrait, where every motion begins anyway.
    assert controls.start is None and np.array_equal(controls.retargeting.target.poses, avatar.poses)
    sides = clip_motion_controls(clip.model_copy(update={"rest": "sides"}), 0, 40, speaker)
    assert not np.array_equal(sides.retargeting.target.poses, avatar.poses)
    assert len({c.digest() for c in (controls, sides, clip_motion_controls(clip, 0, 40))}) == 3


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"rest": "pockets"}, "rest"),
        ({"style": "pirate"}, "style 'pirate' is unknown; expected one of presenter"),
        ({"gaze": "moon"}, "gaze"),
        ({"emotion": "furious"}, "emotion"),
        ({"emotion": [{"time": 2, "name": "happy"}, {"time": 1, "name": "serious"}]}, "rising times"),
        ({"transcript": "hi"}, "a script needs none"),
        ({"gesture": 3}, "gesture"),
        ({"body": "still", "end_pose": "rest"}, "not both"),
    ],
)
def test_invalid_motion_controls_are_refused(values, complaint):
    with pytest.raises(UserError, match=complaint):
        single_clip("a", {"script": "hello"} | values)


def test_motion_files_of_a_script_are_written_in_every_format(tiny_models, tmp_path):
    clip = single_clip("my first.take", {"script": "Maybe my mother."})
    speech, paths, _ = make_motion(clip, tiny_models, tmp_path, ["npz", "csv", "bvh", "mp4"])
    name = safe_id("my first.take")
    assert [p.name for p in paths] == [f"{name}.{x}" for x in ("npz", "csv", "bvh", "mp4")] and speech.words
    frames = len(read_npz(paths[0]).poses)
    assert probe(paths[3]).frames == frames and f"Frames: {frames}" in paths[2].read_text()
    with pytest.raises(UserError, match="format gif"):
        make_motion(clip, tiny_models, tmp_path, ["gif"])
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is a file; expected a folder"):
        make_motion(clip, tiny_models, tmp_path / "file", ["npz"])


def test_the_preview_shows_a_person_before_a_background(motion, body):
    pictures = draw(motion.frames(0, 2), body, mannequin(body), (96, 128))
    assert pictures.shape == (2, 96, 128, 3) and 0.1 < (pictures[0] != pictures[0, 0, 0]).any(-1).mean() < 0.9


def test_the_mannequin_of_the_preview_is_clothed(body):
    clothed = mannequin(body)
    trunk = (
        body.weights[
            :,
            [
                JOINT[name]
                for name in (
                    "pelvis",
                    "spine1",
                    "spine2",
                    "spine3",
                    "left_hip",
                    "right_hip",
                    "left_shoulder",
                    "right_shoulder",
                )
            ],
        ].sum(1)
        > 0.6
    )
    assert (
        np.ptp(clothed.colours[trunk], 0).max() == 0
        and np.abs(clothed.colours[trunk][0] - clothed.colours[body.masks["lips"] > 0.5].mean(0)).max() > 50
    )
    assert (
        clothed.surface is not None and np.linalg.norm(clothed.surface[trunk].astype(np.float32), axis=1).mean() > 0.003
    )


def test_the_motion_command_refuses_bad_options_in_words(tmp_path, tiny_params):
    result = CliRunner().invoke(app, ["motion", str(tmp_path / "none.wav"), "--out", str(tmp_path)])
    assert result.exit_code != 0 and "not found" in str(result.exception)
    command = ["motion", "--script", "one", "--out", str(tmp_path)]
    for options, complaint in (
        (["--emotion", "3:sad"], "emotion.0.name"),
        (["--emotion", "-1:happy"], "emotion"),
        (["--emotion", "1:happy:1:more"], "expected NAME or TIME:NAME:AMOUNT"),
        (["--emotion", "3"], "expected NAME"),
        (["--fps", "0"], "fps"),
        (["--format", "npz, gif"], "format gif;"),
    ):
        result = CliRunner().invoke(app, [*command, *options])
        assert result.exit_code != 0 and complaint in str(result.exception)
