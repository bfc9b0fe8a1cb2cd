"""Portraits become avatars: the fit against a known truth, regions, background, and which portraits are refused."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from stereotalker.avatar.background import extend_person_colors, fill_background
from stereotalker.avatar.body_fit import fit, limb_shapes
from stereotalker.avatar.card_image import draw_card
from stereotalker.avatar.detector_calibration import HAND_JOINTS
from stereotalker.avatar.fit_portrait import _are_arms_crossed, _cut_hands, fit_portrait
from stereotalker.avatar.hair_depth import HairRule
from stereotalker.avatar.landmarks import POSE
from stereotalker.avatar.library import Library, read_avatar
from stereotalker.avatar.segmentation import outline
from stereotalker.avatar.silhouette import arm_vertices
from stereotalker.body.free_body import PARTS
from stereotalker.errors import ClipError
from stereotalker.evaluation.avatars import warp_psnr
from stereotalker.geometry import camera
from stereotalker.geometry.camera import project
from stereotalker.geometry.camera_path import CameraPath
from stereotalker.media.inpainting import CLOTHES, ROOM, inpaint
from stereotalker.records import Motion
from stereotalker.smplx_layout import JOINT, REGION, SIDES
from tests.conftest import SIZE

pytestmark = [pytest.mark.integration, pytest.mark.xdist_group("avatar")]

# ---- the fit ----


def test_the_fit_recovers_the_true_pose_and_camera(landmarks, truth, body, calibration):
    result = fit(landmarks, body, calibration)
    assert result.face_error < 0.004 and result.wrist_error < 0.02 and result.arm_error < 0.03
    assert np.array_equal(result.intrinsics, truth[3])

    def project_joints(poses, betas, E, surface=None):
        joints, rotations = body.posed_joints(
            Motion(poses[None], truth[2][None], np.zeros((1, 3), np.float32), 25.0), betas, surface
        )
        in_camera = joints[0] @ E[:3, :3].T + E[:3, 3]
        return in_camera[:, :2] / in_camera[:, 2:] * truth[3][0, 0], E[:3, :3] @ rotations[0, JOINT["head"]]

    fitted_pixels, fitted_head = project_joints(result.poses, result.betas, result.extrinsics, result.surface)
    true_pixels, true_head = project_joints(truth[1], truth[0], truth[4])
    rows = [JOINT[name] for name in ("neck", "head", "left_shoulder", "right_elbow", "left_wrist", "right_wrist")]
    assert np.linalg.norm((fitted_pixels - true_pixels)[rows], axis=1).max() < 0.05 * landmarks.shoulder_width
    assert np.degrees(Rotation.from_matrix(fitted_head @ true_head.T).magnitude()) < 3


def test_a_portrait_without_hands_and_body_landmarks_is_fitted(landmarks, body, calibration):
    face_only = replace(landmarks, pose=None, visible=None, pose_world=None, hands={}, hands_world={}, people=0)
    result = fit(face_only, body, calibration)
    assert (
        result.face_error < 0.005
        and result.wrist_error is None
        and result.arm_error is None
        and result.seen == {"left": False, "right": False}
    )
    wrists, _ = body.posed_joints(
        Motion(result.poses[None], result.expression[None], np.zeros((1, 3), np.float32), 25.0), result.betas
    )
    # Arms without landmarks hang down.
    assert (wrists[0, [JOINT["left_wrist"], JOINT["right_wrist"]], 1] < 0.45).all()


def test_the_silhouette_holds_an_arm_whose_elbow_was_found_in_the_wrong_place(landmarks, body, calibration):
    wrong = landmarks.pose.copy()
    wrong[POSE["right_elbow"], 0] -= 0.4 * landmarks.shoulder_width  # the person's right is on the left
    outside = {}
    for name, person in (("silhouette", landmarks.person), ("none", np.ones_like(landmarks.person))):
        result = fit(replace(landmarks, pose=wrong, person=person), body, calibration)
        still = Motion.still(result.poses, result.expression)
        vertices = body.pose(still, result.betas, result.surface)[0][arm_vertices(body)]
        pixels = project(vertices, result.intrinsics, result.extrinsics)
        columns, rows = (np.clip(pixels[:, k].astype(int), 0, landmarks.size[1 - k] - 1) for k in (0, 1))
        outside[name] = (landmarks.person[rows, columns] < 0.5).mean()
    assert outside["silhouette"] < 0.5 * outside["none"]


def test_crossed_arms_keep_still_and_say_so(landmarks, picture, body, calibration):
    swapped = {"left": landmarks.hands["right"], "right": landmarks.hands["left"]}
    middle = {side: points - (points[0, 0] - landmarks.size[1] / 2, 0) for side, points in landmarks.hands.items()}
    crossed, clasped = (replace(landmarks, hands=hands) for hands in (swapped, middle))
    assert not any(map(_are_arms_crossed, (landmarks, clasped, replace(landmarks, hands={}))))
    fitted = fit_portrait(picture, "crossed", lambda _: crossed, body, calibration)
    assert not fitted.avatar.arms and any("arms are crossed" in note for note in fitted.notes), fitted.notes


def test_one_hand_and_cut_hands_are_told_in_the_notes(landmarks, picture, body, calibration):
    H, W = landmarks.size
    low = landmarks.hands["left"] + (0, H - np.median(landmarks.hands["left"][:, 1]))
    assert _cut_hands(landmarks) == [] and _cut_hands(replace(landmarks, hands={"left": low})) == ["left"]
    one = replace(landmarks, hands={"left": landmarks.hands["left"]}, hands_world={})
    fitted = fit_portrait(picture, "one", lambda _: one, body, calibration)
    assert fitted.avatar.arms and any("the right hand was not found" in note for note in fitted.notes), fitted.notes


def test_a_limb_shape_lengthens_its_own_limb_only(body):
    betas = np.zeros(body.betas, np.float32)
    joints = body.joints(betas)
    rest = Motion(np.zeros((1, 55, 3), np.float32), np.zeros((1, 52), np.float32), np.zeros((1, 3), np.float32), 25.0)
    limbs = (("shoulder", "elbow"), ("elbow", "wrist"), ("wrist", "middle1"))

    def length(joints, side, start, end):
        return np.linalg.norm(joints[JOINT[f"{side}_{end}"]] - joints[JOINT[f"{side}_{start}"]])

    for shape, (start, end) in zip(limb_shapes(body), limbs, strict=True):
        moved = body.posed_joints(rest, betas, shape)[0][0]
        for side in SIDES:
            assert length(moved, side, start, end) == pytest.approx(2 * length(joints, side, start, end), rel=0.03)
            for other in limbs:
                if other != (start, end):
                    assert length(moved, side, *other) == pytest.approx(length(joints, side, *other), rel=0.03)
        assert np.allclose(moved[JOINT["head"]], joints[JOINT["head"]], atol=1e-5)


def test_the_detector_calibration_matches_this_body(body, calibration):
    on_face = calibration.face_points(body.template, body.faces)
    assert np.allclose(on_face, calibration.face_template, atol=1e-5)
    # The corners of the eyes and of the mouth are symmetric.
    left, right = calibration.face_template[[33, 61]], calibration.face_template[[263, 291]]
    assert np.abs(left * [-1, 1, 1] - right).max() < 0.003
    assert (np.abs(calibration.face_template[468:, 2] - 0.15) < 0.03).all()  # the irises
    assert len(HAND_JOINTS) == 21 and calibration.face_spread[:468].mean() < 0.05


# ---- from picture to avatar ----


def test_the_avatar_covers_the_person_and_reproduces_its_portrait(fitted, landmarks, picture, body):
    assert fitted.residuals.silhouette_iou > 0.97
    assert fitted.residuals.face < 0.003 and fitted.avatar.arms
    assert warp_psnr(fitted.avatar, picture, body) > 30
    view = camera.avatar_camera(fitted.avatar, CameraPath(), 2, 25.0, SIZE)
    assert np.allclose(view.extrinsics[0], fitted.avatar.extrinsics, atol=1e-4) and np.allclose(
        view.intrinsics[0], fitted.avatar.intrinsics, atol=1e-2
    )


def test_hair_of_a_fitted_head_is_nearer_and_the_eyes_are_not(landmarks, picture, body, calibration, monkeypatch):
    top = np.quantile(landmarks.face[:, 1], 0.1)
    dark = picture.copy()
    dark[(landmarks.person > 0.5) & (np.arange(SIZE[0])[:, None] < top)] = (25, 18, 12)
    hairy = fit_portrait(dark, "somebody", lambda picture: landmarks, body, calibration).avatar
    monkeypatch.setattr("stereotalker.avatar.fit_portrait.FITTED_HEAD", HairRule(0.0, 0.0))
    bare = fit_portrait(dark, "nobody", lambda picture: landmarks, body, calibration).avatar
    still = Motion.still(bare.poses, bare.expression)
    depth = [(body.pose(still, a.betas, a.surface)[0] @ a.extrinsics[:3, :3].T)[:, 2] for a in (bare, hairy)]
    nearer, eyes = depth[0] - depth[1], body.part == PARTS["eye"][0]
    assert nearer.max() > 0.002 and np.abs(nearer[eyes]).max() < 0.0005


def test_regions_match_the_landmarks(fitted, landmarks):
    regions = fitted.avatar.regions
    x, y = landmarks.face[[1, 13]].astype(int).T  # nose and upper lip
    assert regions[y[0], x[0]] == REGION["face"] and regions[y[1], x[1]] == REGION["mouth"]
    for side in SIDES:
        x, y = landmarks.hands[side][9].astype(int)
        if 0 <= x < SIZE[1] and 0 <= y < SIZE[0]:
            assert regions[y, x] == REGION["hands"]
    assert (regions[:20, :20] == REGION["background"]).all()


def test_cameras_keep_the_chest_in_the_middle_at_any_frame_shape(fitted):
    for size in ((360, 640), (512, 512), (640, 360)):
        view = camera.avatar_camera(fitted.avatar, CameraPath(azimuth=20, elevation=5), 1, 25.0, size)
        at = camera.project(fitted.avatar.target[None], view.intrinsics[0], view.extrinsics[0])[0]
        assert np.allclose(at[:2], [size[1] / 2, size[0] / 2], atol=0.5)


def test_the_filled_background_holds_no_colors_of_the_person(picture, landmarks):
    mask = landmarks.person > 0.5
    filled = fill_background(picture, mask)
    assert np.abs(filled[mask].astype(int).mean(0) - picture[~mask].astype(int).mean(0)).max() < 25
    assert np.array_equal(filled[:5, :5], picture[:5, :5])
    clean = extend_person_colors(picture, mask)
    assert np.array_equal(clean[:5, :5], picture[:5, :5]) and clean.shape == picture.shape


def test_edges_and_patterns_of_a_room_continue_behind_the_person():
    """A shaded wall with a patterned board: behind the person the board's edge, its pattern and the shade continue."""
    rows, columns = np.mgrid[:240, :200]
    wall = (90 + 0.3 * columns)[..., None] + np.array([0, 10, -20])
    board = np.where(
        (rows < 120)[..., None], np.array([40, 90, 70]) + 25 * ((columns % 16 < 8) ^ (rows % 16 < 8))[..., None], wall
    )
    room = board.astype(np.uint8)
    person = (np.abs(columns - 100) < 40) & (rows > 30)
    filled = fill_background(np.where(person[..., None], np.uint8([200, 30, 30]), room), person).astype(int)
    inner = person & (np.abs(rows - 120) > 6)
    # Smooth inpainting (Telea 2004) is off by 5.7 here.
    assert np.abs(filled - room)[inner & (rows > 120)].mean() < 2
    assert np.abs(filled.mean(-1)[person & (rows < 114)].mean() - room.mean(-1)[person & (rows < 114)].mean()) < 2
    # The pattern continues, blurred. Rows of one color would have a deviation of 0.
    assert filled[40:110, 70:130].std(1).mean() > 0.25 * room[40:110, 70:130].std(1).mean()
    assert (filled[..., 0] < filled[..., 1] + 5)[person].all()  # no red of the person


