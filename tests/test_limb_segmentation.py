"""Hands and bare arms of a portrait, segmented by their color where the fit is a little off."""

from dataclasses import replace

import cv2
import numpy as np
import pytest

from stereotalker.avatar import color_segmentation
from stereotalker.avatar.limb_segmentation import FittedLimb, find_sleeve_ends, fingers, segment_limb
from stereotalker.avatar.segmentation import outline
from stereotalker.control.sleeves import sleeve_end
from stereotalker.smplx_layout import REGION

pytestmark = [pytest.mark.integration, pytest.mark.xdist_group("avatar")]

SKIN, CLOTH, WALL, NAIL = (205, 150, 125), (40, 60, 150), (90, 120, 90), (170, 20, 50)
HAND, ARMS, TORSO = (REGION[name] for name in ("hands", "arms", "torso"))
FIT_ERROR_PX = 6  # distance between the fitted hand and the hand in the portrait


def fitted_limb(hand, behind_hand, arm=None, reach=None) -> FittedLimb:
    """A fitted limb of masks bool [H, W], without any other limb or head."""
    nothing = np.zeros(hand.shape, bool)
    return FittedLimb(
        hand=hand,
        arm=nothing if arm is None else arm,
        reach=np.zeros(hand.shape, np.float32) if reach is None else reach,
        others=nothing,
        behind_hand=behind_hand.astype(np.uint8),
    )


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
    fitted, _ = hand_mask(0, thick)
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
    limb = fitted_limb(fitted, np.where(person, TORSO, 0))
    return regions, segment_limb(regions, limb, np.inf, picture, lab, skin), hand


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


# ---- bare arms and sleeves ----

END = 0.45  # m along the arm, where the drawn sleeve ends


def drawn_arm(end=END, fit_error=0, cloth=CLOTH, sleeve=CLOTH):
    """A horizontal arm with a hand at its right end, before a trunk; its fit lies `fit_error` px above it.

    Returns the picture, the regions by the fit, the limb, and the true mask of the bare arm, bool [H, W].
    """
    shape = (300, 360)
    rows, columns = np.indices(shape)
    reach = (columns / 400).astype(np.float32)
    person = (rows > 20) & (rows < 280) & (columns > 20) & (columns < 340)

    def arm_and_hand(up):
        is_row = (rows > 120 - up) & (rows < 170 - up)
        return is_row & (columns > 80) & (columns < 250), is_row & (columns >= 250) & (columns < 310)

    (arm, hand), (fitted_arm, fitted_hand) = arm_and_hand(0), arm_and_hand(fit_error)
    picture = np.where(person[..., None], np.array(cloth), np.array(WALL))
    picture[arm] = sleeve
    picture[arm & (reach > end)] = SKIN
    picture[hand] = SKIN
    picture[30:60, 150:190] = SKIN
    picture = np.clip(picture + np.random.default_rng(1).normal(0, 3, picture.shape), 0, 255).astype(np.uint8)
    regions = np.where(person, TORSO, 0)
    regions[fitted_arm], regions[fitted_hand] = ARMS, HAND
    regions[30:60, 150:190] = REGION["face"]
    limb = fitted_limb(fitted_hand, np.where(person, TORSO, 0), fitted_arm, reach)
    return picture, regions.astype(np.uint8), limb, arm & (reach > end)


def colors_of(picture, regions):
    lab = color_segmentation.cielab(picture)
    return lab, color_segmentation.distance(lab, lab[regions == REGION["face"]])


@pytest.mark.parametrize(("end", "expected"), [(END, END), (0.0, 0.0), (9.0, np.inf)])
def test_sleeves_end_where_skin_begins(end, expected):
    picture, regions, limb, _ = drawn_arm(end)
    found = find_sleeve_ends({"left": limb}, regions, *colors_of(picture, regions))
    assert found["left"] == pytest.approx(expected, abs=0.01)


def test_a_forearm_that_points_at_the_camera_counts_although_few_pixels_show_it():
    reach = np.concatenate([np.linspace(0.20, 0.45, 5000), np.linspace(0.46, 0.70, 120)]).astype(np.float32)
    assert sleeve_end(reach, reach > 0.455) == pytest.approx(0.46, abs=0.01)
    assert sleeve_end(reach, reach > 0.695) == np.inf  # a rim of the hand is no bare forearm
    assert sleeve_end(reach[:0], reach[:0] > 0) == np.inf


@pytest.mark.parametrize("what", ["tattoos", "watch"])
def test_tattoos_and_watches_are_no_sleeves(what):
    picture, regions, limb, _ = drawn_arm()
    bare = limb.arm & (limb.reach > END)
    if what == "watch":
        painted = bare & (limb.reach > limb.reach[bare].max() - 0.05) & (limb.reach < limb.reach[bare].max() - 0.02)
    else:
        blobs = cv2.GaussianBlur(np.random.default_rng(3).normal(size=bare.shape), (0, 0), 4)
        painted = bare & (limb.reach > END + 0.03) & (blobs > np.quantile(blobs[bare], 0.7))
    picture = np.where(painted[..., None], np.array([50, 55, 60], np.uint8), picture)
    ends = find_sleeve_ends({"left": limb}, regions, *colors_of(picture, regions))
    assert painted.sum() > 100 and ends["left"] == pytest.approx(END, abs=0.03)


