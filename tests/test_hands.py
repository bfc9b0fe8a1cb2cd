"""Hands of a portrait: found by their colour where the fit is a little off, and warped whole."""

from dataclasses import replace

import cv2
import numpy as np
import pytest

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
OFF = 6  # px that a fit is off

# ---- where they are --------------------------------------------------------------------------------------------------------


def a_hand(down: int, thick=16, shape=(300, 240)) -> tuple[np.ndarray, np.ndarray]:
    """A palm and two fingers, `down` px lower, and its fingers alone. bool [H, W]."""
    fingers = np.zeros(shape, bool)
    fingers[100 + down : 100 + thick + down, 110:190] = fingers[128 + down : 128 + thick + down, 110:190] = True
    palm = np.zeros(shape, bool)
    palm[95 + down : 150 + down, 70:110] = True
    return fingers | palm, fingers


def told(behind=CLOTH, beside=CLOTH, nails=False, glove=False, face=SKIN, around=None, thick=16):
    """Regions by a fit that is OFF px too high, what colours make of them, and where the hand is. behind: colour of the sleeve; beside: of what is left
    of the palm; around: of all that the hand lies on."""
    hand, _ = a_hand(OFF, thick)
    fitted, of_fingers = a_hand(0, thick)
    person = np.zeros(hand.shape, bool)
    person[20:280, 20:220] = True
    picture = np.where(person[..., None], np.array(behind), np.array(WALL))
    picture[95:160, 20:70] = beside
    if around is not None:
        picture[85:165, 20:205] = around
    picture[hand] = behind if glove else SKIN
    if nails:
        picture[100 + OFF : 116, 180:190] = NAIL
    picture[30:60, 100:140] = face
    picture = np.clip(picture + np.random.default_rng(0).normal(0, 3, picture.shape), 0, 255).astype(np.uint8)
    regions = np.where(fitted, HAND, np.where(person, ARMS, 0)).astype(np.uint8)
    regions[30:60, 100:140] = REGION["face"]
    lab = color_segmentation.cielab(picture)
    skin = color_segmentation.distance(lab, lab[regions == REGION["face"]])
    shown = FittedHand(fitted, of_fingers, np.where(person, TORSO, 0).astype(np.uint8))
    return regions, segment_hand(regions, shown, picture, lab, skin), hand


def test_a_hand_is_where_its_colour_is():
    before, after, hand = told()
    iou = [((r == HAND) & hand).sum() / ((r == HAND) | hand).sum() for r in (before, after)]
    assert iou[0] < 0.7 and iou[1] > 0.92  # beside the palm arms stay arms
    assert (after[(before == HAND) & ~hand] == TORSO).mean() > 0.9  # what lies behind the fit's hand
    assert np.array_equal(after == 0, before == 0) and np.array_equal(after == REGION["face"], before == REGION["face"])


def test_nails_are_hand():
    before, after, _ = told(nails=True)
    assert (after[100 + OFF : 116, 180:190] == HAND).mean() > 0.9 and (before[100 + OFF : 116, 180:190] == HAND).all()


def test_bare_arms_beside_the_palm_stay_arms():
    _, after, hand = told(beside=SKIN)
    assert (after[95:160, 20:70] == ARMS).all() and ((after == HAND) & hand).sum() > 0.95 * hand[:, 70:].sum() - (
        OFF + 1
    ) * 40


def test_gloves_of_the_sleeves_colour_stay_where_the_fit_has_them():
    before, after, _ = told(glove=True)
    assert np.array_equal(before, after)


def test_skin_everywhere_tells_nothing():
    before, after, _ = told(behind=SKIN)
    assert np.array_equal(before, after)


def test_a_hand_on_bare_skin_stays_where_the_fit_has_it():
    before, after, _ = told(around=SKIN, thick=4)
    assert np.array_equal(before, after)


def test_hands_may_be_redder_than_the_face():
    _, after, hand = told(face=(214, 168, 147))
    assert ((after == HAND) & hand).sum() / ((after == HAND) | hand).sum() > 0.92


def test_a_wall_of_the_skins_colour_takes_no_fingers():
    (hand, _), (fitted, of_fingers) = a_hand(5), a_hand(0)
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


def test_an_outline_that_lacks_a_thumb_gets_it_back(picture, marks):
    points = marks.hands["left"]
    thumb = np.zeros(marks.size, np.uint8)
    cv2.polylines(thumb, [np.rint(points[2:5]).astype(np.int32)], False, 1, 9)
    lacking = np.where(cv2.dilate(thumb, np.ones((9, 9), np.uint8)) > 0, 0, marks.person).astype(np.float32)
    there = (thumb > 0) & (marks.person > 0.5)
    found = [outline(picture, lacking, likely)[there].mean() for likely in (None, fingers(marks.hands, marks.size))]
    assert found[1] > 0.9 and found[1] > found[0] + 0.2
    assert not fingers({}, marks.size).any()


# ---- how they are warped ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def moved(made, body):
    """An avatar whose portrait shows the hands OFF px beside the body's, in one colour of skin and one of cloth; where they are, and where the body has them."""
    avatar = made.avatar
    places = project(
        body.pose(Motion.still(avatar.poses, avatar.expression), avatar.betas, avatar.surface)[0],
        avatar.intrinsics,
        avatar.extrinsics,
    )
    picture = rasterize(places, body.faces, avatar.regions.shape)
    drawn = (picture.face >= 0) & hand_vertices(body)[body.faces[picture.face]].all(-1)
    hand = np.roll(drawn, OFF, 1) & (avatar.regions > 0)
    regions = np.where(hand, HAND, np.where(avatar.regions == HAND, TORSO, avatar.regions)).astype(np.uint8)
    return (
        replace(avatar, regions=regions, portrait=np.where(hand[..., None], SKIN, CLOTH).astype(np.uint8)),
        hand,
        drawn,
    )