def test_a_plain_wall_continues_without_shapes_or_an_outline():
    rows, columns = np.indices((300, 240))
    wall = np.stack([60 + 0.3 * columns, 90 + 0.2 * rows, 120 - 0.1 * rows + 0.1 * columns], -1)
    wall += np.random.default_rng(0).normal(0, 1, wall.shape)
    person = np.hypot(rows - 190, (columns - 120) * 1.4) < 100
    picture = np.where(person[..., None], (30, 30, 40), wall).clip(0, 255).astype(np.uint8)
    error = np.abs(fill_background(picture, person) - wall)[person]
    assert error.mean() < 2.5 and np.percentile(error, 99) < 8


def test_inpainting_needs_only_narrow_margins():
    """Beside a person who nearly fills the frame, a coarse grid has no room for a patch, but finer grids have."""
    rows, columns = np.mgrid[:192, :108]
    room = np.where((rows % 24 < 12)[..., None], 60, np.where((columns % 12 < 6)[..., None], 120, 160)) * np.ones(3)
    hole = np.abs(columns - 54) < 36
    initial = np.where(hole[..., None], 90, room).astype(np.uint8)
    filled = inpaint(room.astype(np.uint8), hole, initial, ROOM)
    assert np.array_equal(filled[~hole], room[~hole].astype(np.uint8)) and filled[hole].std() > 0.5 * room[hole].std()
    assert np.array_equal(filled, inpaint(room.astype(np.uint8), hole, initial, ROOM))


