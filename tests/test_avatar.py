"""Portraits into avatars: the fit against a known truth, regions, shell, background; and what is refused."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from stereotalker.avatar.background import extend_person_colors, fill_background
from stereotalker.avatar.body_fit import fit, limb_shapes
from stereotalker.avatar.card_image import draw_card
from stereotalker.avatar.detector_calibration import HAND_JOINTS
from stereotalker.avatar.fit_portrait import fit_portrait
from stereotalker.avatar.hair_depth import HairRule
from stereotalker.avatar.inpainting import inpaint
from stereotalker.avatar.segmentation import outline
from stereotalker.body.free_body import PARTS
from stereotalker.errors import ClipError
from stereotalker.evaluation.avatars import warp_psnr
from stereotalker.geometry import camera
from stereotalker.geometry.camera_path import CameraPath
from stereotalker.records import Motion
from stereotalker.smplx_layout import JOINT, REGION, SIDES
from tests.conftest import SIZE

pytestmark = [pytest.mark.integration, pytest.mark.xdist_group("avatar")]

# ---- the fit ---------------------------------------------------------------------------------------------------------------


def test_the_fit_finds_what_the_detector_saw(marks, truth, body, known):
    found = fit(marks, body, known)
    assert found.face_error < 0.004 and found.wrist_error < 0.02 and found.arm_error < 0.03
    assert np.array_equal(found.intrinsics, truth[3])

    def seen(poses, betas, E, surface=None):
        places, turns = body.posed_joints(
            Motion(poses[None], truth[2][None], np.zeros((1, 3), np.float32), 25.0), betas, surface
        )
        at = places[0] @ E[:3, :3].T + E[:3, 3]
        return at[:, :2] / at[:, 2:] * truth[3][0, 0], E[:3, :3] @ turns[0, JOINT["head"]]

    ours, head = seen(found.poses, found.betas, found.extrinsics, found.surface)
    theirs, true_head = seen(truth[1], truth[0], truth[4])
    rows = [JOINT[name] for name in ("neck", "head", "left_shoulder", "right_elbow", "left_wrist", "right_wrist")]
    assert np.linalg.norm((ours - theirs)[rows], axis=1).max() < 0.05 * marks.shoulder_width
    assert np.degrees(Rotation.from_matrix(head @ true_head.T).magnitude()) < 3


def test_the_fit_does_without_hands_and_without_a_body(marks, body, known):
    alone = replace(marks, pose=None, visible=None, pose_world=None, hands={}, hands_world={}, people=0)
    found = fit(alone, body, known)
    assert (
        found.face_error < 0.005
        and found.wrist_error is None
        and found.arm_error is None
        and found.seen == {"left": False, "right": False}
    )
    wrists, _ = body.posed_joints(
        Motion(found.poses[None], found.expression[None], np.zeros((1, 3), np.float32), 25.0), found.betas
    )
    assert (wrists[0, [JOINT["left_wrist"], JOINT["right_wrist"]], 1] < 0.45).all()  # arms that nobody saw hang


def test_limbs_grow_at_their_own_joints_only(body):
    joints = body.joints(np.zeros(body.betas, np.float32))
    for grown, (start, end) in zip(
        limb_shapes(body), (("shoulder", "elbow"), ("elbow", "wrist"), ("wrist", "middle1")), strict=True
    ):
        moved = body.posed_joints(
            Motion(np.zeros((1, 55, 3), np.float32), np.zeros((1, 52), np.float32), np.zeros((1, 3), np.float32), 25.0),
            np.zeros(body.betas, np.float32),
            grown,
        )[0][0]
        length = lambda where, side: np.linalg.norm(where[JOINT[f"{side}_{end}"]] - where[JOINT[f"{side}_{start}"]])  # noqa: B023, E731
        for side in SIDES:
            assert length(moved, side) == pytest.approx(2 * length(joints, side), rel=0.03)
        assert np.allclose(moved[JOINT["head"]], joints[JOINT["head"]], atol=1e-5)


def test_the_calibration_is_of_this_body(body, known):
    on_face = known.face_points(body.template, body.faces)
    assert np.allclose(on_face, known.face_template, atol=1e-5)
    assert (
        np.abs(known.face_template[[33, 61]] * [-1, 1, 1] - known.face_template[[263, 291]]).max() < 0.003
    )  # corners of eyes and mouth
    assert (np.abs(known.face_template[468:, 2] - 0.15) < 0.03).all()  # the irises
    assert len(HAND_JOINTS) == 21 and known.face_spread[:468].mean() < 0.05


# ---- from picture to avatar ----------------------------------------------------------------------------------------------


def test_the_avatar_covers_the_person_and_warps_to_its_own_portrait(made, marks, picture, body):
    assert made.residuals.silhouette_iou > 0.97
    assert made.residuals.face < 0.003 and made.avatar.arms
    assert warp_psnr(made.avatar, picture, body) > 30
    view = camera.avatar_camera(made.avatar, CameraPath(), 2, 25.0, SIZE)
    assert np.allclose(view.extrinsics[0], made.avatar.extrinsics, atol=1e-4) and np.allclose(
        view.intrinsics[0], made.avatar.intrinsics, atol=1e-2
    )


def test_hair_of_a_fitted_head_stands_off_it_and_the_face_does_not(marks, picture, body, known, monkeypatch):
    top = np.quantile(marks.face[:, 1], 0.1)
    dark = picture.copy()
    dark[(marks.person > 0.5) & (np.arange(SIZE[0])[:, None] < top)] = (25, 18, 12)
    hairy = fit_portrait(dark, "somebody", lambda picture: marks, body, known).avatar
    monkeypatch.setattr("stereotalker.avatar.fit_portrait.FITTED_HEAD", HairRule(0.0, 0.0))
    bare = fit_portrait(dark, "nobody", lambda picture: marks, body, known).avatar
    still = Motion.still(bare.poses, bare.expression)
    depth = [(body.pose(still, a.betas, a.surface)[0] @ a.extrinsics[:3, :3].T)[:, 2] for a in (bare, hairy)]
    nearer, eyes = depth[0] - depth[1], body.part == PARTS["eye"][0]
    assert nearer.max() > 0.002 and np.abs(nearer[eyes]).max() < 0.0005


def test_regions_are_where_the_body_is(made, marks):
    regions = made.avatar.regions
    x, y = marks.face[[1, 13]].astype(int).T  # nose and upper lip
    assert regions[y[0], x[0]] == REGION["face"] and regions[y[1], x[1]] == REGION["mouth"]
    for side in SIDES:
        x, y = marks.hands[side][9].astype(int)
        if 0 <= x < SIZE[1] and 0 <= y < SIZE[0]:
            assert regions[y, x] == REGION["hands"]
    assert (regions[:20, :20] == REGION["background"]).all()


def test_cameras_turn_around_the_chest_at_any_shape_of_frame(made):
    for size in ((360, 640), (512, 512), (640, 360)):
        view = camera.avatar_camera(made.avatar, CameraPath(azimuth=20, elevation=5), 1, 25.0, size)
        at = camera.project(made.avatar.target[None], view.intrinsics[0], view.extrinsics[0])[0]
        assert np.allclose(at[:2], [size[1] / 2, size[0] / 2], atol=0.5)


def test_the_background_knows_nothing_of_the_person(picture, marks):
    mask = marks.person > 0.5
    filled = fill_background(picture, mask)
    assert np.abs(filled[mask].astype(int).mean(0) - picture[~mask].astype(int).mean(0)).max() < 25
    assert np.array_equal(filled[:5, :5], picture[:5, :5])
    clean = extend_person_colors(picture, mask)
    assert np.array_equal(clean[:5, :5], picture[:5, :5]) and clean.shape == picture.shape


def test_rooms_go_on_behind_the_person():
    """A shaded wall with a board and its pattern, hidden in the middle: the board's edge, the pattern and the shade go on."""
    rows, columns = np.mgrid[:240, :200]
    wall = (90 + 0.3 * columns)[..., None] + np.array([0, 10, -20])
    board = np.where(
        (rows < 120)[..., None], np.array([40, 90, 70]) + 25 * ((columns % 16 < 8) ^ (rows % 16 < 8))[..., None], wall
    )
    room = board.astype(np.uint8)
    person = (np.abs(columns - 100) < 40) & (rows > 30)
    filled = fill_background(np.where(person[..., None], np.uint8([200, 30, 30]), room), person).astype(int)
    inner = person & (np.abs(rows - 120) > 6)
    assert np.abs(filled - room)[inner & (rows > 120)].mean() < 2  # smooth inpainting (Telea 2004): 5.7
    assert np.abs(filled.mean(-1)[person & (rows < 114)].mean() - room.mean(-1)[person & (rows < 114)].mean()) < 2
    assert (
        filled[40:110, 70:130].std(1).mean() > 0.25 * room[40:110, 70:130].std(1).mean()
    )  # the pattern, out of focus; of rows that go on: 0
    assert (filled[..., 0] < filled[..., 1] + 5)[person].all()  # nothing of the person


