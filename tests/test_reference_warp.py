"""The reference warp and the background plate: what a still body and a moving camera must show."""

from dataclasses import replace

import numpy as np
import pytest
from avatar_helpers import own_view, still_motion

from stereotalker.control.background_plate import BACKGROUND_M, background_plate
from stereotalker.control.reference_warp import control, reference
from stereotalker.geometry.camera import avatar_camera, project
from stereotalker.geometry.camera_path import CameraPath

pytestmark = [pytest.mark.integration, pytest.mark.xdist_group("people")]


def test_the_warp_in_the_portraits_own_pose_is_the_portrait(avatar, body):
    maps = control(reference(avatar, body), body, still_motion(avatar), own_view(avatar))
    person = avatar.regions > 0
    error = (maps.warp[0].astype(float) - avatar.portrait)[person & (maps.visibility[0] > 0)]
    assert 10 * np.log10(255**2 / (error**2).mean()) > 30
    assert (maps.labels[0] > 0).sum() == pytest.approx(person.sum(), rel=0.06)
    assert (maps.labels[0] == avatar.regions).mean() > 0.95


def test_control_maps_hardly_depend_on_the_number_of_frames(avatar, body):
    ref = reference(avatar, body)
    whole = control(ref, body, still_motion(avatar, 3), own_view(avatar, 3))
    single = control(ref, body, still_motion(avatar, 1), own_view(avatar, 1))
    # The maps agree to rounding. The renderer gets exact equality, as its batches have a fixed size.
    for name in ("warp", "normals", "labels"):
        assert (getattr(whole, name)[2] != getattr(single, name)[0]).mean() < 0.01
    with pytest.raises(ValueError, match="3 frames"):
        control(ref, body, still_motion(avatar, 3), own_view(avatar, 1))


def test_the_background_stays_still_with_the_camera(avatar):
    plate = background_plate(avatar, avatar.intrinsics, avatar.extrinsics, avatar.regions.shape)
    assert np.abs(plate.astype(int) - avatar.background).max() <= 1
    wide = background_plate(avatar, avatar.intrinsics, avatar.extrinsics, (64, 160))
    assert wide.shape == (64, 160, 3)


@pytest.mark.parametrize(
    "move", [{"azimuth": 20}, {"azimuth": -12, "elevation": 8}, {"distance": 0.8}, {"zoom": 1.3, "vertical_shift": 0.1}]
)
def test_the_background_moves_as_the_wall_it_shows(avatar, move):
    spot = np.array([[0.1, avatar.target[1] + 0.1, -BACKGROUND_M]], np.float32)  # on the wall, m
    H, W = avatar.regions.shape
    rows, columns = np.mgrid[:H, :W] + 0.5
    x, y, _ = project(spot, avatar.intrinsics, avatar.extrinsics)[0]
    dot = np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / 8)
    dotted = replace(avatar, background=np.repeat(np.rint(255 * dot)[..., None], 3, 2).astype(np.uint8))
    view = avatar_camera(avatar, CameraPath(**move), 1, 25.0, (H, W))
    plate = background_plate(dotted, view.intrinsics[0], view.extrinsics[0], (H, W))[..., 0].astype(float)
    center = np.array([(columns * plate).sum(), (rows * plate).sum()]) / plate.sum()
    assert np.abs(center - project(spot, view.intrinsics[0], view.extrinsics[0])[0, :2]).max() < 0.3


def test_the_background_is_mirrored_beyond_its_edges(avatar):
    H, W = avatar.regions.shape
    ramp = replace(
        avatar, background=np.repeat(np.linspace(0, 255, W)[None, :, None], H, 0).repeat(3, 2).astype(np.uint8)
    )
    wide = background_plate(
        ramp,
        avatar.intrinsics + np.array([[0, 0, W / 2], [0, 0, 0], [0, 0, 0]], np.float32),
        avatar.extrinsics,
        (H, 2 * W),
    )[H // 2, :, 0].astype(int)
    assert (
        np.abs(wide[: W // 2][::-1] - wide[W // 2 : W]).max() <= 4
        and np.abs(wide[3 * W // 2 :] - wide[W : 3 * W // 2][::-1]).max() <= 4
    )
