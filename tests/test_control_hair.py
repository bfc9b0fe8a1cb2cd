"""Hair beside the body is drawn on the hair plane; colors of the person continue beyond its outline."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from stereotalker.control import hair_plane, mipmaps
from stereotalker.control.reference_warp import control, reference
from stereotalker.control.warp_kernels import FROM_HAIR_PLANE
from stereotalker.geometry import camera
from stereotalker.geometry.camera import project
from stereotalker.geometry.camera_path import CameraPath
from stereotalker.geometry.rotations import axis_angle_to_matrix
from stereotalker.records import Motion
from stereotalker.smplx_layout import JOINT, REGION

STRANDS = np.array((230, 20, 200))  # color of the hair beside the body


@pytest.fixture(scope="module")
def long_haired(portrait_body):
    """The avatar with strands of hair beside its neck, in a color of their own, and the mask of the strands."""
    avatar, fragments, _ = portrait_body
    rows, columns = np.nonzero(avatar.regions == REGION["face"])
    beside = np.zeros(avatar.regions.shape, bool)
    beside[int(np.median(rows)) : rows.max(), max(columns.min() - 6, 0) : columns.max() + 6] = True
    beside &= (avatar.regions == REGION["background"]) & (fragments.face < 0)
    assert beside.sum() > 20
    regions, portrait = avatar.regions.copy(), avatar.portrait.copy()
    regions[beside], portrait[beside] = REGION["hair"], STRANDS
    return replace(avatar, regions=regions, portrait=portrait), beside


def control_maps(avatar, body, poses, azimuth=0.0):
    view = camera.avatar_camera(avatar, CameraPath(azimuth=azimuth), 1, 25.0, avatar.regions.shape)
    return control(reference(avatar, body), body, Motion.still(poses, avatar.expression), view)


def test_hair_beside_the_body_is_drawn_where_the_portrait_shows_it(long_haired, body):
    avatar, beside = long_haired
    maps = control_maps(avatar, body, avatar.poses)
    drawn_there = (maps.visibility[0] == FROM_HAIR_PLANE) & beside
    assert drawn_there.sum() > 0.7 * beside.sum()
    assert (maps.labels[0][drawn_there] == REGION["hair"]).all()
    # The edges are mixed with the background plate.
    assert np.abs(maps.warp[0][drawn_there].astype(int) - STRANDS).mean() < 25


def test_hair_beside_the_body_moves_with_head_and_camera(long_haired, body):
    avatar, _ = long_haired
    nodding = avatar.poses.copy()
    nodding[JOINT["head"], 0] += 0.3
    still, nodded, turned = (
        control_maps(avatar, body, poses, azimuth).visibility[0] == FROM_HAIR_PLANE
        for poses, azimuth in ((avatar.poses, 0), (nodding, 0), (avatar.poses, 25))
    )
    for other in (nodded, turned):
        assert other.sum() > 10 and (other & still).sum() < 0.9 * still.sum()


def test_the_hair_plane_moves_with_the_head(long_haired, body):
    """For a point of the hair plane that moves with the head, any camera finds the pixel of the portrait."""
    avatar, _ = long_haired
    plane, (center, rotation) = (
        hair_plane.make_hair_plane(avatar, body),
        (values[0] for values in hair_plane.heads(avatar, body, Motion.still(avatar.poses, avatar.expression))),
    )
    pixel = np.array([31.0, 22.0, 1.0])
    point = plane.place @ pixel
    assert np.allclose(project(point[None], avatar.intrinsics, avatar.extrinsics)[0, :2], pixel[:2], atol=1e-3)
    view = camera.avatar_camera(avatar, CameraPath(azimuth=-30.0, elevation=10.0), 1, 25.0, avatar.regions.shape)
    head_turn, shift = (
        axis_angle_to_matrix(torch.tensor([[0.1, 0.5, -0.2]]))[0].double().numpy(),
        np.array([0.03, -0.02, 0.05]),
    )
    moved = head_turn @ (point - center) + center + shift
    projected = project(moved[None], view.intrinsics[0], view.extrinsics[0])[0]
    in_portrait = plane.from_pixels(center + shift, head_turn @ rotation, view.intrinsics[0], view.extrinsics[0]) @ (
        *projected[:2],
        1,
    )
    assert np.allclose(in_portrait[:2] / in_portrait[2], pixel[:2], atol=1e-3) and 1 / in_portrait[2] == pytest.approx(
        projected[2], abs=1e-5
    )


@pytest.mark.parametrize(
    ("nearness", "body_depth", "is_drawn"),
    [(1.0, np.inf, True), (0.0, np.inf, False), (-1.0, np.inf, False), (1.0, 1.5, True), (1.0, 0.5, False)],
)
def test_a_hair_plane_is_drawn_only_before_the_camera_and_before_the_body(nearness, body_depth, is_drawn):
    onto = np.array([[1, 0, 0], [0, 1, 0], [0, 0, nearness]], np.float64)
    hair = np.full((6, 6), REGION["hair"], np.uint8)
    hair[0, 0] = REGION["face"]
    is_hair, x, y = hair_plane.hair_place(onto, hair, 2, 3, body_depth)
    assert is_hair == is_drawn and (not is_drawn or (x, y) == (3.5, 2.5))
    assert not hair_plane.hair_place(onto, hair, 0, 0, body_depth)[0]
    assert not hair_plane.hair_place(onto, hair, 2, 9, body_depth)[0]


def test_a_bald_portrait_has_no_hair_plane(portrait_body, body):
    avatar, _, _ = portrait_body
    bald = replace(
        avatar, regions=np.where(avatar.regions == REGION["hair"], REGION["face"], avatar.regions).astype(np.uint8)
    )
    assert reference(bald, body).plane_of_hair is None
    assert not (control_maps(bald, body, bald.poses, 20.0).visibility == FROM_HAIR_PLANE).any()


def test_colors_of_the_person_continue_beyond_its_outline(portrait_body):
    avatar, _, _ = portrait_body
    person = avatar.regions != REGION["background"]
    green = replace(
        avatar, portrait=np.where(person[..., None], np.minimum(avatar.portrait, 200), (0, 255, 0)).astype(np.uint8)
    )
    fine = mipmaps.levels(green)[0]
    assert np.array_equal(fine[person], green.portrait[person]) and fine.max() <= 200
    without_person = replace(avatar, regions=np.zeros_like(avatar.regions))
    assert np.array_equal(mipmaps.levels(without_person)[0], avatar.portrait)