def test_narrow_margins_are_enough_to_fill_from():
    """Beside a person who nearly fills the frame a coarse grid has no room for a patch; finer ones have."""
    rows, columns = np.mgrid[:192, :108]
    room = np.where((rows % 24 < 12)[..., None], 60, np.where((columns % 12 < 6)[..., None], 120, 160)) * np.ones(3)
    hole = np.abs(columns - 54) < 36
    rows_alone = np.where(hole[..., None], 90, room).astype(np.uint8)
    filled = inpaint(room.astype(np.uint8), hole, rows_alone)
    assert np.array_equal(filled[~hole], room[~hole].astype(np.uint8)) and filled[hole].std() > 0.5 * room[hole].std()
    assert np.array_equal(filled, inpaint(room.astype(np.uint8), hole, rows_alone))


def test_whoever_fills_the_picture_leaves_a_background_all_the_same():
    picture = np.full((96, 80, 3), (200, 30, 30), np.uint8)
    person = np.ones((96, 80), bool)
    person[:, :2], picture[:, :2] = False, 120
    assert np.abs(fill_background(picture, person).astype(int) - 120).max() <= 2


def test_outlines_snap_to_the_picture(picture, marks):
    import cv2

    coarse = cv2.GaussianBlur(marks.person, (0, 0), 4.0)
    found = outline(picture, coarse)
    true = marks.person > 0.5
    assert (found & true).sum() / (found | true).sum() > 0.97


