"""Measures of a portrait's gestures: on motions whose right values are known."""

from dataclasses import replace

import numpy as np
import pytest
from avatar_helpers import still_motion

from stereotalker.avatar.frame_detectors import HandFinder
from stereotalker.evaluation.portrait_gestures import (
    SleeveLabel,
    are_sleeves_right,
    examine,
    read_sleeve_labels,
    sheet_row,
    summary,
    wrist_range,
)
from stereotalker.smplx_layout import JOINT
from tests.conftest import REAL_DATA

pytestmark = [pytest.mark.integration, pytest.mark.xdist_group("avatar")]

DETECTORS = REAL_DATA / "detectors"


@pytest.fixture(scope="module")
def finder():
    if not DETECTORS.is_dir():
        pytest.skip(f"{DETECTORS} holds no detector")
    with HandFinder(DETECTORS) as found:
        yield found


def test_a_still_clip_shows_what_the_portrait_shows(fitted, body, tiny_models, finder):
    score = examine(tiny_models.renderer, fitted.avatar, still_motion(fitted.avatar, 13), finder, body, size=128)
    assert len(score.frames) == 6 and score.frames.shape[1:] == (128, 112, 3)
    assert score.unseen_hands < 0.25 and score.unseen_arms < 0.2
    assert score.wrist_range < 1e-4
    assert np.isnan(score.shoulder_rise) or abs(score.shoulder_rise) < 1e-3  # nan: hands are above the chest
    assert score.background_hands == 0 and score.background_person < 0.05 and np.isnan(score.sleeves_right)
    assert [tile.shape for tile in sheet_row(fitted.avatar, score)] == [(128, 112, 3)] * 7
    table = summary([score, replace(score, hands_found=0.5, unseen_hands=0.4)], [0.1, 0.2])
    assert table["portraits"] == 2 and summary([], []) == {}


def test_raised_collars_count_as_raised_shoulders_and_moving_wrists_have_a_range(fitted, body, tiny_models, finder):
    motion = still_motion(fitted.avatar, 12)
    motion.poses[:, JOINT["left_collar"], 2] += 0.3
    motion.poses[:, JOINT["right_collar"], 2] -= 0.3
    for side, way in (("left", -1), ("right", 1)):  # arms hang, because shoulders are judged with low hands only
        motion.poses[:, JOINT[f"{side}_shoulder"]] = (0, 0, 1.3 * way)
        motion.poses[:, JOINT[f"{side}_elbow"]] = 0
    motion.poses[:, JOINT["left_elbow"], 1] = -np.linspace(0, 0.8, 12)
    score = examine(tiny_models.renderer, fitted.avatar, motion, finder, body, size=96)
    assert score.shoulder_rise > 0.1
    assert wrist_range(motion, body, fitted.avatar.betas, fitted.avatar.surface) > 0.03


def test_a_picture_without_hands_has_none(finder):
    gray = np.full((384, 384, 3), 128, np.uint8)
    assert finder.hand(gray) is None and finder.count_hands_and_faces(gray) == 0 and finder.person_share(gray) < 0.5


def test_sleeves_are_compared_with_their_labels(fitted, body):
    labels = read_sleeve_labels()
    assert len(labels) == 34 and all(0 <= label.end <= 1 for label in labels.values())
    assert all(len(label.places) == 2 * (0 < label.end < 0.53) for label in labels.values())
    # Skin and cloth of the mannequin have the same colors, so its sleeves count as long.
    for end, is_right in ((1.0, True), (0.95, True), (0.94, False), (0.3, False)):
        assert are_sleeves_right(fitted.avatar, body, SleeveLabel(end, {})) == is_right


def test_a_sleeves_label_stays_at_its_place_if_the_fit_moves():
    label = SleeveLabel(0.25, {"left": np.array([0.6, 0.5])})
    shoulder, elbow = np.array([0.6, 0.4]), np.array([0.6, 0.6])
    assert np.isclose(label.of_arm("left", shoulder, elbow, 0.5), 0.25)
    assert np.isclose(label.of_arm("left", shoulder - (0, 0.1), elbow, 0.5), 1 / 3)
    assert label.of_arm("right", shoulder, elbow, 0.5) == 0.25
