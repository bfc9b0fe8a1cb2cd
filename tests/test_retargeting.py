"""Retargeting: gestures leave from the portrait's own pose, and the motion knows what the portrait shows."""

from dataclasses import replace

import numpy as np
import pytest
from avatar_helpers import own_view, still_motion
from scipy.spatial.transform import Rotation

from stereotalker.acting.reference_acting import STYLES, resting_pose
from stereotalker.geometry import camera
from stereotalker.geometry.camera_path import CameraPath
from stereotalker.motion.arm_positions import ArmPositions
from stereotalker.motion.arm_retargeting import _MAX_HAND_TURN, ArmRetargeting
from stereotalker.motion.coverage import Coverage
from stereotalker.motion.features import BODY_JOINTS
from stereotalker.motion.rest_pose import ARM_POSES, RestPose, _touch
from stereotalker.motion.retargeting import Retargeting, retarget
from stereotalker.records import Motion
from stereotalker.smplx_layout import JOINT, JOINTS, SIDES

pytestmark = [pytest.mark.integration, pytest.mark.xdist_group("avatar")]

FPS, T = 25.0, 75
MIDDLE = T // 2
ARM_JOINTS = [JOINT[f"{side}_{name}"] for side in SIDES for name in ("collar", "shoulder", "elbow", "wrist")]
FINGERS = [k for k, name in enumerate(JOINTS) if name.startswith(SIDES) and name[-1] in "123"]


@pytest.fixture(scope="module")
def speaker(fitted, body):
    return fitted.avatar, body


@pytest.fixture(scope="module")
def retargeting(speaker):
    return Retargeting.of_speaker(*speaker, style=0)


def motion_of(poses) -> Motion:
    """`poses` f32 [55, 3] held for T frames, with an expression that changes."""
    expression = np.linspace(0, 0.5, T, dtype=np.float32)[:, None] * np.ones((1, 52), np.float32)
    return Motion(np.repeat(poses[None], T, 0).astype(np.float32), expression, np.zeros((T, 3), np.float32), FPS)


def gesture(**turns) -> Motion:
    """The resting pose of style 0 with rotations added to some joints (rad)."""
    poses = resting_pose(STYLES[0]).poses[0].copy()
    for joint, turn in turns.items():
        poses[JOINT[joint]] += turn
    return motion_of(poses)


def joints(motion, avatar, body):
    return body.posed_joints(motion, avatar.betas, avatar.surface)[0]


def test_the_rest_pose_of_the_acting_becomes_that_of_the_portrait(retargeting, speaker):
    avatar, _ = speaker
    result = retargeting.apply(gesture())
    moved = [*ARM_JOINTS, *FINGERS]
    assert np.abs(result.poses[:, moved] - avatar.poses[moved]).max() < 1e-3
    assert np.array_equal(result.expression, gesture().expression)


def test_a_clip_begins_and_ends_in_the_portraits_pose(retargeting, speaker):
    avatar, _ = speaker
    result = retargeting.apply(gesture(left_elbow=(0, -0.8, 0), head=(0.1, 0.2, 0)))
    joint_list = [*ARM_JOINTS, *FINGERS, JOINT["head"], JOINT["neck"]]
    for t in (0, -1):
        assert np.abs(result.poses[t, joint_list] - avatar.poses[joint_list]).max() < 1e-3
    assert np.abs(result.poses[MIDDLE, JOINT["left_elbow"]] - avatar.poses[JOINT["left_elbow"]]).max() > 0.1
    steps = np.abs(np.diff(result.poses[:, joint_list], axis=0)).max()
    assert steps < 0.15  # rad a frame: nothing jumps


def test_hands_move_as_far_as_in_the_acting(retargeting, speaker):
    avatar, body = speaker
    raised = gesture(left_elbow=(0, -0.25, 0))
    rest, after = joints(still_motion(avatar), avatar, body)[0], joints(retargeting.apply(raised), avatar, body)[MIDDLE]
    mean = np.zeros(body.betas, np.float32)
    before = [body.posed_joints(m, mean)[0][MIDDLE] for m in (gesture(), raised)]
    wrist = JOINT["left_wrist"]
    wanted, made = before[1][wrist] - before[0][wrist], after[wrist] - rest[wrist]
    assert np.linalg.norm(wanted) > 0.03
    # As the camera sees it, mostly in the same direction, and at least half as far. An elbow that moves along brings
    # the hand forward.
    assert made[:2] @ wanted[:2] > 0.5 * wanted[:2] @ wanted[:2]
    other = JOINT["right_wrist"]
    assert np.linalg.norm(after[other] - rest[other]) < 0.02


