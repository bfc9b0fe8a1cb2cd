"""The renderer and its masks: any size and frame rate, reproducible segments, visible pixels of the portrait kept."""

from copy import deepcopy
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from render_helpers import training_sample
from scipy.ndimage import distance_transform_edt

from stereotalker.acting.reference_acting import STYLES, act
from stereotalker.control.atlas import texel_corners
from stereotalker.control.body_parts import hand_vertices
from stereotalker.control.masks import region_iou
from stereotalker.control.reference_warp import control, reference
from stereotalker.control.warp_kernels import SEEN
from stereotalker.diffusion.windows import Window, windows
from stereotalker.evaluation import rendering
from stereotalker.geometry import camera
from stereotalker.geometry.camera_path import CameraPath
from stereotalker.models import Models
from stereotalker.records import Motion
from stereotalker.render.renderer import composite, warp_share
from stereotalker.smplx_layout import REGION, REGIONS
from stereotalker.synthetic.actor import build_actor

pytestmark = [pytest.mark.integration, pytest.mark.xdist_group("render")]


@pytest.fixture(scope="module")
def avatar(tiny_models):
    """A synthetic person other than the actor of conftest.py."""
    return build_actor(2, tiny_models.body, 96, 1).avatar


def orbit_clip(tiny_models, avatar, speech, size, frames=10, fps=25.0):
    """Motion of the speech and an orbiting camera: (Motion, Camera) of `frames` frames."""
    motion = act(speech, STYLES[0], 0, fps).frames(0, frames)
    view = camera.avatar_camera(avatar, CameraPath(kind="orbit", swing=20, period=1), frames, fps, size)
    return motion, view


@pytest.mark.parametrize("size", [(64, 64), (96, 70), (66, 130)])
def test_pictures_of_any_even_size_are_rendered(tiny_models, avatar, speech, size):
    motion, view = orbit_clip(tiny_models, avatar, speech, size, 3)
    frames = tiny_models.renderer.segment(avatar, motion, view, windows(3, 8)[0], seed=1)
    assert frames.shape == (3, *size, 3) and frames.dtype == np.uint8
    assert frames.std() > 10 and np.abs(frames[0].astype(int) - frames[2]).max() > 0


def test_segments_do_not_depend_on_each_other(tiny_models, avatar, speech):
    motion, view = orbit_clip(tiny_models, avatar, speech, (64, 64))
    first, second = windows(10, tiny_models.params.render.segment)
    backwards = [tiny_models.renderer.segment(avatar, motion, view, w, 3) for w in (second, first)][::-1]
    forwards = [tiny_models.renderer.segment(avatar, motion, view, w, 3) for w in (first, second)]
    assert all(np.array_equal(a, b) for a, b in zip(forwards, backwards, strict=True))
    assert not np.array_equal(forwards[0], tiny_models.renderer.segment(avatar, motion, view, first, 4))


@pytest.mark.parametrize("size", [(65, 71), (8, 8), (33, 9)])
def test_odd_and_tiny_pictures_are_rendered(tiny_models, avatar, speech, size):
    motion, view = orbit_clip(tiny_models, avatar, speech, size, 2)
    assert tiny_models.renderer.segment(avatar, motion, view, windows(2, 8)[0], seed=1).shape == (2, *size, 3)


@pytest.mark.parametrize("fps", [12.0, 23.976, 60.0])
def test_clips_of_any_frame_rate_are_rendered(tiny_models, avatar, speech, fps):
    motion, view = orbit_clip(tiny_models, avatar, speech, (64, 64), 5, fps)
    frames = tiny_models.renderer.segment(avatar, motion, view, windows(5, 8)[0], seed=1)
    assert len(frames) == 5 and np.abs(np.diff(frames.astype(int), axis=0)).max() > 0
    # The orbit takes one second at any frame rate.
    assert np.allclose(view.azimuth, 20 * np.sin(2 * np.pi * np.arange(5) / fps), atol=1e-4)


