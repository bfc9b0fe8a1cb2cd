"""Colors and shape of arms that leave the portrait's pose."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.ndimage import distance_transform_edt
from scipy.spatial import cKDTree

from stereotalker.avatar.clothed_surface import _match_edges
from stereotalker.avatar.fit_portrait import _MAX_FOREIGN_HANDS, _foreign_hand_share
from stereotalker.control.atlas import atlas_of
from stereotalker.control.layers import ARM, HAND, TRUNK, vertex_layers
from stereotalker.control.limb_colors import complete_limbs
from stereotalker.control.limb_materials import limb_materials
from stereotalker.control.loose_sleeves import pose_clothed, round_sleeves
from stereotalker.control.reference_warp import _portrait_share
from stereotalker.media.pull_push import extrapolate_colors
from stereotalker.records import Motion
from stereotalker.smplx_layout import JOINT, REGION

SKIN, CLOTH = np.array([200.0, 150.0, 120.0]), np.array([40.0, 60.0, 160.0])
LONGEST = 0.72  # where long sleeves end, m


# ---- outline ----


def test_an_outline_does_not_slide_to_an_edge_that_is_visible_farther_down():
    y = np.arange(100, 500, 10.0)
    points, left = np.stack([np.full_like(y, 300), y], 1), np.tile([-1.0, 0], (len(y), 1))
    edge = np.stack([np.full(200, 290.0), np.arange(300, 500.0)], 1)
    move, weight = _match_edges(points, left, edge, np.tile([-1.0, 0], (200, 1)), 1000, np.full(len(y), 160.0))
    beside, above = y > 310, y < 260
    assert np.allclose(move[beside, 0], -10, atol=1) and (weight[beside] == 1).all()
    assert not weight[above].any() and not move[above].any()


# ---- colors ----


@pytest.fixture(scope="module")
def atlas(body):
    return atlas_of(body.path, body.reader, body.betas)


def completed(body, atlas, color, is_source, end, is_smoothed=None):
    if is_smoothed is None:
        is_smoothed = np.zeros(len(is_source), bool)
    return complete_limbs(body, atlas, color, is_source, is_smoothed, end, SKIN, CLOTH)


def limb_texels(body, atlas):
    return vertex_layers(body)[atlas.nearest_vertex] > TRUNK


def test_hidden_limb_colors_continue_shown_ones_and_leave_their_shadows(body, atlas):
    position, limbs = atlas.positions, limb_texels(body, atlas)
    light = 100 + 60 * np.sin(position[:, :1] * 6) + np.zeros((1, 3))
    is_source = limbs & (position[:, 2] > np.median(position[limbs, 2]))
    color = np.where(is_source[:, None], light, 255).astype(np.float32)
    result = completed(body, atlas, color, is_source, LONGEST)
    hidden = np.flatnonzero(limbs & ~is_source)
    distance = cKDTree(position[is_source]).query(position[hidden])[0]
    near, far = (hidden[is_so] for is_so in (distance < 0.006, distance > 0.04))
    assert np.abs(result - light)[near].mean() < 10
    lit = np.median(light[is_source][light[is_source][:, 0] > np.percentile(light[is_source][:, 0], 40)])
    assert np.abs(result[far] - lit).mean() < 0.7 * np.abs(light[far] - lit).mean()


def test_folds_go_on_over_what_the_portrait_does_not_show(body, atlas):
    position, limbs = atlas.positions, limb_texels(body, atlas)
    arm = limbs & (vertex_layers(body)[atlas.nearest_vertex] < HAND) & (np.abs(position[:, 0]) > 0.25)
    folds = 150 + 40 * np.sin(position[:, :1] * 2 * np.pi / 0.05) + np.zeros((1, 3))
    is_source = arm & (position[:, 2] > np.median(position[arm, 2]))
    color = np.where(is_source[:, None], folds, 150).astype(np.float32)
    result = completed(body, atlas, color, is_source, LONGEST)
    hidden = arm & ~is_source & (np.abs(position[:, 0]) > 0.3) & (np.abs(position[:, 0]) < 0.5)
    assert np.corrcoef(result[hidden, 0], folds[hidden, 0])[0, 1] > 0.4
    assert result[hidden, 0].std() > 0.3 * folds[hidden, 0].std()


def test_skin_has_no_folds(body, atlas):
    limbs = limb_texels(body, atlas)
    folds = 150 + 40 * np.sin(atlas.positions[:, :1] * 2 * np.pi / 0.05) + np.zeros((1, 3))
    is_source = limbs & (atlas.positions[:, 2] > np.median(atlas.positions[limbs, 2]))
    color = np.where(is_source[:, None], folds, 150).astype(np.float32)
    as_skin, as_cloth = (completed(body, atlas, color, is_source, end) for end in (0.0, LONGEST))
    far = cKDTree(atlas.positions[is_source]).query(atlas.positions)[0] > 0.03
    hidden = limbs & ~is_source & far & (np.abs(atlas.positions[:, 0]) < 0.6)
    assert as_skin[hidden, 0].std() < 0.5 * as_cloth[hidden, 0].std()


def test_a_hem_has_the_colors_of_its_own_arm(body, atlas):
    """The left arm is lit and the right one dark. Colors of neither material are taken from the other arm."""
    limb, position, end = limb_texels(body, atlas), atlas.positions, 0.4
    light = np.where(position[:, :1] > 0, 1.0, 0.3)
    color = (light * np.where((np.abs(position[:, :1]) > end), SKIN, CLOTH)).astype(np.float32)
    result = completed(body, atlas, color, limb, end)
    hem = limb & (position[:, 0] < 0) & (np.abs(-position[:, 0] - end) < 0.004)
    low, high = 0.3 * np.minimum(SKIN, CLOTH), 0.3 * np.maximum(SKIN, CLOTH)
    assert hem.sum() > 20 and (result[hem] > low - 6).all() and (result[hem] < high + 6).all()


def test_stains_of_smoothed_arms_are_wiped_and_their_color_stays(body, atlas):
    position, limbs = atlas.positions, limb_texels(body, atlas)
    arm = limbs & (vertex_layers(body)[atlas.nearest_vertex] < HAND)
    stain = arm & (np.abs(np.abs(position[:, 0]) - 0.55) < 0.01)
    color = np.where(stain[:, None], 0.3 * SKIN, SKIN).astype(np.float32)
    as_shown, smooth = (completed(body, atlas, color, arm, 0.3, is_so) for is_so in (None, arm))
    bare = arm & (np.abs(position[:, 0]) > 0.4)
    assert np.abs(smooth - SKIN)[bare].max() < 0.5 * np.abs(as_shown - SKIN)[bare].max()
    assert np.abs(smooth - SKIN)[bare].mean() < 12


def test_an_arm_that_is_not_shown_takes_the_colors_of_the_other_one(body, atlas):
    left = limb_texels(body, atlas) & (atlas.positions[:, 0] > 0)
    right = limb_texels(body, atlas) & ~left
    color = np.where(left[:, None], 90 + 200 * np.abs(atlas.positions[:, :1]), 0).repeat(3, 1).astype(np.float32)
    result = completed(body, atlas, color, left, LONGEST)
    expected = 90 + 200 * np.abs(atlas.positions[right, :1])
    assert np.abs(result[right] - expected).mean() < 8


def test_skin_and_cloth_mix_only_at_the_sleeves_end(body, atlas):
    limb, reach = limb_texels(body, atlas), np.abs(atlas.positions[:, 0])
    front, end = limb & (atlas.positions[:, 2] > 0), 0.4
    color = np.where((reach > end)[:, None], SKIN, CLOTH).astype(np.float32)
    result = completed(body, atlas, np.where(front[:, None], color, 0), front, end)
    assert np.abs(result - color)[limb & (np.abs(reach - end) > 0.005)].max() < 1


def test_without_any_limb_shown_typical_colors_stand(body, atlas):
    limb = limb_texels(body, atlas)
    result = completed(body, atlas, np.zeros((len(limb), 3), np.float32), np.zeros_like(limb), 0.4)
    bare = limb & (np.abs(atlas.positions[:, 0]) > 0.42)
    assert np.abs(result[bare] - SKIN).max() < 1 and (result[~limb] == 0).all()


def test_colors_are_continued_beside_what_is_known():
    picture = np.full((40, 50, 3), 7, np.uint8)
    picture[:, :20] = 200
    known = np.zeros((40, 50), bool)
    known[:, 5:15] = True
    result = extrapolate_colors(picture, known)
    assert (result == 200).all() and (extrapolate_colors(picture, np.zeros_like(known)) == picture).all()


# ---- materials ----


def painted(avatar, is_skin):
    portrait = np.where(is_skin[..., None], SKIN, CLOTH).astype(np.uint8)
    return replace(avatar, portrait=portrait)


def test_cloth_within_the_label_of_a_hand_is_foreign(fitted):
    avatar, hands = fitted.avatar, fitted.avatar.regions == REGION["hands"]
    is_skin = hands | (avatar.regions == REGION["face"])
    reach = np.zeros(hands.shape, np.float32)
    assert not limb_materials(painted(avatar, is_skin), reach, np.zeros_like(hands), hands, LONGEST).is_foreign.any()
    depth = distance_transform_edt(hands)
    row, column = np.unravel_index(depth.argmax(), depth.shape)
    line, wedge = is_skin.copy(), is_skin.copy()
    line[row] = False
    wedge[row:, column:] = False
    assert not limb_materials(painted(avatar, line), reach, np.zeros_like(hands), hands, LONGEST).is_foreign.any()
    foreign = limb_materials(painted(avatar, wedge), reach, np.zeros_like(hands), hands, LONGEST).is_foreign
    assert foreign[hands & ~wedge & (distance_transform_edt(~wedge) > 3)].mean() > 0.8
    assert not foreign[hands & (distance_transform_edt(wedge) > 5)].any()


def test_a_loose_sleeve_before_a_bare_arm_is_foreign(portrait_body):
    avatar, _, reach = portrait_body
    hands, arms = (avatar.regions == REGION[name] for name in ("hands", "arms"))
    is_skin = hands | (avatar.regions == REGION["face"]) | (arms & (reach > 0.4))
    lower = arms & (reach > 0.45)
    flap = lower & (np.indices(arms.shape)[0] < np.quantile(np.nonzero(lower)[0], 0.2))
    materials = limb_materials(painted(avatar, is_skin & ~flap), reach, arms, hands, LONGEST)
    assert abs(materials.sleeve_end - 0.4) < 0.03
    assert materials.is_foreign[flap].mean() > 0.5 and materials.is_foreign[lower & ~flap].mean() < 0.2


def test_gloves_keep_their_color(fitted):
    hands, glove = fitted.avatar.regions == REGION["hands"], np.array([30, 160, 60], np.uint8)
    is_skin = fitted.avatar.regions == REGION["face"]
    portrait = np.where(hands[..., None], glove, painted(fitted.avatar, is_skin).portrait)
    avatar = replace(fitted.avatar, portrait=portrait.astype(np.uint8))
    reach = np.zeros(hands.shape, np.float32)
    assert not limb_materials(avatar, reach, np.zeros_like(hands), hands, LONGEST).is_foreign.any()


def test_a_glove_is_told_in_the_notes(fitted):
    assert _foreign_hand_share(fitted.avatar) < _MAX_FOREIGN_HANDS
    hands = fitted.avatar.regions == REGION["hands"]
    right = hands & (np.arange(hands.shape[1]) < np.median(np.nonzero(hands)[1]))
    gloved = np.where(right[..., None], np.array([30, 160, 60], np.uint8), fitted.avatar.portrait)
    avatar = replace(fitted.avatar, portrait=gloved)
    assert _foreign_hand_share(avatar) > _MAX_FOREIGN_HANDS
    handless = replace(avatar, regions=np.where(hands, REGION["torso"], avatar.regions).astype(np.uint8))
    assert _foreign_hand_share(handless) == 0


def test_a_ring_stays_on_its_finger(fitted):
    hands = fitted.avatar.regions == REGION["hands"]
    avatar = painted(fitted.avatar, hands | (fitted.avatar.regions == REGION["face"]))
    depth = distance_transform_edt(hands)
    row, column = np.unravel_index(depth.argmax(), depth.shape)
    ring = np.hypot(*(np.indices(hands.shape) - np.array([row, column])[:, None, None])) < 0.3 * depth.max()
    portrait = np.where(ring[..., None], np.array([240, 200, 60], np.uint8), avatar.portrait)
    materials = limb_materials(
        replace(avatar, portrait=portrait), np.zeros(hands.shape, np.float32), np.zeros_like(hands), hands, LONGEST
    )
    assert not materials.is_foreign[ring].any()


def test_without_skin_nothing_is_decided(fitted):
    regions = np.where(fitted.avatar.regions > 0, REGION["torso"], 0).astype(np.uint8)
    none = np.zeros(regions.shape, bool)
    materials = limb_materials(replace(fitted.avatar, regions=regions), np.zeros(regions.shape), none, none, LONGEST)
    assert materials.sleeve_end == LONGEST and not materials.is_foreign.any()


# ---- shape ----


def turned(avatar, joint, vector):
    poses = np.repeat(avatar.poses[None], 2, 0)
    poses[1, JOINT[joint]] += np.array(vector, np.float32)
    return Motion(poses, np.repeat(avatar.expression[None], 2, 0), np.zeros((2, 3), np.float32), 25.0)


def test_sleeves_become_round_on_the_arm_that_moves(fitted, body):
    bumpy = fitted.avatar.surface.astype(np.float32)
    layer = vertex_layers(body)
    bumpy[(layer >= ARM) & (layer < HAND), 1] += 0.05  # a sleeve that hangs, or stands up, on both arms
    avatar = replace(fitted.avatar, surface=bumpy.astype(np.float16))
    motion = turned(avatar, "left_elbow", (0, -0.8, 0))
    vertices, departure = pose_clothed(avatar, body, round_sleeves(avatar, body), motion)
    plain = body.pose(motion, avatar.betas, avatar.surface)
    assert np.array_equal(vertices[0], plain[0]) and not departure[0].any()
    changed = np.abs(vertices[1] - plain[1]).max(1) > 1e-4
    assert changed.any() and (layer[changed] == ARM).all()
    seam = (layer == ARM) & (body.hand_weight("left") > 0.3)
    assert np.abs(vertices[1] - plain[1])[seam].max() < 0.01  # the wrist stays on the hand
    assert set(np.unique(layer[departure[1] > 0])) == {ARM, HAND}


def test_a_round_sleeve_is_equally_thick_all_around(fitted, body):
    layer, offset = vertex_layers(body), np.zeros((len(body.template), 3), np.float16)
    arm = layer == ARM
    offset[arm, 1] = 0.04
    rounded = round_sleeves(replace(fitted.avatar, surface=offset), body).astype(np.float32)
    middle = arm & (np.abs(body.template[:, 0] - 0.45) < 0.03)
    assert np.linalg.norm(rounded[middle], axis=1).max() < 0.02
    assert np.array_equal(rounded[layer == TRUNK], offset[layer == TRUNK])


def test_slanted_limbs_keep_their_colors_in_the_portraits_own_pose():
    facing = np.linspace(0.01, 1, 50).astype(np.float32)
    is_limb = np.ones(50, bool)
    assert (_portrait_share(facing, facing, is_limb) == 1).all()
    turned_share = _portrait_share(facing, np.ones(50, np.float32), is_limb)
    assert turned_share[0] == 0 and turned_share[-1] == 1 and (np.diff(turned_share) >= 0).all()
    assert np.abs(np.diff(turned_share)).max() < 0.2  # no hard edge
