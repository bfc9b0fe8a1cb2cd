"""Layers of a portrait, and the texture of arms and hands: no part carries the pixels of another."""

from dataclasses import replace

import numpy as np
import pytest
from avatar_helpers import still_motion

from stereotalker.control.atlas import texel_corners
from stereotalker.control.body_parts import back_of_head_vertices, forearm_vertices, hand_vertices, joint_reach
from stereotalker.control.layers import ARM, COUNT, HAND, TRUNK, make_layers, triangle_layers, vertex_layers
from stereotalker.control.reference_warp import control, reference
from stereotalker.control.texture import COPIED_TEXEL
from stereotalker.control.warp_kernels import COMPLETED, COPIED, SEEN, SMOOTHED
from stereotalker.geometry import camera
from stereotalker.geometry.camera import project
from stereotalker.geometry.camera_path import CameraPath
from stereotalker.records import Motion
from stereotalker.smplx_layout import JOINT, REGION

pytestmark = [pytest.mark.integration, pytest.mark.xdist_group("avatar")]

SKIN, CLOTH, WALL = (np.array(color) for color in ((205, 150, 125), (40, 60, 150), (90, 120, 90)))
HANDS, ARMS, TORSO = (REGION[name] for name in ("hands", "arms", "torso"))


def two_colors(avatar, skin=("face", "mouth", "hair", "hands")):
    """The avatar's portrait with one color of skin, one of cloth and one of the wall."""
    is_skin = np.isin(avatar.regions, [REGION[name] for name in skin])
    portrait = np.where(is_skin[..., None], SKIN, np.where((avatar.regions > 0)[..., None], CLOTH, WALL))
    return replace(avatar, portrait=portrait.astype(np.uint8))


def layers_of(avatar, body):
    vertices = body.pose(still_motion(avatar), avatar.betas, avatar.surface)[0]
    pixels = project(vertices, avatar.intrinsics, avatar.extrinsics)
    return make_layers(avatar, body, pixels, np.ones(len(vertices), np.float32))[0]


def warp(avatar, body, change=None, azimuth=0.0):
    """Control maps of one frame: the portrait's pose, with `change` (joint -> rotation added, rad)."""
    poses = avatar.poses.copy()
    for joint, rotation in (change or {}).items():
        poses[JOINT[joint]] += rotation
    motion = Motion.still(poses.astype(np.float32), avatar.expression)
    view = camera.avatar_camera(avatar, CameraPath(azimuth=azimuth), 1, 25.0, avatar.regions.shape)
    return control(reference(avatar, body), body, motion, view)


def is_near(picture, color, limit=40):
    return np.abs(picture.astype(int) - color).max(-1) < limit


def test_every_triangle_is_in_the_layer_of_its_part(body):
    vertex_layer = vertex_layers(body)
    assert np.array_equal(vertex_layer >= HAND, hand_vertices(body))
    left = body.template[:, 0] > 0.3  # m
    assert (vertex_layer[left] % 2 == ARM % 2).all() and (vertex_layer[body.template[:, 1] < 0] == TRUNK).all()
    layer = triangle_layers(vertex_layer, body.faces)
    # Hands are closed: every triangle with a corner on a hand is drawn with the hand.
    assert (layer[hand_vertices(body)[body.faces].any(1)] >= HAND).all()


def test_the_trunk_has_cloth_where_hands_hide_it(fitted, body):
    avatar = two_colors(fitted.avatar)
    layers = layers_of(avatar, body)
    assert len(layers) == COUNT
    hidden = (avatar.regions == HANDS) & np.isfinite(layers[TRUNK].depth)
    assert hidden.sum() > 100 and is_near(layers[TRUNK].picture, CLOTH)[hidden].mean() > 0.97
    assert not layers[TRUNK].is_shown[hidden].any()


def test_hands_have_skin_all_over_their_own_shape(fitted, body):
    avatar = two_colors(fitted.avatar)
    layers = layers_of(avatar, body)
    for k in (HAND, HAND + 1):
        drawn = np.isfinite(layers[k].depth)
        assert drawn.sum() > 100 and is_near(layers[k].picture, SKIN)[drawn].mean() > 0.97


def test_a_portrait_without_hands_or_without_a_person_still_has_layers(fitted, body):
    for kept in (["face", "torso"], []):
        regions = np.where(np.isin(fitted.avatar.regions, [REGION[name] for name in kept]), fitted.avatar.regions, 0)
        avatar = replace(two_colors(fitted.avatar), regions=regions.astype(np.uint8))
        layers = layers_of(avatar, body)
        assert not any(layer.is_shown.any() for layer in layers[HAND:])
        maps = warp(avatar, body, {"left_elbow": (0, -0.4, 0)})
        assert maps.warp.shape == (1, *avatar.regions.shape, 3)


def test_the_portraits_own_pose_shows_the_portrait(fitted, body):
    avatar = two_colors(fitted.avatar)
    maps = warp(avatar, body)
    inner = (avatar.regions == HANDS) & (maps.visibility[0] == SEEN)
    assert inner.sum() > 200 and is_near(maps.warp[0], SKIN)[inner].mean() > 0.99
    assert (maps.labels[0][inner] == HANDS).mean() > 0.99