def test_windows_with_any_start_give_the_same_frames(tiny_models, avatar, speech):
    motion, view = orbit_clip(tiny_models, avatar, speech, (64, 64))
    whole = tiny_models.renderer.segment(avatar, motion, view, Window(0, 0, 10, 0), 3)
    for start, stop in ((3, 6), (5, 10), (9, 10)):
        assert np.array_equal(
            tiny_models.renderer.segment(avatar, motion, view, Window(0, start, stop, 0), 3), whole[start:stop]
        )


def test_alternating_avatars_are_prepared_once(tiny_models, avatar, speech, monkeypatch):
    prepared = []
    monkeypatch.setattr(
        "stereotalker.render.renderer.reference",
        lambda *arguments: prepared.append(arguments[0].name) or reference(*arguments),
    )
    motion, view = orbit_clip(tiny_models, avatar, speech, (64, 64), 2)
    avatars = [replace(avatar, name=name) for name in "abcd"]
    rendered = [
        tiny_models.renderer.segment(avatars[k], motion, view, windows(2, 8)[0], 1) for k in (0, 1, 0, 1, 2, 3, 0)
    ]
    assert prepared == ["a", "b", "c", "d", "a"]  # The avatar that was unused longest is dropped.
    assert all(np.array_equal(frames, rendered[0]) for frames in rendered)


def test_a_camera_that_shows_no_person_gives_the_background(tiny_models, avatar, speech):
    motion, view = orbit_clip(tiny_models, avatar, speech, (64, 64), 2)
    motion = replace(motion, trans=motion.trans + np.array([50, 0, 0], np.float32))
    maps = control(reference(avatar, tiny_models.body), tiny_models.body, motion, view)
    assert maps.labels.max() == 0 and maps.visibility.max() == 0 and np.array_equal(maps.warp, maps.plate)
    # The masks have no area here.
    renderer = rendering.with_body_masks(tiny_models.renderer)
    frames = renderer.segment(avatar, motion, view, windows(2, 8)[0], seed=1)
    assert np.abs(frames.astype(int) - maps.plate).max() <= 1


def test_hands_outside_the_portrait_get_the_color_of_the_face(tiny_models, avatar, speech):
    regions = avatar.regions.copy()
    regions[regions == REGION["hands"]] = REGION["torso"]
    without_hands = replace(avatar, regions=regions)
    ref = reference(without_hands, tiny_models.body)
    hands = hand_vertices(tiny_models.body) & (tiny_models.body.part == 0)
    assert (ref.portrait.region[: len(hands)][hands] == REGION["hands"]).mean() > 0.99
    skin = np.median(avatar.portrait[avatar.regions == REGION["face"]], 0)
    corners = texel_corners(tiny_models.body)
    rows = np.unique(tiny_models.body.texture_faces[hands[tiny_models.body.faces].all(1)])
    colours = ref.texture.colour[corners[rows, 1].astype(int).clip(0, 511), corners[rows, 0].astype(int).clip(0, 511)]
    assert np.abs(np.median(colours, 0) - skin).max() < 25
    motion, view = orbit_clip(tiny_models, without_hands, speech, (64, 64), 2)
    assert tiny_models.renderer.segment(without_hands, motion, view, windows(2, 8)[0], seed=1).shape == (2, 64, 64, 3)


def test_a_large_portrait_is_warped_without_aliasing(tiny_models, avatar):
    noise = np.random.default_rng(0).integers(0, 2, avatar.regions.shape, np.uint8) * 255
    checked = replace(avatar, portrait=np.repeat(noise[..., None], 3, 2))
    still, small = Motion.still(avatar.poses, avatar.expression), (24, 24)
    view = camera.avatar_camera(checked, CameraPath(), 1, 25.0, small)
    maps = control(reference(checked, tiny_models.body), tiny_models.body, still, view)
    assert maps.warp[0][maps.visibility[0] == SEEN].std() < 60  # point samples of black and white would deviate by 127