def forearm_away(motion, avatar, body, side="left") -> float:
    """How far a forearm turns away from its direction in the portrait in the middle of a motion, rad."""
    bones = [joints(m, avatar, body) for m in (still_motion(avatar), motion)]
    rest, moved = (
        places[t, JOINT[f"{side}_wrist"]] - places[t, JOINT[f"{side}_elbow"]]
        for places, t in zip(bones, (0, MIDDLE), strict=True)
    )
    return float(np.arccos(rest @ moved / np.linalg.norm(rest) / np.linalg.norm(moved)))


def test_a_forearm_that_points_at_the_camera_keeps_its_direction(speaker):
    avatar, body = speaker
    rest_pose = RestPose.of_avatar(avatar, body)
    elbow, wrist = (joints(still_motion(avatar), avatar, body)[0, JOINT[f"left_{name}"]] for name in ("elbow", "wrist"))
    forearm = (wrist - elbow) / np.linalg.norm(wrist - elbow)
    raised, source = gesture(left_elbow=(0, -0.6, 0)), RestPose.of_style(0, body)
    aside = np.cross(forearm, (0, 1, 0))
    pointing, lateral = (
        retarget(
            raised, source, replace(rest_pose, camera=rest_pose.joints[JOINT["left_wrist"]] + 50 * way, together=0.0)
        )
        for way in (forearm, aside)
    )
    assert forearm_away(pointing, avatar, body) < 0.6 * forearm_away(lateral, avatar, body)
    moved = [joints(m, avatar, body)[MIDDLE, JOINT["left_elbow"]] for m in (pointing, lateral)]
    assert np.linalg.norm(moved[0] - elbow) > 1.5 * np.linalg.norm(moved[1] - elbow)


def test_hands_that_come_forward_stay_in_the_picture_and_need_no_room_elsewhere(speaker):
    avatar, body = speaker
    target, source = RestPose.of_avatar(avatar, body), RestPose.of_style(0, body)
    raised = gesture(left_elbow=(0, -0.6, 0), left_shoulder=(0, 0.3, 0))
    wrist, places = JOINT["left_wrist"], {}
    for room in (0.06, 0.15, 5.0, np.inf):
        moved = retarget(raised, source, replace(target, room=(room, room), elbow_room=(np.inf, np.inf)))
        places[room] = joints(moved, avatar, body)[MIDDLE, wrist]
    assert places[0.06][0] < places[0.15][0] < places[5.0][0] + 1e-6
    assert np.allclose(places[5.0], places[np.inf], atol=1e-4)


def test_the_room_of_an_elbow_that_moves_along_counts(speaker):
    avatar, body = speaker
    target, source = RestPose.of_avatar(avatar, body), RestPose.of_style(0, body)
    outward = gesture(left_shoulder=(0, 0.8, 0))
    elbow, rest = JOINT["left_elbow"], joints(still_motion(avatar), avatar, body)[0]
    free, tight = (
        joints(retarget(outward, source, replace(target, elbow_room=room)), avatar, body)[MIDDLE, elbow, 0]
        for room in ((np.inf, np.inf), (0.0, 0.0))
    )
    assert tight - rest[elbow, 0] < 0.02 < free - rest[elbow, 0]


def test_elbows_do_not_flip_on_the_way_up(speaker):
    avatar, body = speaker
    arm = ArmRetargeting("left", RestPose.of_style(0, body), RestPose.of_avatar(avatar, body))
    way = np.linspace(0, 1, 25)[:, None] * (-0.14, 0.43, 0.10)
    upper_arm, _ = arm._solve(Rotation.from_rotvec(np.zeros((25, 3))), arm.rest.wrist + way, np.zeros(25))
    steps = (upper_arm[:-1].inv() * upper_arm[1:]).magnitude()
    assert np.degrees(steps.max()) < 25


@pytest.mark.parametrize(
    ("apart", "depth", "expected"), [(0.08, 0.1, 1), (0.13, 0.1, 0.5), (0.2, 0.1, 0), (0.05, 0.5, 0)]
)
def test_hands_move_together_that_lie_on_each_other(apart, depth, expected):
    positions = np.zeros((55, 3), np.float32)
    left = [k for k, name in enumerate(JOINTS) if name.startswith("left") and name[-1] in "123"]
    positions[left] = (apart, 0, depth)
    assert _touch(positions, np.eye(3, dtype=np.float32)) == pytest.approx(expected, abs=0.02)