def test_a_hand_that_moves_leaves_no_ghost_and_carries_no_cloth(fitted, body):
    avatar = two_colors(fitted.avatar)
    maps = warp(avatar, body, {"left_elbow": (0, -0.5, 0), "right_elbow": (0, 0.5, 0)})
    colors, labels = maps.warp[0], maps.labels[0]
    hands = labels == HANDS
    assert hands.sum() > 200 and is_near(colors, SKIN, 70)[hands].mean() > 0.9
    trunk = (labels == TORSO) & (maps.visibility[0] >= COMPLETED)
    was_hand = trunk & (avatar.regions == HANDS)
    assert was_hand.sum() > 50 and is_near(colors, CLOTH, 60)[was_hand].mean() > 0.95


def with_sleeves(portrait_body, end):
    """The avatar in cloth of one color, with skin beyond `end` m along the arms."""
    avatar, _, arm_distance = portrait_body
    bare = (avatar.regions == ARMS) & (arm_distance > end)
    skin = np.isin(avatar.regions, [REGION[name] for name in ("face", "mouth", "hair", "hands")]) | bare
    return replace(avatar, portrait=np.where(skin[..., None], SKIN, CLOTH).astype(np.uint8))


def test_hidden_sides_of_limbs_are_copied_with_their_sleeves_end(portrait_body, body):
    end = 0.4  # m from the middle of the body
    ref = reference(with_sleeves(portrait_body, end), body)
    corners = body.faces.ravel()
    columns, rows = texel_corners(body)[body.texture_faces.ravel()].astype(int).T.clip(0, len(ref.texture.seen) - 1)
    skin_share = (ref.texture.colour[rows, columns] - CLOTH) @ (SKIN - CLOTH) / ((SKIN - CLOTH) @ (SKIN - CLOTH))
    layer, distance = vertex_layers(body)[corners], np.abs(body.template[corners, 0])
    copied = (ref.texture.seen[rows, columns] == COPIED_TEXEL) & (layer >= ARM) & (layer < HAND)
    beyond, before = copied & (distance > end + 0.06), copied & (distance < end - 0.06) & (distance > 0.25)
    assert beyond.sum() > 50 and before.sum() > 50
    assert (skin_share[beyond] > 0.6).mean() > 0.95 and (skin_share[before] < 0.4).mean() > 0.95


def test_a_bare_arm_that_turns_has_the_smoothed_colors_of_the_portrait(portrait_body, body):
    turns = {"left_elbow": (0, 0, 0.8), "right_elbow": (0, 0, 0.8)}
    still, turned = (warp(with_sleeves(portrait_body, 0.4), body, change) for change in ({}, turns))
    smooth = turned.visibility[0] == SMOOTHED
    assert (still.visibility == SMOOTHED).sum() < 0.05 * smooth.sum()
    assert smooth.sum() > 1000 and np.isin(turned.labels[0][smooth], (ARMS, HANDS)).all()
    assert is_near(turned.warp[0], SKIN, 90)[smooth].mean() > 0.9


def test_the_cuff_of_a_long_sleeve_goes_on_over_the_wrist(fitted, body):
    ref = reference(two_colors(fitted.avatar), body)
    corners = body.faces.ravel()
    columns, rows = texel_corners(body)[body.texture_faces.ravel()].astype(int).T.clip(0, len(ref.texture.seen) - 1)
    skin_share = (ref.texture.colour[rows, columns] - CLOTH) @ (SKIN - CLOTH) / ((SKIN - CLOTH) @ (SKIN - CLOTH))
    reach, is_hand = np.abs(body.template[corners, 0]), vertex_layers(body)[corners] >= HAND
    cuff, palm = is_hand & (reach < joint_reach(body, "wrist") + 0.002), is_hand & (reach > 0.76)
    assert cuff.sum() > 20 and (skin_share[cuff] < 0.4).mean() > 0.9 and (skin_share[palm] > 0.6).mean() > 0.9


def test_a_turned_hand_shows_copies_of_its_shown_side(fitted, body):
    avatar = two_colors(fitted.avatar)
    maps = warp(avatar, body, {"left_wrist": (0, 2.0, 0), "right_wrist": (0, -2.0, 0)})
    copied = (maps.visibility[0] == COPIED) & (maps.labels[0] == HANDS)
    assert copied.sum() > 50 and is_near(maps.warp[0], SKIN, 70)[copied].mean() > 0.9


def test_regions_that_the_portrait_hides_are_labeled_by_anatomy(portrait_body, body):
    avatar, _, _ = portrait_body
    hairless = np.where(avatar.regions == REGION["hair"], REGION["face"], avatar.regions).astype(np.uint8)
    face = hairless == REGION["face"]
    brow = np.quantile(np.nonzero(face)[0], 0.3)
    hairy = np.where(face & (np.arange(len(face))[:, None] < brow), REGION["hair"], hairless).astype(np.uint8)
    bald, haired = (
        reference(replace(avatar, regions=regions), body).portrait.region[back_of_head_vertices(body)]
        for regions in (hairless, hairy)
    )
    assert (haired == REGION["hair"]).mean() > 0.8 and not (bald == REGION["hair"]).any()
    armless = np.where(avatar.regions == ARMS, TORSO, avatar.regions).astype(np.uint8)
    region = reference(replace(avatar, regions=armless), body).portrait.region[forearm_vertices(body)]
    assert np.isin(region, [ARMS, TORSO, HANDS]).all() and (region == ARMS).mean() > 0.2