def test_a_large_background_is_drawn_without_aliasing(tiny_models, avatar):
    noise = np.random.default_rng(0).integers(0, 2, avatar.regions.shape, np.uint8) * 255
    behind = replace(avatar, background=np.repeat(noise[..., None], 3, 2))
    small = (len(noise) // 4, noise.shape[1] // 4)
    view = camera.avatar_camera(behind, CameraPath(), 1, 25.0, small)
    plate = control(
        reference(behind, tiny_models.body), tiny_models.body, Motion.still(avatar.poses, avatar.expression), view
    ).plate[0]
    assert (
        np.abs(plate.astype(float) - cv2.resize(behind.background, small[::-1], interpolation=cv2.INTER_AREA)).mean()
        < 5
    )


def test_reliable_pixels_are_the_warp_and_the_rest_fades_to_the_denoiser():
    image, warp, visibility = torch.zeros(1, 3, 20, 20), torch.ones(1, 3, 20, 20), torch.ones(1, 1, 20, 20)
    visibility[..., :8] = 0.3
    share = warp_share(visibility, torch.full((1, 1, 20, 20), REGION["torso"], dtype=torch.uint8))
    result = composite(image, warp, torch.zeros_like(warp), torch.ones(1, 1, 20, 20), share)[0, 0]
    assert result[:, :8].max() == 0 and result[:, 14:].min() == 1 and (result.diff(dim=1) >= 0).all()


def test_the_warp_draws_outlines_except_those_of_the_head():
    visibility, labels = torch.zeros(1, 1, 40, 40), torch.zeros(1, 1, 40, 40, dtype=torch.uint8)
    visibility[..., 10:30], labels[:, :, 20:, 10:30], labels[:, :, :20, 10:30] = 1, REGION["arms"], REGION["hair"]
    share = warp_share(visibility, labels)
    assert (share[0, 0, 30:] == 1).all() and (share[0, 0, :10, 7:13] < 1).all()


def test_full_precision_gives_the_same_picture(tiny_models, avatar, speech, monkeypatch):
    motion, view = orbit_clip(tiny_models, avatar, speech, (64, 64), 2)
    frames = []
    for rounded in (True, False):
        monkeypatch.setattr("stereotalker.runtime.device._computes_in_bf16", lambda _, rounded=rounded: rounded)
        renderer = Models(tiny_models.params, tiny_models.folder).renderer
        frames.append(renderer.segment(avatar, motion, view, windows(2, 8)[0], 1).astype(int))
    difference = np.abs(frames[0] - frames[1])
    assert 0 < difference.max() and difference.mean() < 1


# ---- masks ----


def test_masks_have_no_background_well_inside_the_body(tiny_models, avatar, speech):
    motion, view = orbit_clip(tiny_models, avatar, speech, (128, 128), 1)
    maps = control(reference(avatar, tiny_models.body), tiny_models.body, motion, view)
    masks = deepcopy(tiny_models.renderer.masks)
    torch.nn.init.zeros_(masks.net.conv_out.weight)
    with torch.no_grad():
        masks.net.conv_out.bias.view(len(REGIONS), -1).copy_(
            20.0 * (torch.arange(len(REGIONS)) == REGION["background"])[:, None]
        )
    share = masks.predict(maps)[0, REGION["background"]].numpy()
    # Beyond the edge of the picture the body continues.
    depth = distance_transform_edt(np.pad(maps.labels[0] > 0, 9, mode="edge"))[9:-9, 9:-9]
    assert (share[depth > 3] == 0).all() and (depth > 3).any()
    assert (share[depth < 2] > 0.99).all()


def test_masks_sum_to_one(tiny_models, speech):
    sample = training_sample(tiny_models, speech, 0.0)
    shares = tiny_models.renderer.masks.predict(rendering.control_of(sample))
    assert shares.shape == (3, len(REGIONS), 64, 64) and torch.allclose(shares.sum(1), torch.ones(3, 64, 64), atol=1e-5)
    assert region_iou(sample.regions, sample.regions)["torso"] == 1.0
    assert region_iou(np.roll(sample.regions, 3, 2), sample.regions)["torso"] < 1.0
