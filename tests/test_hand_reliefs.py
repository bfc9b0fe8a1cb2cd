"""Hands that are drawn as pieces of the portrait: where they lie, and when the body's mesh is drawn instead."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
from avatar_helpers import own_view, still_motion

from stereotalker.avatar.library import read_avatar
from stereotalker.control.hand_reliefs import _moving_joints
from stereotalker.control.reference_warp import control, reference
from stereotalker.geometry.camera import project
from stereotalker.params import ASSETS
from stereotalker.records import Avatar
from stereotalker.smplx_layout import JOINT, JOINTS, REGION

pytestmark = [pytest.mark.integration, pytest.mark.xdist_group("people")]

HANDS, ARMS = REGION["hands"], REGION["arms"]


@pytest.fixture(scope="module")
def avatar() -> Avatar:
    """A shipped person whose hands are wholly in the picture."""
    return read_avatar(ASSETS / "avatars" / "dan.safetensors")


@pytest.fixture(scope="module")
def ref(avatar, body):
    return reference(avatar, body)


def joints_of(avatar: Avatar, body, poses) -> tuple[np.ndarray, np.ndarray]:
    motion = replace(still_motion(avatar), poses=poses[None])
    positions, rotations = body.posed_joints(motion, avatar.betas, avatar.surface)
    return positions[0], rotations[0]


def test_both_hands_of_a_portrait_have_a_relief(ref):
    assert [relief.hand.sides for relief in ref.reliefs] == [("left",), ("right",)]


def test_a_relief_lies_on_the_portrait_in_the_portraits_pose(ref, avatar, body):
    for relief in ref.reliefs:
        vertices = relief.posed(*joints_of(avatar, body, avatar.poses)).astype(np.float32)
        pixels = project(vertices, avatar.intrinsics, avatar.extrinsics)
        assert np.abs(pixels - relief.places)[:, :2].max() < 0.01
        assert relief.hand.weight(*joints_of(avatar, body, avatar.poses), avatar.extrinsics) == 1


def moved_by_hand(ref, avatar, body, maps, poses) -> float:
    """How far, in levels, a frame's left hand is from the portrait's, shifted as its middle knuckle is. Mean."""
    places = [
        project(joints_of(avatar, body, p)[0][[JOINT["left_middle1"]]], avatar.intrinsics, avatar.extrinsics)[0, :2]
        for p in (avatar.poses, poses)
    ]
    shift = np.float32([[1, 0, 0], [0, 1, 0]])
    shift[:, 2] = places[1] - places[0]
    hand = ref.reliefs[0].hand.is_shown.astype(np.uint8)
    size = hand.shape[::-1]
    there = cv2.erode(cv2.warpAffine(hand, shift, size), np.ones((5, 5))) > 0
    expected = cv2.warpAffine(avatar.portrait, shift, size)
    return float(np.abs(maps.warp[0].astype(int) - expected)[there].mean())


def test_a_hand_that_is_carried_away_looks_as_in_the_portrait(ref, avatar, body):
    poses = avatar.poses.copy()
    poses[JOINT["spine3"]] += (0, 0, 0.03)
    poses[JOINT["left_shoulder"]] += (0, -0.1, 0)
    motion = replace(still_motion(avatar), poses=poses[None])
    with_reliefs, with_mesh = (
        moved_by_hand(ref, avatar, body, control(r, body, motion, own_view(avatar)), poses)
        for r in (ref, replace(ref, reliefs=()))
    )
    assert with_reliefs < 15 and with_reliefs < 0.9 * with_mesh


def test_normals_of_a_relief_face_the_viewer_as_those_of_the_mesh(ref, avatar, body):
    own, mesh = (
        control(r, body, still_motion(avatar), own_view(avatar)).normals[0].astype(float)
        for r in (ref, replace(ref, reliefs=()))
    )
    hand = avatar.regions == HANDS
    assert own[hand, 2].mean() < 100 and np.abs(own[hand] - mesh[hand]).mean() < 40


def test_the_nearer_of_two_hands_covers_the_other(ref, avatar, body):
    left = ref.reliefs[0]
    _, rotations = joints_of(avatar, body, avatar.poses)
    to_camera = rotations[JOINT["left_wrist"]] @ left.hand.to_camera
    forward = np.einsum("jba,b->ja", rotations[_moving_joints(left.hand.sides)], 0.05 * to_camera)
    green = tuple(np.full_like(level, (0, 255, 0)) for level in left.levels)
    nearer = replace(left, vertices=left.vertices + forward, levels=green)
    inner = cv2.erode(left.hand.is_shown.astype(np.uint8), np.ones((7, 7))) > 0
    for reliefs in ((left, nearer), (nearer, left)):
        maps = control(replace(ref, reliefs=reliefs), body, still_motion(avatar), own_view(avatar))
        assert (maps.warp[0][inner] == (0, 255, 0)).all(-1).mean() > 0.95


def test_the_mesh_is_drawn_for_bent_fingers_and_from_behind(ref, avatar, body):
    fist = avatar.poses.copy()
    for k, name in enumerate(JOINTS):
        if name.startswith("left_") and name[-1] in "123" and "thumb" not in name:
            fist[k] += (0, 0, -1.2)
    left, right = ref.reliefs
    assert left.hand.weight(*joints_of(avatar, body, fist), avatar.extrinsics) == 0
    assert right.hand.weight(*joints_of(avatar, body, fist), avatar.extrinsics) == 1
    behind = avatar.extrinsics.copy()
    middle = joints_of(avatar, body, avatar.poses)[0][JOINT["spine3"]]
    turn = np.diag([-1.0, 1.0, -1.0])
    behind[:3, :3] = behind[:3, :3] @ turn
    behind[:3, 3] += behind[:3, :3] @ (turn @ middle - middle)
    assert not any(r.hand.weight(*joints_of(avatar, body, avatar.poses), behind) for r in ref.reliefs)


def test_a_hand_that_the_picture_cuts_off_has_no_relief(avatar, body):
    regions = avatar.regions.copy()
    rows, columns = np.nonzero(regions == HANDS)
    is_left = columns > regions.shape[1] / 2
    regions[rows[is_left].min() : rows[is_left].max(), columns[is_left].min() :] = HANDS
    assert [r.hand.sides for r in reference(replace(avatar, regions=regions), body).reliefs] == [("right",)]


@pytest.mark.parametrize(("kept", "reliefs"), [(0.9, 2), (0.3, 0), (0.0, 0)])
def test_a_hand_that_the_labels_hardly_show_has_no_relief(avatar, body, kept, reliefs):
    regions, rows = avatar.regions.copy(), np.nonzero(avatar.regions == HANDS)[0]
    below = np.arange(len(regions))[:, None] > np.quantile(rows, kept) if kept else np.ones((len(regions), 1), bool)
    regions[(regions == HANDS) & below] = ARMS
    assert len(reference(replace(avatar, regions=regions), body).reliefs) == reliefs


def test_hands_that_touch_move_as_one_piece(avatar, body):
    regions = avatar.regions.copy()
    (x0, y0), (x1, y1) = _middles(regions)
    bridge = cv2.line(np.zeros_like(regions), (int(x0), int(y0)), (int(x1), int(y1)), 1, 5) > 0
    regions[bridge] = HANDS
    (relief,) = reference(replace(avatar, regions=regions), body).reliefs
    assert relief.hand.sides == ("left", "right")
    apart = avatar.poses.copy()
    apart[JOINT["left_shoulder"]] += (0, 0, 0.5)
    assert relief.hand.weight(*joints_of(avatar, body, avatar.poses), avatar.extrinsics) == 1
    assert relief.hand.weight(*joints_of(avatar, body, apart), avatar.extrinsics) == 0


def _middles(regions) -> list[np.ndarray]:
    """The middles of both hands, (x, y) px."""
    _, _, _, middles = cv2.connectedComponentsWithStats((regions == HANDS).astype(np.uint8))
    return list(middles[1:3])