def fill_shirt(shift_cost):
    """A shirt with a darker strip of buttons down its middle, of which arms hid the part in the middle."""
    rows, columns = np.mgrid[:128, :96]
    shirt = (np.where(np.abs(columns - 48) < 4, 150, 180)[..., None] * np.ones(3)).astype(np.uint8)
    hole = np.abs(rows - 64) < 28
    return inpaint(shirt, hole, np.where(hole[..., None], 180, shirt).astype(np.uint8), shift_cost)


def test_cloth_goes_on_downwards():
    as_cloth, as_room = fill_shirt(CLOTHES)[60:68], fill_shirt(ROOM)[60:68]
    assert np.abs(as_cloth[:, 46:51].mean() - 150) < 5 and np.abs(as_cloth[:, 15:30].mean() - 180) < 5
    assert np.abs(as_room[:, 46:51].mean() - 150) > 15  # copied sideways, from beside the strip


def test_a_person_who_fills_the_picture_still_leaves_a_background():
    picture = np.full((96, 80, 3), (200, 30, 30), np.uint8)
    person = np.ones((96, 80), bool)
    person[:, :2], picture[:, :2] = False, 120
    assert np.abs(fill_background(picture, person).astype(int) - 120).max() <= 2


def test_coarse_outlines_are_refined_to_the_picture(picture, landmarks):
    import cv2

    coarse = cv2.GaussianBlur(landmarks.person, (0, 0), 4.0)
    refined = outline(picture, coarse)
    true = landmarks.person > 0.5
    assert (refined & true).sum() / (refined | true).sum() > 0.97


