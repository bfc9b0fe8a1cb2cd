"""The reference acting: lips, gestures and hands that follow the speech and stay outside the body."""

import numpy as np
import pytest

from stereotalker.acting import arm_ik, gestures
from stereotalker.acting.collision import keep_clear
from stereotalker.acting.gesture_planning import plan_gestures
from stereotalker.acting.reference_acting import STYLES, accent_times, act, gesture_plan, lip_closure_spans
from stereotalker.records import Motion, Timed
from stereotalker.smplx_layout import JOINT
from stereotalker.synthetic.anatomy import anatomy
from stereotalker.synthetic.contact import hand_penetration

pytestmark = [pytest.mark.integration, pytest.mark.xdist_group("people")]


@pytest.mark.parametrize("style", STYLES, ids=lambda s: s.name)
def test_lips_close_on_every_bilabial(speech, body, style):
    motion = act(speech, style, 1, 25.0)
    aperture = body.lip_aperture(motion)
    times, limit = (np.arange(len(aperture)) + 0.5) / 25, 0.1 * np.percentile(aperture, 95)
    assert all(
        (aperture[(times > start - 0.04) & (times < end + 0.04)] < limit).any()
        for start, end in lip_closure_spans(speech.phonemes)
    )
    assert np.percentile(aperture, 95) > 5.0


@pytest.mark.parametrize("fps", [12.0, 23.976, 60.0])
def test_the_acting_is_as_long_as_its_speech(speech, fps):
    assert len(act(speech, STYLES[0], 0, fps).poses) == round(speech.seconds * fps)


def test_strength_scales_the_movement_of_the_arms(speech):
    def spread(strength):
        return act(speech, STYLES[2], 3, 25.0, strength).poses[:, JOINT["right_elbow"]].std(0).sum()

    assert spread(0.0) < 0.5 * spread(1.0) and spread(1.0) < 1.5 * spread(2.0)


def test_wrists_reach_the_last_pose_of_every_gesture(body):
    """The inverse kinematics of both arms against the skinning of the body."""
    rows = np.stack([gesture.moves[-1][1].vector() for gesture in gestures.GESTURE_CLASSES.values()])
    poses = np.zeros((len(rows), 55, 3), np.float32)
    for side in ("left", "right"):
        arm_ik.pose_arm(side, rows, poses)
    with np.load(body.path) as file:
        regressor = file["J_regressor"].argmax(1)
    vertices = body.posed(
        Motion(poses, np.zeros((len(rows), 52), np.float32), np.zeros((len(rows), 3), np.float32), 25.0),
        np.zeros(body.betas),
    ).vertices
    reachable = np.linalg.norm(rows[:, :3] - arm_ik.LEFT_SHOULDER_M, axis=1) < arm_ik.MAX_REACH_M
    for side, mirror in (("left", 1), ("right", -1)):
        wrists = vertices[:, regressor[JOINT[f"{side}_wrist"]]] * np.array([mirror, 1, 1])
        assert np.linalg.norm(wrists - rows[:, :3], axis=1)[reachable].max() < 0.015
        assert (
            np.linalg.norm(poses[:, JOINT[f"{side}_wrist"]], axis=1).max()
            <= arm_ik.MAX_WRIST_SWING_RAD + 0.4 * arm_ik.MAX_FOREARM_TWIST_RAD
        )
        assert (
            np.linalg.norm(poses[:, JOINT[f"{side}_elbow"]], axis=1).max()
            < arm_ik.MAX_ELBOW_BEND_RAD + arm_ik.MAX_FOREARM_TWIST_RAD
        )
    assert reachable.mean() > 0.95


def test_words_get_the_gestures_of_the_lexicon():
    words = tuple(
        Timed(text, 2.0 * k + 0.5, 2.0 * k + 0.9) for k, text in enumerate(("Huge,", "you", "banana", "nobody"))
    )
    planned = plan_gestures(words, np.array([]), 1.0, 1.0, np.random.default_rng(0))
    assert (
        [g.name for g in planned] == ["big", "you", "none"]
        and planned[1].hands == ("right",)
        and planned[0].hands == ("left", "right")
    )
    assert len(gestures.GESTURE_CLASSES) >= 25 and set(gestures.LEXICON.values()) <= set(gestures.GESTURE_CLASSES)
    assert (
        len(STYLES) == 20
        and len({s.name for s in STYLES}) == 20
        and {s.rest for s in STYLES} <= set(gestures.REST_POSES)
    )


def test_gesture_strokes_fall_on_words_or_accents(speech):
    accents = accent_times(speech.phonemes)
    for gesture in gesture_plan(speech, STYLES[2], 5):
        inside = any(w.start - 0.05 <= gesture.time <= w.end + 0.05 for w in speech.words)
        assert inside or np.abs(accents - gesture.time).min() < 0.05


def test_hands_stay_out_of_the_body(body, actor, speech):
    measures, avatar = anatomy(body), actor.avatar
    for style in STYLES[::4]:
        motion = act(speech, style, 2, 4.0, 1.0, actor.girth)
        vertices = body.posed(motion, avatar.betas, avatar.surface).vertices
        assert np.mean([hand_penetration(measures, v) > 0.006 for v in vertices]) <= 0.1, style.name


def test_keep_clear_pushes_hands_out_of_the_body_and_apart():
    inside = gestures.REST_POSES["together"][0].vector()
    inside[:3] = (0.05, 0.40, 0.05)
    hands = {"left": inside[None].copy(), "right": inside[None].copy()}
    keep_clear(hands, 0.0)
    assert hands["left"][0, 2] > 0.15 and hands["left"][0, 2] > hands["right"][0, 2]
