"""Hands that are drawn as pieces of the portrait: where they lie, and when the body's mesh is drawn instead."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
from avatar_helpers import own_view, still_motion

from stereotalker.avatar.library import read_avatar
from stereotalker.control.reference_warp import control, reference
from stereotalker.control.warp_kernels import SEEN
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


def test_a_hand_moves_with_its_arm_and_keeps_its_size_and_its_colors(ref, avatar, body):
    motion, view = still_motion(avatar, 2), own_view(avatar, 2)
    motion.poses[1, JOINT["left_elbow"]] += (0, 0, 0.3)
    maps = control(ref, body, motion, view)
    positions = body.posed_joints(motion, avatar.betas, avatar.surface)[0]
    middle = project(positions[:, JOINT["left_middle1"]], avatar.intrinsics, avatar.extrinsics)[:, :2]
    reach = 1.5 * np.linalg.norm(
        middle[0] - project(positions[:1, JOINT["left_wrist"]], avatar.intrinsics, avatar.extrinsics)[0, :2]
    )
    assert np.linalg.norm(middle[1] - middle[0]) > 3
    rows, columns = np.indices(avatar.regions.shape)
    sizes, colors = [], []
    for t in range(2):
        near = np.hypot(columns - middle[t, 0], rows - middle[t, 1]) < reach
        shown = near & (maps.labels[t] == HANDS) & (maps.visibility[t] == SEEN)
        sizes.append(shown.sum())
        colors.append(maps.warp[t][shown].mean(0))
    assert sizes[1] == pytest.approx(sizes[0], rel=0.25)
    assert np.abs(colors[1] - colors[0]).max() < 12


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


def test_a_hand_that_the_labels_hardly_show_has_no_relief(avatar, body):
    regions = np.where(avatar.regions == HANDS, ARMS, avatar.regions).astype(np.uint8)
    assert reference(replace(avatar, regions=regions), body).reliefs == ()


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