def test_without_a_hand_in_the_picture_the_face_tells_the_color_of_skin():
    picture, regions, limb, _ = drawn_arm()
    cut = replace(limb, hand=np.zeros_like(limb.hand))
    ends = find_sleeve_ends({"left": cut}, regions, *colors_of(picture, regions))
    assert ends["left"] == pytest.approx(END, abs=0.02)


def test_an_arm_that_the_picture_does_not_show_has_no_sleeve():
    picture, regions, limb, _ = drawn_arm()
    hidden = replace(limb, arm=np.zeros_like(limb.arm))
    assert find_sleeve_ends({"left": hidden}, regions, *colors_of(picture, regions)) == {"left": np.inf}


def test_cloth_in_the_color_of_skin_counts_as_a_long_sleeve():
    picture, regions, limb, _ = drawn_arm(cloth=SKIN, sleeve=SKIN)
    assert find_sleeve_ends({"left": limb}, regions, *colors_of(picture, regions)) == {"left": np.inf}


def test_an_arm_that_decides_alone_little_follows_the_other():
    picture, regions, limb, _ = drawn_arm()
    stub = replace(limb, arm=limb.arm & (limb.reach > END + 0.05))  # of this arm only bare skin is visible
    ends = find_sleeve_ends({"left": limb, "right": stub}, regions, *colors_of(picture, regions))
    assert ends["right"] == ends["left"] == pytest.approx(END, abs=0.01)


def test_sleeves_may_have_another_color_than_the_trunk():
    picture, regions, limb, _ = drawn_arm(end=END, sleeve=(222, 200, 150))
    ends = find_sleeve_ends({"left": limb}, regions, *colors_of(picture, regions))
    assert ends["left"] == pytest.approx(END, abs=0.03)


def test_a_bare_arm_is_segmented_where_its_color_is():
    picture, regions, limb, bare = drawn_arm(fit_error=FIT_ERROR_PX)
    after = segment_limb(regions, limb, END, picture, *colors_of(picture, regions))
    inner = bare & (limb.reach > END + 0.05)
    assert (regions[inner] == ARMS).mean() < 0.9 and (after[inner] == ARMS).mean() > 0.97
    # Cloth above the arm, which the fit took for arm, is the trunk's again.
    wrong = limb.arm & (limb.reach > END + 0.05) & ~bare
    assert wrong.sum() > 200 and (after[wrong] == TORSO).mean() > 0.9
    # So it is if the fit took it for a hand.
    as_hand = np.where(wrong, REGION["hands"], regions).astype(np.uint8)
    after_hand = segment_limb(as_hand, limb, END, picture, *colors_of(picture, regions))
    assert (after_hand[wrong & ~limb.hand] == TORSO).mean() > 0.9
    # The sleeve keeps the labels of the fit.
    sleeve = limb.arm & (limb.reach < END - 0.05)
    assert (after[sleeve] == ARMS).all()


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
    (hand, _), (fitted, _) = hand_mask(5), hand_mask(0)
    person = hand.copy()
    person[:, 20:70] = True
    picture = np.where(person[..., None] & ~hand[..., None], np.array(CLOTH), np.array(SKIN))
    picture = np.clip(picture + np.random.default_rng(0).normal(0, 3, picture.shape), 0, 255).astype(np.uint8)
    regions = np.where(fitted & person, HAND, np.where(person, ARMS, 0)).astype(np.uint8)
    lab = color_segmentation.cielab(picture)
    limb = fitted_limb(fitted, np.where(person, ARMS, 0))
    after = segment_limb(regions, limb, np.inf, picture, lab, color_segmentation.distance(lab, lab[hand]))
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


def beside_bare_arm(label_shift, others=None):
    """Segment a drawn arm, with trunk's cloth below forearm and hand labeled as arm. Returns that cloth's labels.

    label_shift: px from the arm's lower edge to the labeled cloth. others bool [H, W]: the other fitted limb.
    """
    picture, regions, limb, bare = drawn_arm(end=0.30)
    rows, columns = np.indices(regions.shape)
    labeled = (rows > 170 + label_shift) & (rows < 185 + label_shift) & (columns > 190) & (columns < 300)
    regions[labeled] = ARMS
    if others is not None:
        limb = replace(limb, others=others(rows, columns))
    return segment_limb(regions, limb, 0.30, picture, *colors_of(picture, regions))[labeled]


def test_cloth_below_a_bare_forearm_and_its_hand_is_the_trunks():
    assert (beside_bare_arm(3) == TORSO).mean() > 0.9


def test_the_loose_sleeve_of_the_other_arm_stays_with_it():
    # A fitted arm lies beyond the labeled cloth, nearer to it than the segmented one.
    def other(rows, columns):
        return (rows > 235) & (rows < 270) & (columns > 100) & (columns < 330)

    assert (beside_bare_arm(45, other) == ARMS).all()
    assert (beside_bare_arm(45) == TORSO).mean() > 0.9
