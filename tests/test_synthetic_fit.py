"""Fits of synthetic people to their own portraits: wrong fits, silhouettes and the depth of hair."""

from dataclasses import replace

import numpy as np
import pytest
from avatar_helpers import SMALL_CAPTURE, still_motion

from stereotalker.avatar.hair_depth import BARE_HEAD, HairRule, hair_depth
from stereotalker.body.free_body import PARTS
from stereotalker.geometry.rasterizer import rasterize, vertex_normals
from stereotalker.records import Motion
from stereotalker.smplx_layout import JOINT, REGION
from stereotalker.synthetic.actor import build_actor
from stereotalker.synthetic.fit_silhouette import fit_silhouette, view_in_portrait
from stereotalker.synthetic.takes import capture_take
from stereotalker.training.samples import imperfect_fit, to_sample

pytestmark = [pytest.mark.integration, pytest.mark.xdist_group("people")]


def test_a_wrong_fit_matches_the_portrait_and_moves_differently(avatar, body):
    wrong = imperfect_fit(avatar, body, 1)
    assert np.abs(wrong.betas - avatar.betas).max() > 0.1
    skin = body.part == 0
    distance_px = np.linalg.norm(
        (view_in_portrait(wrong, body).pixels - view_in_portrait(avatar, body).pixels)[skin, :2], axis=1
    )
    assert np.median(distance_px) < 0.01 * avatar.regions.shape[0]
    turned = avatar.poses.copy()
    turned[[JOINT["left_shoulder"], JOINT["right_shoulder"], JOINT["head"]], 0] += 0.4
    motion = Motion.still(turned, avatar.expression)
    vertices = [body.pose(motion, a.betas, a.surface)[0] for a in (avatar, wrong)]
    assert np.linalg.norm(vertices[0] - vertices[1], axis=1)[skin].max() > 0.01
    assert np.abs(imperfect_fit(avatar, body, 1, 0.0).surface.astype(float) - avatar.surface).max() < 2e-3


def test_a_fitted_surface_covers_the_silhouette_of_the_portrait(avatar, body):
    def silhouette_iou(candidate):
        seen = view_in_portrait(candidate, body)
        drawn, person = rasterize(seen.pixels, body.faces, candidate.regions.shape).face >= 0, candidate.regions > 0
        return (drawn & person).sum() / (drawn | person).sum()

    bare = replace(avatar, surface=avatar.surface * np.float16(0.3))
    assert silhouette_iou(fit_silhouette(bare, body)) > max(0.95, silhouette_iou(bare) + 0.01)


def test_thick_hair_is_nearer_than_the_skull_and_the_face_stays(body):
    avatar = build_actor(145, body, 96, 1).avatar
    before, after = (
        rasterize(view_in_portrait(a, body).pixels, body.faces, avatar.regions.shape)
        for a in (avatar, fit_silhouette(avatar, body))
    )
    both = (before.face >= 0) & (after.face >= 0)
    places = [both & (avatar.regions == REGION[name]) for name in ("hair", "face")]
    hair, face = (np.median(before.depth[place] - after.depth[place]) for place in places)
    assert 0.008 < hair < 0.06 and abs(face) < 0.002


def test_a_wrong_fit_in_the_portraits_pose_looks_like_the_portrait(body, actor, speech):
    """A person who stands as in the portrait looks as in the portrait, even if the fit is wrong about the posture."""
    take = capture_take(actor, body, speech, 0, 4, replace(SMALL_CAPTURE, frames=1))
    sample = to_sample(replace(take, motion=still_motion(take.avatar)), body, 0, 1.0)
    labels, portrait = sample.labels[0], take.avatar.regions
    assert ((labels > 0) & (portrait > 0)).sum() / ((labels > 0) | (portrait > 0)).sum() > 0.93
    assert np.abs(sample.warp[0].astype(float) - take.avatar.portrait)[(labels > 0) & (portrait > 0)].mean() < 10


def test_offsets_in_the_view_move_the_surface_by_as_much_in_the_view(avatar, body):
    moved = replace(
        avatar,
        intrinsics=avatar.intrinsics + np.array([[0, 0, 7], [0, 0, -5], [0, 0, 0]], np.float32),
        surface=avatar.surface * np.float16(0),
    )
    seen = view_in_portrait(moved, body)
    offsets = seen.to_rest(np.full((len(seen.pixels), 2), (1.5, -2.0)), np.full(len(seen.pixels), 0.01))
    after = view_in_portrait(replace(moved, surface=offsets.astype(np.float16)), body)
    error = np.abs(after.pixels - seen.pixels - (1.5, -2.0, -0.01))[body.part == 0]
    # The joints are vertices of the surface, so that they move a little too.
    assert np.median(error[:, :2]) < 0.05 and np.median(error[:, 2]) < 3e-4


def test_portraits_without_hair_keep_the_depth_of_the_head(avatar, body):
    seen = view_in_portrait(avatar, body)
    no_spread, weight, rule = (
        np.zeros((len(seen.pixels), 2)),
        np.zeros(len(seen.pixels), np.float32),
        HairRule(1.0, 0.03),
    )
    assert hair_depth(seen, no_spread, weight, avatar.regions, body, rule).any()
    bald = np.where(avatar.regions == REGION["hair"], REGION["face"], avatar.regions)
    speck = bald.copy()
    speck[tuple(np.argwhere(avatar.regions == REGION["hair"])[:3].T)] = REGION["hair"]
    for regions in (bald, speck, np.zeros_like(bald), np.full_like(bald, REGION["hair"])):
        assert not hair_depth(seen, no_spread, weight, regions, body, rule).any()
    cropped = avatar.regions.copy()
    cropped[:-20], cropped[-20:] = avatar.regions[20:], REGION["torso"]  # The upper edge cuts the head.
    nearer = hair_depth(seen, no_spread - (0, 20), weight, cropped, body, rule)
    assert np.isfinite(nearer).all() and np.abs(nearer).max() < 0.08


def test_wide_hair_is_thick_before_and_behind_the_head_and_skin_stays(avatar, body):
    seen = view_in_portrait(avatar, body)
    weight, head = np.zeros(len(seen.pixels), np.float32), body.weights[:, JOINT["head"]] > 0.5
    away = seen.pixels[:, :2] - seen.pixels[head & (body.part == PARTS["body"][0]), :2].mean(0)
    spread = 4.0 * away / np.linalg.norm(away, axis=1, keepdims=True)  # px by which the hair is wider on every side
    nearer = hair_depth(seen, spread, weight, avatar.regions, body, BARE_HEAD)
    moved = seen.pixels[:, :2] + spread
    columns, rows = (np.clip(moved[:, k].astype(int), 0, avatar.regions.shape[1 - k] - 1) for k in (0, 1))
    skin = np.isin(avatar.regions[rows, columns], [REGION["face"], REGION["mouth"]])
    away = (vertex_normals(seen.vertices, body.faces) @ seen.rotation.T)[:, 2]
    assert 0.01 < nearer.max() < 0.08 and nearer[head & (away > 0.8)].min() < -0.01
    assert np.abs(nearer[skin & (away < 0)]).max() < 0.002 and not nearer[~head].any()
