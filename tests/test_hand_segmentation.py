"""Hands of a portrait, segmented around the detector's key points."""

import cv2
import numpy as np
import pytest

from stereotalker.avatar.hand_segmentation import segment_hands
from stereotalker.smplx_layout import REGION

SKIN, CLOTH, WALL = (205, 150, 125), (40, 60, 150), (90, 120, 90)
HANDS, ARMS, TORSO, BACKGROUND = (REGION[name] for name in ("hands", "arms", "torso", "background"))
SIZE = 320


def open_hand(x=150.0, y=190.0, length=60.0) -> np.ndarray:
    """Key points f32 [21, 2] px of an open hand that points up, with its wrist at (x, y)."""
    points = [(0.0, 0.0), *((0.25 + 0.12 * k, -0.2 - 0.2 * k) for k in range(4))]
    for finger in range(4):
        points += [(0.3 - 0.2 * finger, -1 - 0.27 * k) for k in range(4)]
    return (np.array(points) * length + (x, y)).astype(np.float32)


def draw(points: np.ndarray, length=60.0) -> np.ndarray:
    """The true mask of a hand, bool [SIZE, SIZE]."""
    mask = np.zeros((SIZE, SIZE), np.uint8)
    whole = np.rint(points).astype(np.int32)
    cv2.fillPoly(mask, [whole[[0, 1, 2, 5, 9, 13, 17]]], 1)
    for first in range(1, 21, 4):
        cv2.polylines(
            mask, [whole[[0 if first == 1 else first, *range(first, first + 4)]]], False, 1, round(0.18 * length)
        )
    return mask > 0


def picture_of(hand: np.ndarray, seed=0) -> np.ndarray:
    """Skin where the hand is, cloth beside it, and a wall in the upper quarter; with noise."""
    picture = np.full((SIZE, SIZE, 3), CLOTH, np.float64)
    picture[: SIZE // 4] = WALL
    picture[hand] = SKIN
    return np.clip(picture + np.random.default_rng(seed).normal(0, 4, picture.shape), 0, 255).astype(np.uint8)


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    return float((a & b).sum() / (a | b).sum())


@pytest.mark.parametrize("y", [190.0, 150.0])  # the second hand reaches over the wall
def test_a_hand_is_found_where_the_labels_are_off(y):
    points = open_hand(y=y)
    hand = draw(points)
    regions = np.full((SIZE, SIZE), TORSO, np.uint8)
    regions[: SIZE // 4] = BACKGROUND
    regions[np.roll(hand, 9, (0, 1))] = HANDS
    result = segment_hands(picture_of(hand), regions, {"left": points})
    assert overlap(hand, regions == HANDS) < 0.7
    assert overlap(hand, result == HANDS) > 0.9


def test_cloth_that_counted_as_hand_gets_the_label_beside_it():
    points = open_hand()
    hand = draw(points)
    regions = np.where(cv2.dilate(hand.astype(np.uint8), np.ones((21, 21))) > 0, HANDS, TORSO).astype(np.uint8)
    result = segment_hands(picture_of(hand), regions, {"left": points})
    assert (result[~hand] == TORSO).mean() > 0.99


def test_a_forearm_of_the_same_color_is_no_hand():
    points = open_hand()
    hand = draw(points)
    forearm = np.zeros_like(hand)
    forearm[200:, 130:170] = True
    regions = np.where(forearm, ARMS, TORSO).astype(np.uint8)
    regions[hand] = HANDS
    result = segment_hands(picture_of(hand | forearm), regions, {"left": points})
    assert (result[240:, 135:165] == ARMS).all()
    assert (result[hand] == HANDS).mean() > 0.93


def test_each_of_two_hands_keeps_its_fingers():
    left, right = open_hand(x=210), open_hand(x=110)
    both = draw(left) | draw(right)
    result = segment_hands(picture_of(both), np.full((SIZE, SIZE), TORSO, np.uint8), {"left": left, "right": right})
    assert overlap(both, result == HANDS) > 0.9


@pytest.mark.parametrize(
    "points",
    [
        open_hand(x=-80.0),  # outside the picture
        open_hand(length=1.0),  # a speck
        np.full((21, 2), 150, np.float32),  # one point
    ],
    ids=["outside", "speck", "point"],
)
def test_labels_stay_where_no_hand_can_be_found(points):
    regions = np.full((SIZE, SIZE), TORSO, np.uint8)
    regions[100:140, 100:140] = HANDS
    picture = picture_of(np.zeros((SIZE, SIZE), bool))
    assert (segment_hands(picture, regions, {"left": points}) == regions).all()


def test_labels_stay_where_the_hand_has_the_color_of_the_cloth():
    points = open_hand()
    regions = np.full((SIZE, SIZE), TORSO, np.uint8)
    regions[draw(points)] = HANDS
    result = segment_hands(picture_of(np.zeros((SIZE, SIZE), bool)), regions, {"left": points})
    assert (result == regions).all()


def test_a_hand_before_the_face_leaves_the_face():
    points = open_hand(y=150)
    hand = draw(points)
    regions = np.full((SIZE, SIZE), TORSO, np.uint8)
    face = np.zeros_like(hand)
    face[40:110, 90:220] = True
    picture = picture_of(hand | face)
    picture[hand] = np.clip(picture[hand].astype(int) - 30, 0, 255)
    regions[face & ~hand] = REGION["face"]
    regions[hand] = HANDS
    result = segment_hands(picture, regions, {"left": points})
    assert (result[face & ~hand] == REGION["face"]).mean() > 0.97


def test_a_hand_that_was_not_detected_keeps_its_label():
    found, missed = open_hand(x=230), open_hand(x=80)
    regions = np.full((SIZE, SIZE), TORSO, np.uint8)
    regions[draw(found) | draw(missed)] = HANDS
    result = segment_hands(picture_of(draw(found) | draw(missed)), regions, {"left": found})
    assert (result[draw(missed)] == HANDS).mean() > 0.95


def test_a_hand_far_away_takes_no_pixels():
    left, right = open_hand(x=250), open_hand(x=-300.0)
    regions = np.full((SIZE, SIZE), TORSO, np.uint8)
    picture = picture_of(draw(left))
    alone, both = (segment_hands(picture, regions, hands) for hands in ({"left": left}, {"left": left, "right": right}))
    assert np.array_equal(alone, both)
