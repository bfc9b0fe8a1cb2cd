"""Hands that are drawn as pieces of the portrait: where they lie, and when the body's mesh is drawn instead."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
from avatar_helpers import own_view, still_motion

from stereotalker.avatar.library import read_avatar
from stereotalker.control.body_parts import joint_reach
from stereotalker.control.foreshortened_arms import ONTO_HAND_M
from stereotalker.control.hand_reliefs import _moving_joints, make_reliefs
from stereotalker.control.reference_warp import control, reference
from stereotalker.geometry.camera import project
from stereotalker.params import ASSETS
from stereotalker.records import Avatar, Motion
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


def green_relief(relief, avatar, body, nearer):
    """The relief of the left hand in green, so many m nearer to the camera."""
    _, rotations = joints_of(avatar, body, avatar.poses)
    to_camera = rotations[JOINT["left_wrist"]] @ relief.hand.to_camera
    forward = np.einsum("jba,b->ja", rotations[_moving_joints(relief.hand.sides)], nearer * to_camera)
    green = tuple(np.full_like(level, (0, 255, 0)) for level in relief.levels)
    return replace(relief, vertices=relief.vertices + forward, levels=green)


def green_share(ref, avatar, body, reliefs):
    """How much of the inside of the left hand is green."""
    maps = control(replace(ref, reliefs=reliefs), body, still_motion(avatar), own_view(avatar))
    inner = cv2.erode(ref.reliefs[0].hand.is_shown.astype(np.uint8), np.ones((7, 7))) > 0
    return (maps.warp[0][inner] == (0, 255, 0)).all(-1).mean()


@pytest.mark.parametrize("has_mesh", [False, True])
def test_the_nearer_of_two_hands_covers_the_other(ref, avatar, body, has_mesh):
    left = ref.reliefs[0]
    if has_mesh:  # as below a relief that fades
        left = replace(left, replaced=np.zeros_like(left.replaced))
    nearer = green_relief(left, avatar, body, 0.05)
    for reliefs in ((left, nearer), (nearer, left)):
        assert green_share(ref, avatar, body, reliefs) > 0.95


def test_a_relief_covers_its_own_hand_and_no_other_part_before_it(ref, avatar, body):
    left = replace(ref.reliefs[0], replaced=np.zeros_like(ref.reliefs[0].replaced))
    behind = green_relief(left, avatar, body, -0.05)
    assert green_share(ref, avatar, body, (behind,)) > 0.95
    assert green_share(ref, avatar, body, (replace(behind, hand_faces=np.zeros_like(left.hand_faces)),)) < 0.2


def bare_and_sleeved(avatar, body):
    """The left relief if the arm were bare, and with a long sleeve. The forearm points nearly at the camera."""
    still = Motion.still(avatar.poses, avatar.expression)
    pixels = project(body.pose(still, avatar.betas, avatar.surface)[0], avatar.intrinsics, avatar.extrinsics)
    return [make_reliefs(avatar, body, pixels, end)[0] for end in (0.3, joint_reach(body, "wrist") + 0.012)]


def test_a_bare_arms_relief_fades_at_the_wrist(avatar, body, monkeypatch):
    monkeypatch.setattr("stereotalker.control.hand_reliefs._WRIST_FADE_M", 0.1)  # his wrist itself is hidden
    bare, sleeved = bare_and_sleeved(avatar, body)
    faded = sleeved.opacity - bare.opacity
    assert (faded >= 0).all() and (faded > 0.1).sum() > 20
    joints = joints_of(avatar, body, avatar.poses)[0][[JOINT["left_wrist"], JOINT["left_middle3"]]]
    wrist, finger = project(joints.astype(np.float32), avatar.intrinsics, avatar.extrinsics)[:, 1::-1]
    places = np.argwhere(faded > 0.1)
    assert (np.linalg.norm(places - wrist, axis=1) < np.linalg.norm(places - finger, axis=1)).mean() > 0.8


def test_the_mesh_goes_on_under_a_bare_arms_relief_and_ends_with_a_sleeve(avatar, body):
    reach, wrist = np.abs(body.template[:, 0]), joint_reach(body, "wrist")
    for relief, last in zip(bare_and_sleeved(avatar, body), (wrist + ONTO_HAND_M, wrist), strict=True):
        left = relief.hand_faces & (body.template[body.faces, 0] > 0).all(1)
        assert np.array_equal(relief.replaced[left], (reach[body.faces].min(1) > last)[left])


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
