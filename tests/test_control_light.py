"""The light of a portrait: how it is estimated, and how it shades a body that turns."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.ndimage import minimum_filter

from stereotalker.control.light import PortraitLight, Surface, read_light
from stereotalker.control.reference_warp import control, reference
from stereotalker.control.warp_kernels import LAYER_SHADING, SEEN
from stereotalker.geometry import camera
from stereotalker.geometry.camera import project
from stereotalker.geometry.camera_path import CameraPath
from stereotalker.geometry.rasterizer import rasterize
from stereotalker.records import Motion
from stereotalker.smplx_layout import JOINT, REGION


def luma_under(light, avatar, body, motion):
    """A gray body under a light, as the portrait's camera sees it: (luma f32 [H, W], surface, fragments)."""
    surface = Surface.of(body.pose(motion, avatar.betas, avatar.surface)[0], body.faces)
    fragments = rasterize(
        project(surface.vertices, avatar.intrinsics, avatar.extrinsics), body.faces, avatar.regions.shape
    )
    return 150 * fragments.interpolate(body.faces, light.shading(surface)[:, None])[..., 0], surface, fragments


def gray_picture(level):
    return np.repeat(np.rint(level.clip(0, 255)).astype(np.uint8)[..., None], 3, 2)


def without_light(ref):
    return replace(with_layer_shading(ref, 1.0), light=replace(ref.light, slope=np.zeros(3), shadow=0.0))


def with_layer_shading(ref, shading):
    layers = ref.portrait.layers.copy()
    layers[..., LAYER_SHADING] = shading
    return replace(ref, portrait=ref.portrait._replace(layers=layers))


def unit(*axes):
    return np.array(axes) / np.linalg.norm(axes)


def degrees_between(a, b):
    return np.degrees(np.arccos(np.clip(unit(*a) @ unit(*b), -1, 1)))


@pytest.mark.parametrize("shadow", [0.0, -0.6])
def test_the_light_is_estimated_from_the_portrait(portrait_body, body, shadow):
    avatar, _, _ = portrait_body
    key = unit(-0.5, 0.4, 0.75)
    # Other lamps move the slope away from the direction of the key light.
    light = PortraitLight(0.4 * unit(-0.1, 0.6, 0.8), key, shadow, avatar.target)
    level, surface, fragments = luma_under(light, avatar, body, Motion.still(avatar.poses, avatar.expression))
    portrait = gray_picture(np.where(avatar.regions == REGION["torso"], 0.5, 1.0) * level)
    estimate = read_light(portrait, avatar.regions, fragments.face >= 0, surface, fragments, avatar.target)
    assert np.abs(estimate.slope - light.slope).max() < 0.08
    if shadow:
        assert (
            degrees_between(estimate.key, key) < min(10, 0.5 * degrees_between(light.slope, key))
            and -0.8 < estimate.shadow < -0.3
        )
    else:
        assert estimate.shadow > -0.1


def test_a_turned_head_is_lit_from_the_same_direction(portrait_body, body):
    avatar, _, _ = portrait_body
    key = unit(-0.8, 0.2, 0.57)
    light = PortraitLight(0.5 * key, key, 0.0, avatar.target)
    lit = replace(
        avatar, portrait=gray_picture(luma_under(light, avatar, body, Motion.still(avatar.poses, avatar.expression))[0])
    )
    poses = avatar.poses.copy()
    poses[JOINT["head"]] += np.array([0, 0.6, 0], np.float32)
    turned = Motion.still(poses, avatar.expression)
    truth, _, fragments = luma_under(light, avatar, body, turned)
    head = (fragments.face >= 0) & (body.weights[body.faces[fragments.face, 0], JOINT["head"]] > 0.5)
    view, ref = camera.avatar_camera(lit, CameraPath(), 1, 25.0, avatar.regions.shape), reference(lit, body)
    errors = [
        np.abs(control(lighting, body, turned, view).warp[0, ..., 0] - truth)[head].mean()
        for lighting in (ref, without_light(ref))
    ]
    assert errors[0] < 0.5 * errors[1]