def test_a_card_shows_everything(made, body):
    card = draw_card(made.avatar, body)
    assert card.shape[1] == 4 * round(320 * SIZE[1] / SIZE[0]) and card.shape[0] == 640 and card.std() > 20


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"face": None, "person": np.zeros(SIZE, np.float32)}, "no person was found"),
        ({"face": None}, "a person, but no face was found"),
        ({"faces": 2}, "2 faces were found; expected one person"),
        ({"people": 2}, "2 people were found"),
        ({"person": np.zeros(SIZE, np.float32)}, "is it drawn, or on a poster"),
        ({"head": Rotation.from_euler("y", 60, degrees=True).as_matrix().astype(np.float32)}, "turned 60 degrees away"),
    ],
)
def test_what_cannot_be_done_well_is_refused_with_the_reason(marks, picture, body, known, change, complaint):
    with pytest.raises(ClipError, match=complaint):
        fit_portrait(picture, "x", lambda picture: replace(marks, **change), body, known)


def test_small_faces_cut_faces_and_impossible_faces(marks, picture, body, known):
    def go(marks, picture=picture):
        return fit_portrait(picture, "x", lambda picture: marks, body, known)

    with pytest.raises(ClipError, match="50 x 50 px; expected at least 256"):
        go(marks, picture[:50, :50])
    middle = marks.face.mean(0)
    with pytest.raises(ClipError, match="px high in a picture"):
        go(replace(marks, face=middle + 0.3 * (marks.face - middle)))
    with pytest.raises(ClipError, match="cut off"):
        go(replace(marks, face=marks.face - [0, marks.face[:, 1].mean()]))
    upset = marks.face + np.random.default_rng(0).normal(0, 8, marks.face.shape)
    with pytest.raises(ClipError, match="does not fit a human head"):
        go(replace(marks, face=upset.astype(np.float32)))
    bulky = marks.person.copy()
    bulky[300:, :] = 1
    with pytest.raises(ClipError, match="something bulky"):
        go(replace(marks, person=bulky))


# ---- avatars by name ----


def test_shipped_avatars_load():
    assert {"ava", "ben", "cleo", "dan"} <= set(Library().names())
    for name in Library().names():
        avatar = read_avatar(Library().find(name))
        assert avatar.origin == "synthetic" and avatar.portrait.shape[0] >= 256


@pytest.mark.parametrize(
    ("name", "complaint"),
    [("zoe", "a picture file or one of ava"), ("../ava", "unknown"), ("", "unknown"), (".", "unknown")],
)
def test_unknown_avatars_are_explained(name, complaint):
    with pytest.raises(ClipError, match=complaint):
        Library().find(name)