def test_hands_that_lie_on_each_other_move_as_one_and_keep_their_turn(speaker):
    avatar, body = speaker
    target, source = RestPose.of_avatar(avatar, body), RestPose.of_style(0, body)
    raised = gesture(left_elbow=(0, -0.4, 0), left_wrist=(0.8, 0, 0))
    wrists = [JOINT[f"{side}_wrist"] for side in SIDES]
    rest = joints(still_motion(avatar), avatar, body)[0, wrists]
    moved, turned = {}, {}
    for together in (0.0, 1.0):
        motion = retarget(raised, source, replace(target, together=together))
        moved[together] = joints(motion, avatar, body)[MIDDLE, wrists] - rest
        chains = [ArmPositions.of("left", poses[None], target.joints) for poses in (avatar.poses, motion.poses[MIDDLE])]
        turned[together] = (chains[1].hand * chains[0].hand.inv()).magnitude()[0]
    assert np.linalg.norm(moved[0.0][1]) < 0.02 < np.linalg.norm(moved[1.0][1])
    assert np.linalg.norm(moved[1.0][0] - moved[1.0][1]) < 0.02
    assert turned[1.0] < 0.05 < turned[0.0]
    assert RestPose.of_avatar(avatar, body, "sides").together == 0


def test_bones_keep_their_lengths(retargeting, speaker):
    avatar, body = speaker
    wild = gesture(left_shoulder=(0.5, -0.6, 0.9), right_shoulder=(0, 0.9, -1.2), left_elbow=(0, 1.5, 0))
    rest, after = joints(still_motion(avatar), avatar, body)[0], joints(retargeting.apply(wild), avatar, body)
    for side in SIDES:
        for a, b in (("shoulder", "elbow"), ("elbow", "wrist")):
            bone = [JOINT[f"{side}_{name}"] for name in (a, b)]
            lengths = np.linalg.norm(after[:, bone[0]] - after[:, bone[1]], axis=1)
            assert np.allclose(lengths, np.linalg.norm(rest[bone[0]] - rest[bone[1]]), atol=2e-3)
    assert np.isfinite(after).all()


def test_raised_arms_raise_the_clavicles(speaker):
    avatar, body = speaker
    source, target = RestPose.of_style(0, body), RestPose.of_avatar(avatar, body)
    collar = JOINT["left_collar"]
    up = retarget(gesture(left_shoulder=(0, 0, 0.9)), source, target).poses[MIDDLE, collar]
    assert up[2] - avatar.poses[collar, 2] > 0.015  # rad; towards the person's head


def test_hands_stay_in_the_picture(speaker):
    avatar, body = speaker
    target = RestPose.of_avatar(avatar, body)
    outward = gesture(left_shoulder=(0, 0.8, 0), right_shoulder=(0, -0.8, 0))
    source = RestPose.of_style(0, body)
    wide, narrow = (
        joints(retarget(outward, source, replace(target, room=room)), avatar, body)[MIDDLE]
        for room in ((np.inf, np.inf), (0.0, 0.0))
    )
    rest = joints(still_motion(avatar), avatar, body)[0]
    wrist = JOINT["left_wrist"]
    assert narrow[wrist, 0] < wide[wrist, 0] and narrow[wrist, 0] - rest[wrist, 0] < 0.02


def test_arms_without_hands_in_the_picture_hardly_move(speaker):
    avatar, body = speaker
    hidden = replace(avatar, arms=False)
    wave = gesture(left_elbow=(0, -0.8, 0), head=(0, 0.2, 0))
    moved = {}
    for name, invents in (("still", False), ("invented", True)):
        retargeting = Retargeting.of_speaker(hidden, body, 0, invents_arms=invents)
        wrists = joints(retargeting.apply(wave), hidden, body)[:, JOINT["left_wrist"]]
        moved[name] = np.linalg.norm(wrists - wrists[0], axis=1).max()
    assert moved["still"] < 0.04 < moved["invented"]  # m
    head = Retargeting.of_speaker(hidden, body, 0).apply(wave).poses[MIDDLE, JOINT["head"]]
    assert abs(head[1] - avatar.poses[JOINT["head"], 1]) > 0.15  # the head moves as ever