def test_a_card_has_eight_pictures(fitted, body):
    card = draw_card(fitted.avatar, body)
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
def test_unusable_portraits_are_refused_with_the_reason(landmarks, picture, body, calibration, change, complaint):
    with pytest.raises(ClipError, match=complaint):
        fit_portrait(picture, "x", lambda picture: replace(landmarks, **change), body, calibration)


def test_small_cut_off_and_impossible_faces_are_refused(landmarks, picture, body, calibration):
    def fit(landmarks, picture=picture):
        return fit_portrait(picture, "x", lambda picture: landmarks, body, calibration)

    with pytest.raises(ClipError, match="50 x 50 px; expected at least 256"):
        fit(landmarks, picture[:50, :50])
    middle = landmarks.face.mean(0)
    with pytest.raises(ClipError, match="px high in a picture"):
        fit(replace(landmarks, face=middle + 0.3 * (landmarks.face - middle)))
    with pytest.raises(ClipError, match="cut off"):
        fit(replace(landmarks, face=landmarks.face - [0, landmarks.face[:, 1].mean()]))
    scrambled = landmarks.face + np.random.default_rng(0).normal(0, 8, landmarks.face.shape)
    with pytest.raises(ClipError, match="does not fit a human head"):
        fit(replace(landmarks, face=scrambled.astype(np.float32)))
    bulky = landmarks.person.copy()
    bulky[300:, :] = 1
    with pytest.raises(ClipError, match="something bulky"):
        fit(replace(landmarks, person=bulky))


# ---- avatars by name ----


def test_shipped_avatars_are_readable():
    assert {"ava", "ben", "cleo", "dan"} <= set(Library().names())
    for name in Library().names():
        avatar = read_avatar(Library().find(name))
        assert avatar.origin == "synthetic" and avatar.portrait.shape[0] >= 256


@pytest.mark.parametrize(
    ("name", "complaint"),
    [("zoe", "a picture file or one of ava"), ("../ava", "unknown"), ("", "unknown"), (".", "unknown")],
)
def test_unknown_avatar_names_are_refused_with_the_choices(name, complaint):
    with pytest.raises(ClipError, match=complaint):
        Library().find(name)
