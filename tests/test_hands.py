"""Hands of a portrait: segmented by their color where the fit is a little off, and warped as a whole."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
from avatar_helpers import draw_body

from stereotalker.avatar import color_segmentation
from stereotalker.avatar.hand_segmentation import FittedHand, fingers, segment_hand
from stereotalker.avatar.segmentation import outline
from stereotalker.control.reference_warp import control, reference
from stereotalker.control.region_sources import hand_vertices
from stereotalker.geometry import camera
from stereotalker.geometry.camera import project
from stereotalker.geometry.camera_path import CameraPath
from stereotalker.geometry.rasterizer import rasterize
from stereotalker.records import Motion
from stereotalker.smplx_layout import JOINT, REGION

pytestmark = [pytest.mark.integration, pytest.mark.xdist_group("avatar")]

SKIN, CLOTH, WALL, NAIL = (205, 150, 125), (40, 60, 150), (90, 120, 90), (170, 20, 50)
HAND, ARMS, TORSO = (REGION[name] for name in ("hands", "arms", "torso"))
FIT_ERROR_PX = 6  # distance between the fitted hand and the hand in the portrait

# ---- segmentation ----


def hand_mask(down: int, thick=16, shape=(300, 240)) -> tuple[np.ndarray, np.ndarray]:
    """Masks of a hand (a palm and two fingers) and of its fingers alone, shifted down by `down` px. bool [H, W]."""
    finger_mask = np.zeros(shape, bool)
    finger_mask[100 + down : 100 + thick + down, 110:190] = finger_mask[128 + down : 128 + thick + down, 110:190] = True
    palm = np.zeros(shape, bool)
    palm[95 + down : 150 + down, 70:110] = True
    return finger_mask | palm, finger_mask


def segment_drawn_hand(behind=CLOTH, beside=CLOTH, nails=False, glove=False, face=SKIN, around=None, thick=16):
    """Segment a drawn hand that lies FIT_ERROR_PX below the fitted one.

    Returns the regions u8 [H, W] by the fit alone, the regions by color, and the true mask of the hand.
    behind: color of the sleeve; beside: color of what is left of the palm; around: color of all that the hand lies on.
    """
    hand, _ = hand_mask(FIT_ERROR_PX, thick)
    fitted, fitted_fingers = hand_mask(0, thick)
    person = np.zeros(hand.shape, bool)
    person[20:280, 20:220] = True
    picture = np.where(person[..., None], np.array(behind), np.array(WALL))
    picture[95:160, 20:70] = beside
    if around is not None:
        picture[85:165, 20:205] = around
    picture[hand] = behind if glove else SKIN
    if nails:
        picture[100 + FIT_ERROR_PX : 116, 180:190] = NAIL
    picture[30:60, 100:140] = face
    picture = np.clip(picture + np.random.default_rng(0).normal(0, 3, picture.shape), 0, 255).astype(np.uint8)
    regions = np.where(fitted, HAND, np.where(person, ARMS, 0)).astype(np.uint8)
    regions[30:60, 100:140] = REGION["face"]
    lab = color_segmentation.cielab(picture)
    skin = color_segmentation.distance(lab, lab[regions == REGION["face"]])
    fitted_hand = FittedHand(fitted, fitted_fingers, np.where(person, TORSO, 0).astype(np.uint8))
    return regions, segment_hand(regions, fitted_hand, picture, lab, skin), hand


def test_a_hand_is_segmented_where_its_color_is():
    before, after, hand = segment_drawn_hand()
    iou = [((r == HAND) & hand).sum() / ((r == HAND) | hand).sum() for r in (before, after)]
    assert iou[0] < 0.7 and iou[1] > 0.92  # Beside the palm the arms remain arms.
    assert (after[(before == HAND) & ~hand] == TORSO).mean() > 0.9  # The torso lies behind the fitted hand.
    assert np.array_equal(after == 0, before == 0) and np.array_equal(after == REGION["face"], before == REGION["face"])


def test_painted_nails_belong_to_the_hand():
    before, after, _ = segment_drawn_hand(nails=True)
    assert (after[100 + FIT_ERROR_PX : 116, 180:190] == HAND).mean() > 0.9 and (
        before[100 + FIT_ERROR_PX : 116, 180:190] == HAND
    ).all()


def test_bare_arms_beside_the_palm_remain_arms():
    _, after, hand = segment_drawn_hand(beside=SKIN)
    assert (after[95:160, 20:70] == ARMS).all() and ((after == HAND) & hand).sum() > 0.95 * hand[:, 70:].sum() - (
        FIT_ERROR_PX + 1
    ) * 40


def test_gloves_in_the_color_of_the_sleeve_keep_the_fitted_regions():
    before, after, _ = segment_drawn_hand(glove=True)
    assert np.array_equal(before, after)


def test_bare_skin_everywhere_keeps_the_fitted_regions():
    before, after, _ = segment_drawn_hand(behind=SKIN)
    assert np.array_equal(before, after)


def test_a_hand_on_bare_skin_keeps_the_fitted_regions():
    before, after, _ = segment_drawn_hand(around=SKIN, thick=4)
    assert np.array_equal(before, after)


def test_hands_may_be_redder_than_the_face():
    _, after, hand = segment_drawn_hand(face=(214, 168, 147))
    assert ((after == HAND) & hand).sum() / ((after == HAND) | hand).sum() > 0.92


def test_a_wall_in_the_color_of_skin_hides_no_fingers():
    (hand, _), (fitted, of_fingers) = hand_mask(5), hand_mask(0)
    person = hand.copy()
    person[:, 20:70] = True
    picture = np.where(person[..., None] & ~hand[..., None], np.array(CLOTH), np.array(SKIN))
    picture = np.clip(picture + np.random.default_rng(0).normal(0, 3, picture.shape), 0, 255).astype(np.uint8)
    regions = np.where(fitted & person, HAND, np.where(person, ARMS, 0)).astype(np.uint8)
    lab = color_segmentation.cielab(picture)
    after = segment_hand(
        regions,
        FittedHand(fitted, of_fingers, np.where(person, ARMS, 0).astype(np.uint8)),
        picture,
        lab,
        color_segmentation.distance(lab, lab[hand]),
    )
    assert (regions[hand] == HAND).mean() < 0.8 and (after[hand] == HAND).mean() > 0.93


def test_a_thumb_missing_from_the_outline_is_restored(picture, landmarks):
    points = landmarks.hands["left"]
    thumb = np.zeros(landmarks.size, np.uint8)
    cv2.polylines(thumb, [np.rint(points[2:5]).astype(np.int32)], False, 1, 9)
    without_thumb = np.where(cv2.dilate(thumb, np.ones((9, 9), np.uint8)) > 0, 0, landmarks.person).astype(np.float32)
    there = (thumb > 0) & (landmarks.person > 0.5)
    shares = [
        outline(picture, without_thumb, likely)[there].mean()
        for likely in (None, fingers(landmarks.hands, landmarks.size))
    ]
    assert shares[1] > 0.9 and shares[1] > shares[0] + 0.2
    assert not fingers({}, landmarks.size).any()


# ---- warping ----


@pytest.fixture(scope="module")
def shifted_hands(fitted, body):
    """An avatar whose portrait shows the hands FIT_ERROR_PX to the right of the fitted ones, and two masks bool [H, W].

    The portrait has one color of skin and one of cloth. The masks: the hands of the portrait, and the fitted hands.
    """
    avatar = fitted.avatar
    fragments = draw_body(avatar, body)
    drawn = (fragments.face >= 0) & hand_vertices(body)[body.faces[fragments.face]].all(-1)
    hand = np.roll(drawn, FIT_ERROR_PX, 1) & (avatar.regions > 0)
    regions = np.where(hand, HAND, np.where(avatar.regions == HAND, TORSO, avatar.regions)).astype(np.uint8)
    portrait = np.where(hand[..., None], SKIN, CLOTH).astype(np.uint8)
    return replace(avatar, regions=regions, portrait=portrait), hand, drawn


def control_maps(avatar, body, poses):
    motion = Motion(
        poses.astype(np.float32), np.zeros((len(poses), 52), np.float32), np.zeros((len(poses), 3), np.float32), 25.0
    )
    return control(
        reference(avatar, body),
        body,
        motion,
        camera.avatar_camera(avatar, CameraPath(), len(poses), 25.0, avatar.regions.shape),
    )


def test_the_hand_of_the_portrait_is_drawn_whole_and_the_fitted_hand_is_not(shifted_hands, body):
    avatar, hand, drawn = shifted_hands
    maps = control_maps(avatar, body, avatar.poses[None])

    def near(colour):
        return np.abs(maps.warp[0].astype(int) - colour).max(-1) < 30

    assert near(SKIN)[hand].mean() > 0.93 and (maps.labels[0][hand] == HAND).mean() > 0.93
    beside = drawn & (avatar.regions > 0) & (cv2.dilate(hand.astype(np.uint8), np.ones((7, 7), np.uint8)) == 0)
    assert beside.sum() > 50 and near(CLOTH)[beside].mean() > 0.8 and (maps.labels[0][beside] != HAND).mean() > 0.8


def test_hand_pixels_beside_the_fitted_hand_move_with_it(shifted_hands, body):
    avatar, _, _ = shifted_hands
    mesh, still = reference(avatar, body).mesh, Motion.still(avatar.poses, avatar.expression)
    poses = avatar.poses.copy()
    poses[JOINT["left_elbow"], 1] -= 0.3
    poses[JOINT["right_elbow"], 1] += 0.3
    V, (before, after) = (
        len(body.template),
        (mesh.pose(avatar, body, m)[0] for m in (still, Motion.still(poses, avatar.expression))),
    )
    assert len(before) - V == len(mesh.hand_fringe.joint) > 500
    distance = np.linalg.norm(after - before, axis=1)
    assert np.median(distance[V:]) > 0.05  # m
    offsets = [np.linalg.norm(v[V:] - v[mesh.like[V:]], axis=1) for v in (before, after)]
    assert np.abs(offsets[1] - offsets[0]).max() < 0.01 and np.median(np.abs(offsets[1] - offsets[0])) < 0.002
    # In the portrait's own pose every pixel keeps its place, to 0.01 px.
    assert np.abs(project(before[V:], avatar.intrinsics, avatar.extrinsics) - mesh.places[V:])[:, :2].max() < 0.01


def test_pixels_beside_different_fingers_follow_different_joints(shifted_hands, body):
    mesh = reference(shifted_hands[0], body).mesh
    joints = mesh.hand_fringe.joint[mesh.faces[len(body.faces) :] - len(body.template)]
    assert (joints == joints[:, :1]).all() and len(np.unique(joints)) > 5


def test_the_other_hand_is_visible_behind_a_left_out_finger(shifted_hands, body):
    avatar, _, _ = shifted_hands
    mesh = reference(avatar, body).mesh
    pixels = mesh.places.copy()
    left, right = mesh.hand == 1, mesh.hand == 2
    pixels[right, :2] += np.median(pixels[left, :2], 0) - np.median(pixels[right, :2], 0)
    pixels[right, 2] += 0.1  # m behind the left hand
    picture = mesh.draw(pixels, avatar.regions.shape)
    alone = rasterize(
        pixels,
        np.where((mesh.hand[mesh.faces] == 1).any(1)[:, None], mesh.faces[:, :1], mesh.faces),
        avatar.regions.shape,
    )
    whole = rasterize(pixels, mesh.faces, avatar.regions.shape)
    is_left_out = (picture.face != whole.face) & (mesh.hand[mesh.faces[whole.face]] == 1).all(-1)
    there = is_left_out & (alone.face >= 0) & (mesh.hand[mesh.faces[alone.face]] == 2).all(-1)
    assert there.sum() > 50 and np.array_equal(picture.face[there], alone.face[there])


def test_hand_regions_far_from_a_hand_are_not_attached_to_it(shifted_hands, body):
    avatar, _, _ = shifted_hands
    regions = avatar.regions.copy()
    chest = np.argwhere(regions == TORSO)
    row, column = chest[np.abs(chest - chest.mean(0)).sum(1).argmin()]
    regions[row : row + 12, column : column + 12] = HAND
    counts = [
        len(reference(replace(avatar, regions=r), body).mesh.hand_fringe.joint) for r in (avatar.regions, regions)
    ]
    assert counts[0] == counts[1]


def test_one_hand_in_the_portrait_does_not_hide_the_hand_behind_it(shifted_hands, body):
    avatar, _, _ = shifted_hands
    mesh = reference(avatar, body).mesh
    left, right = mesh.hand == 1, mesh.hand == 2
    places = mesh.places.copy()
    places[right, :2] += np.median(places[left, :2], 0) - np.median(places[right, :2], 0)
    places[right, 2] += 0.1  # m behind the left hand in the portrait, which shows none of it
    size = avatar.regions.shape
    whole, drawn = rasterize(mesh.places, mesh.faces, size), replace(mesh, places=places).draw(mesh.places, size)
    visible = (whole.face >= 0) & (mesh.hand[mesh.faces[whole.face]] == 2).all(-1)
    assert visible.sum() > 100 and np.array_equal(drawn.face[visible], whole.face[visible])


def test_hands_that_fit_or_are_not_shown_keep_the_mesh_of_the_body(fitted, body):
    fitting, unseen = (
        reference(a, body).mesh
        for a in (
            fitted.avatar,
            replace(fitted.avatar, regions=np.where(fitted.avatar.regions == HAND, ARMS, fitted.avatar.regions)),
        )
    )
    assert fitting.is_left_out.mean() < 2e-3
    assert (
        not unseen.is_left_out.any()
        and len(unseen.faces) == len(body.faces)
        and np.array_equal(unseen.like, np.arange(len(body.template)))
    )