@pytest.mark.parametrize("arms", ARM_POSES)
def test_arms_rest_where_the_clip_says(speaker, arms):
    avatar, body = speaker
    retargeting = Retargeting.of_speaker(avatar, body, 0, arms)
    after = joints(retargeting.apply(gesture()), avatar, body)[MIDDLE]
    wrists, shoulders = (after[[JOINT[f"{side}_{name}"] for side in SIDES]] for name in ("wrist", "shoulder"))
    if arms == "clasped":
        assert np.linalg.norm(wrists[0] - wrists[1]) < 0.25
    if arms == "sides":
        assert (shoulders[:, 1] - wrists[:, 1] > 0.42).all()
        elbows = after[[JOINT[f"{side}_elbow"] for side in SIDES]]
        assert (np.abs(elbows[:, 0]) > np.abs(shoulders[:, 0])).all()  # beside the trunk, not in it
    # Trunk and clavicles are the portrait's in any case.
    collars = [JOINT[f"{side}_collar"] for side in SIDES]
    assert np.abs(retargeting.target.poses[collars] - avatar.poses[collars]).max() == 0


def test_given_poses_replace_the_rest_pose_at_the_ends(retargeting):
    pose = resting_pose(STYLES[4])
    speaking = gesture(left_elbow=(0, -0.8, 0), jaw=(0.2, 0, 0))
    result = retargeting.apply(speaking, start=pose)
    body_joints = [JOINT[name] for name in BODY_JOINTS]
    assert np.abs(result.poses[0, body_joints] - pose.poses[0, body_joints]).max() < 1e-3
    # Speech goes on moving the face.
    assert np.array_equal(result.expression, speaking.expression)
    assert np.array_equal(result.poses[:, JOINT["jaw"]], speaking.poses[:, JOINT["jaw"]])
    assert np.abs(result.poses[-1, ARM_JOINTS] - retargeting.target.poses[ARM_JOINTS]).max() < 1e-3


def test_digests_depend_on_speaker_and_rest(speaker):
    avatar, body = speaker
    other = replace(avatar, poses=avatar.poses + np.float32(0.01))
    digests = [
        Retargeting.of_speaker(*arguments).digest()
        for arguments in ((avatar, body, 0), (avatar, body, 1), (avatar, body, 0, "sides"), (other, body, 0))
    ]
    assert len(set(digests)) == 4
    assert Retargeting.of_speaker(avatar, body, 0).digest() == digests[0]


def test_one_frame_is_enough(retargeting):
    assert len(retargeting.apply(gesture().frames(0, 1)).poses) == 1


# ---- coverage ----


def test_the_portrait_shows_what_its_own_view_shows(speaker):
    avatar, body = speaker
    coverage = Coverage(avatar, body)
    still, away = still_motion(avatar), still_motion(avatar)
    away.poses[:, [JOINT["left_wrist"], JOINT["right_wrist"]], 0] += 2.5  # palms turned to the other side
    own, turned = coverage.unseen(still, own_view(avatar)), coverage.unseen(away, own_view(avatar))
    assert own.hands < 0.25 and own.arms < 0.25 and turned.hands > own.hands + 0.05
    aside = camera.avatar_camera(avatar, CameraPath(azimuth=45.0), 1, FPS, (64, 64))
    assert coverage.unseen(still, aside).arms > own.arms + 0.1


def test_hands_that_are_drawn_as_in_the_portrait_count_as_shown(speaker):
    avatar, body = speaker
    coverage = Coverage(avatar, body)
    assert [hand.sides for hand in coverage.hands] == [("left",), ("right",)]
    assert coverage.unseen(still_motion(avatar), own_view(avatar)).hands == 0
    coverage.hands = ()
    assert coverage.unseen(still_motion(avatar), own_view(avatar)).hands > 0


def test_hands_turn_little_but_for_cues(retargeting, speaker):
    avatar, body = speaker
    result = retargeting.apply(gesture(left_wrist=(1.2, 0, 0), right_wrist=(0, 1.2, 0)))
    turned, own = (
        body.posed_joints(m, avatar.betas, avatar.surface)[1][:, [JOINT[f"{side}_wrist"] for side in SIDES]]
        for m in (result, still_motion(avatar))
    )
    change = Rotation.from_matrix((turned @ own.transpose(0, 1, 3, 2)).reshape(-1, 3, 3)).magnitude()
    assert 0.05 < change.max() < _MAX_HAND_TURN + 0.02