def frames(avatar, body, poses):
    motion = Motion(
        poses.astype(np.float32), np.zeros((len(poses), 52), np.float32), np.zeros((len(poses), 3), np.float32), 25.0
    )
    return control(
        reference(avatar, body),
        body,
        motion,
        camera.avatar_camera(avatar, CameraPath(), len(poses), 25.0, avatar.regions.shape),
    )


def test_the_portraits_hand_is_shown_whole_and_the_bodys_not(moved, body):
    avatar, hand, drawn = moved
    maps = frames(avatar, body, avatar.poses[None])

    def near(colour):
        return np.abs(maps.warp[0].astype(int) - colour).max(-1) < 30

    assert near(SKIN)[hand].mean() > 0.93 and (maps.labels[0][hand] == HAND).mean() > 0.93
    beside = drawn & (avatar.regions > 0) & (cv2.dilate(hand.astype(np.uint8), np.ones((7, 7), np.uint8)) == 0)
    assert beside.sum() > 50 and near(CLOTH)[beside].mean() > 0.8 and (maps.labels[0][beside] != HAND).mean() > 0.8


def test_what_hangs_beside_a_hand_goes_with_it(moved, body):
    avatar, _, _ = moved
    mesh, still = reference(avatar, body).mesh, Motion.still(avatar.poses, avatar.expression)
    poses = avatar.poses.copy()
    poses[JOINT["left_elbow"], 1] -= 0.3
    poses[JOINT["right_elbow"], 1] += 0.3
    V, (before, after) = (
        len(body.template),
        (mesh.pose(avatar, body, m)[0] for m in (still, Motion.still(poses, avatar.expression))),
    )
    assert len(before) - V == len(mesh.hung.joint) > 500
    gone = np.linalg.norm(after - before, axis=1)
    assert np.median(gone[V:]) > 0.05  # m
    apart = [np.linalg.norm(v[V:] - v[mesh.like[V:]], axis=1) for v in (before, after)]
    assert np.abs(apart[1] - apart[0]).max() < 0.01 and np.median(np.abs(apart[1] - apart[0])) < 0.002
    assert (
        np.abs(project(before[V:], avatar.intrinsics, avatar.extrinsics) - mesh.places[V:])[:, :2].max() < 0.01
    )  # px: in the portrait it is where it was


def test_fingers_part(moved, body):
    mesh = reference(moved[0], body).mesh
    joints = mesh.hung.joint[mesh.faces[len(body.faces) :] - len(body.template)]
    assert (joints == joints[:, :1]).all() and len(np.unique(joints)) > 5


def test_a_left_out_finger_shows_the_other_hand_behind_it(moved, body):
    avatar, _, _ = moved
    mesh = reference(avatar, body).mesh
    pixels = mesh.places.copy()
    left, right = mesh.hand == 1, mesh.hand == 2
    pixels[right, :2] += np.median(pixels[left, :2], 0) - np.median(pixels[right, :2], 0)
    pixels[right, 2] += 0.1  # m behind
    picture = mesh.draw(pixels, avatar.regions.shape)
    alone = rasterize(
        pixels,
        np.where((mesh.hand[mesh.faces] == 1).any(1)[:, None], mesh.faces[:, :1], mesh.faces),
        avatar.regions.shape,
    )
    whole = rasterize(pixels, mesh.faces, avatar.regions.shape)
    gone = (picture.face != whole.face) & (mesh.hand[mesh.faces[whole.face]] == 1).all(-1)
    there = gone & (alone.face >= 0) & (mesh.hand[mesh.faces[alone.face]] == 2).all(-1)
    assert there.sum() > 50 and np.array_equal(picture.face[there], alone.face[there])


def test_nothing_hangs_far_from_a_hand(moved, body):
    avatar, _, _ = moved
    regions = avatar.regions.copy()
    chest = np.argwhere(regions == TORSO)
    row, column = chest[np.abs(chest - chest.mean(0)).sum(1).argmin()]
    regions[row : row + 12, column : column + 12] = HAND
    counts = [len(reference(replace(avatar, regions=r), body).mesh.hung.joint) for r in (avatar.regions, regions)]
    assert counts[0] == counts[1]


def test_what_the_portrait_shows_of_one_hand_says_nothing_of_what_lies_behind_it(moved, body):
    avatar, _, _ = moved
    mesh = reference(avatar, body).mesh
    left, right = mesh.hand == 1, mesh.hand == 2
    places = mesh.places.copy()
    places[right, :2] += np.median(places[left, :2], 0) - np.median(places[right, :2], 0)
    places[right, 2] += 0.1  # m behind the other in the portrait, which shows none of it
    size = avatar.regions.shape
    whole, drawn = rasterize(mesh.places, mesh.faces, size), replace(mesh, places=places).draw(mesh.places, size)
    seen = (whole.face >= 0) & (mesh.hand[mesh.faces[whole.face]] == 2).all(-1)
    assert seen.sum() > 100 and np.array_equal(drawn.face[seen], whole.face[seen])


def test_hands_that_fit_and_hands_that_nothing_shows_stay_as_they_are(made, body):
    fits, unseen = (
        reference(a, body).mesh
        for a in (
            made.avatar,
            replace(made.avatar, regions=np.where(made.avatar.regions == HAND, ARMS, made.avatar.regions)),
        )
    )
    assert fits.left_out.mean() < 2e-3
    assert (
        not unseen.left_out.any()
        and len(unseen.faces) == len(body.faces)
        and np.array_equal(unseen.like, np.arange(len(body.template)))
    )