def test_a_moving_camera_does_not_change_the_light(portrait_body, body):
    avatar, _, _ = portrait_body
    still, light = (
        Motion.still(avatar.poses, avatar.expression),
        PortraitLight(0.4 * unit(-0.5, 0.4, 0.75), unit(-0.5, 0.4, 0.75), -0.6, avatar.target),
    )
    ref = reference(replace(avatar, portrait=gray_picture(luma_under(light, avatar, body, still)[0])), body)
    assert np.linalg.norm(ref.light.slope) > 0.2
    view = camera.avatar_camera(avatar, CameraPath(azimuth=25, elevation=10), 1, 25.0, avatar.regions.shape)
    lit, plain = (control(lighting, body, still, view) for lighting in (ref, without_light(ref)))
    # At the edges of the visible parts, and where a sample is hidden, the texture is mixed in.
    # On limbs that are seen slantwise, colors of the atlas are mixed in as well.
    is_limb = np.isin(lit.labels[0], (REGION["arms"], REGION["hands"]))
    visible = minimum_filter((lit.visibility[0] == SEEN) & ~is_limb, 5)
    # The shading of a layer is read at whole pixels, so that colors may differ by rounding.
    difference = np.abs(lit.warp[0].astype(int) - plain.warp[0])[visible]
    assert visible.any() and (difference <= 2).mean() > 0.98


def test_white_that_turns_to_the_light_stays_white(portrait_body, body):
    avatar, _, _ = portrait_body
    ref = reference(replace(avatar, portrait=np.full_like(avatar.portrait, 250)), body)
    light = replace(ref.light, slope=np.array([0, 0, 0.6], np.float32))
    bright = replace(with_layer_shading(ref, 0.6), light=light)
    maps = control(
        bright,
        body,
        Motion.still(avatar.poses, avatar.expression),
        camera.avatar_camera(avatar, CameraPath(), 1, 25.0, avatar.regions.shape),
    )
    assert np.median(maps.warp[maps.visibility == SEEN]) == 255


def test_a_small_movement_changes_shadows_a_little(body):
    surface = Surface.of(body.template, body.faces)
    top = np.where(body.weights[:, JOINT["head"]] > 0.5, 1.0, 0.0)[:, None]
    key, target = unit(0.1, 0.9, 0.4), body.template[body.weights[:, JOINT["neck"]] > 0.5].mean(0)
    light = PortraitLight(np.zeros(3), key, -0.6, target)
    before, after = (
        light.shading(
            Surface(surface.vertices + (top * [0.001 * k, 0, 0]).astype(np.float32), surface.normals, body.faces)
        )
        for k in (0, 1)
    )
    chest = (top[:, 0] == 0) & (before < 0.9)
    assert chest.sum() > 20 and np.abs(np.log(after / before))[top[:, 0] == 0].max() < 0.1 * 0.6 * 2


def test_a_flat_surface_casts_no_shadow_on_itself():
    side = np.linspace(-0.4, 0.4, 60, dtype=np.float32)
    x, y = np.meshgrid(side, side)
    flat = np.stack([x.ravel(), y.ravel(), 0 * x.ravel()], 1)
    corner = (np.arange(59)[:, None] * 60 + np.arange(59)).ravel()
    faces = np.concatenate(
        [np.stack([corner, corner + 1, corner + 61], 1), np.stack([corner, corner + 61, corner + 60], 1)]
    ).astype(np.int32)
    surface = Surface.of(flat, faces)
    for degrees in (0, 40, 70):
        key = unit(np.sin(np.radians(degrees)), 0.01, np.cos(np.radians(degrees)))
        assert PortraitLight(np.zeros(3), key, -0.6, np.zeros(3)).shading(surface).min() > 0.97


def test_a_portrait_without_light_cues_is_lit_from_everywhere(portrait_body, body):
    avatar, _, _ = portrait_body
    _, surface, fragments = luma_under(
        PortraitLight(np.zeros(3), np.zeros(3), 0.0, avatar.target),
        avatar,
        body,
        Motion.still(avatar.poses, avatar.expression),
    )
    for valid, portrait in (
        (np.zeros_like(fragments.face, bool), avatar.portrait),
        (np.ones_like(fragments.face, bool), np.zeros_like(avatar.portrait)),
    ):
        estimate = read_light(portrait, avatar.regions, valid, surface, fragments, avatar.target)
        assert np.array_equal(estimate.shading(surface), np.ones(len(surface.vertices)))
