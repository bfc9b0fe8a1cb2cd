"""The networks work on parts of pictures: which parts, and that the result hardly differs from that on the whole."""

import numpy as np
import pytest
import torch
from scipy.ndimage import maximum_filter
from torch import nn
from torch.nn import functional

from stereotalker.acting.reference_acting import STYLES, act
from stereotalker.control.filters import max_filter, mean_filter
from stereotalker.control.masks import MaskConfig, control_cells, inner_body
from stereotalker.control.reference_warp import control, reference
from stereotalker.diffusion.windows import Window
from stereotalker.geometry import camera
from stereotalker.geometry.camera_path import CameraPath
from stereotalker.models import Models
from stereotalker.records import Control
from stereotalker.render.areas import cover
from stereotalker.render.codec import as_channels
from stereotalker.render.norms import Norms
from stereotalker.render.reduced import enlarge, network_size, reduce_maps, reduce_mask
from stereotalker.render.renderer import warp_share
from stereotalker.smplx_layout import REGIONS
from stereotalker.synthetic.actor import build_actor


def psnr(a, b):
    return 10 * np.log10(255**2 / max(((a.astype(float) - b) ** 2).mean(), 1e-9))


@pytest.mark.parametrize("multiple", [1, 4, 8, 16, 20, 24, 32, 64])
@pytest.mark.parametrize("seed", range(6))
def test_every_painted_pixel_lies_in_one_area_with_context_around_it(seed, multiple):
    rng = np.random.default_rng(seed)
    H, W = rng.integers(20, 300, 2)
    painted = np.zeros((H, W), bool)
    for _ in range(rng.integers(0, 6)):
        (top, left), (height, width) = rng.integers(0, (H, W)), rng.integers(1, 60, 2)
        painted[top : top + height, left : left + width] = True
    times = np.zeros((H, W), int)
    for area, context in cover(painted, multiple):
        times[area.slices] += 1
        assert context.top <= max(area.top - 16, 0) and context.bottom >= min(area.bottom + 16, H)
        assert context.left <= max(area.left - 16, 0) and context.right >= min(area.right + 16, W)
        assert (
            context.top % multiple == context.left % multiple == 0
            and area.within(context).top == area.top - context.top
        )
        assert context.bottom % multiple == 0 or context.bottom == H
        assert context.right % multiple == 0 or context.right == W
    assert (times[painted] == 1).all() and times.max() <= 1


def test_distant_spots_have_areas_of_their_own_and_an_empty_picture_none():
    painted = np.zeros((512, 512), bool)
    assert cover(painted, 16) == []
    painted[40:80, 40:80] = painted[400:440, 420:460] = True
    areas = cover(painted, 16)
    assert len(areas) == 2 and sum(np.prod(np.array(c[1::2]) - c[::2]) for _, c in areas) < 0.1 * painted.size


@pytest.mark.parametrize("radius", [1, 2, 4, 7])
def test_filters_equal_pooling(radius):
    torch.manual_seed(radius)
    x, side = torch.rand(2, 1, 23, 31), 2 * radius + 1
    assert torch.equal(max_filter(x, radius), functional.max_pool2d(x, side, 1, radius))
    binary = (x > 0.4).float()
    mean = functional.avg_pool2d(binary, side, 1, radius, count_include_pad=False)
    assert torch.equal(mean_filter(binary, radius), mean)
    assert torch.equal(max_filter(x[0, 0], radius), max_filter(x, radius)[0, 0])
    assert torch.equal(mean_filter(binary[0, 0], radius), mean[0, 0])


def test_cells_are_those_of_pixel_unshuffle():
    torch.manual_seed(0)
    x = torch.rand(2, 3, 24, 32)
    assert torch.equal(as_channels(x, 4), functional.pixel_unshuffle(x, 4))
    assert as_channels(x, 4).is_contiguous(memory_format=torch.channels_last)


def test_control_cells_hold_every_pixel_and_repeat_the_edges():
    rng = np.random.default_rng(0)
    size = 2, 21, 30
    labels = rng.integers(0, len(REGIONS), size).astype(np.uint8)
    warp, normals, plate = (rng.integers(0, 256, (*size, 3)).astype(np.uint8) for _ in range(3))
    visibility = rng.integers(0, 256, size).astype(np.uint8)
    cells = control_cells(labels, warp, visibility, normals, plate, MaskConfig((8, 8), 2))
    colors, wall = warp / np.float32(255), plate / np.float32(255)
    expected = np.concatenate(
        [
            np.eye(len(REGIONS), dtype=np.float32)[labels], colors, visibility[..., None] / np.float32(255),
            normals / np.float32(255), colors - wall,
        ],
        -1,
    )  # fmt: skip
    padded = np.pad(expected, ((0, 0), (0, 3), (0, 2), (0, 0)), mode="edge")
    assert np.array_equal(cells, functional.pixel_unshuffle(torch.from_numpy(padded).permute(0, 3, 1, 2), 2))


def test_a_part_is_normalized_by_the_statistics_of_the_whole():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 1), nn.GroupNorm(4, 8), nn.SiLU(), nn.GroupNorm(2, 8)).eval()
    nn.init.normal_(network[1].weight)
    x = torch.randn(1, 3, 16, 16) + 2 * torch.randn(1, 3, 1, 16)
    with torch.inference_mode():
        expected = network(x)
        norms = Norms(network)
        assert torch.equal(network(x), expected)
        with norms.record() as statistics:
            assert torch.allclose(network(x), expected, atol=1e-5)
        part = x[..., 4:9, 2:7]
        with norms.use(statistics):
            assert torch.allclose(network(part), expected[..., 4:9, 2:7], atol=1e-4)
        assert (network(part) - expected[..., 4:9, 2:7]).abs().max() > 0.1  # its own statistics differ


def test_every_call_of_a_layer_has_its_own_statistics():
    torch.manual_seed(0)
    network = nn.Sequential(nn.GroupNorm(2, 4))
    first, second = torch.randn(1, 4, 8, 8), 3 + 5 * torch.randn(1, 4, 8, 8)
    norms = Norms(network)
    with torch.inference_mode():
        with norms.record() as statistics:
            expected = network(first), network(second)
        with norms.use(statistics):
            for _ in range(2):  # two parts
                for x, whole in zip((first, second), expected, strict=True):
                    assert torch.allclose(network(x[..., :3]), whole[..., :3], atol=1e-4)


@pytest.mark.integration
@pytest.mark.xdist_group("render")
@pytest.mark.parametrize("alpha", [False, True])
def test_parts_give_the_picture_of_the_whole(tiny_models, speech, alpha):
    models = tiny_models
    avatar = build_actor(2, models.body, 96, 1).avatar
    motion = act(speech, STYLES[0], 0, 25.0).frames(0, 6)
    view = camera.avatar_camera(avatar, CameraPath(kind="orbit", swing=20, period=1), 6, 25.0, (256, 200))
    ref, tokens = reference(avatar, models.body), models.renderer.tokens(avatar.portrait)

    def maps(start, stop):
        return control(ref, models.body, motion.frames(start, stop), view.frames(start, stop))

    def render(segment):
        renderer = Models(models.params, models.folder).renderer
        renderer.params = renderer.params.model_copy(update={"segment": segment})
        runs = list(renderer.runs(maps, tokens, Window(0, 0, 6, 0), 6, 3, alpha))
        return np.concatenate([frames for frames, _ in runs])

    whole, parts = render(2), render(6)  # a run has two frames
    first, later = slice(0, 2), slice(2, 6)
    assert np.array_equal(whole[first], parts[first]) and not np.array_equal(whole[later], parts[later])
    drawn = maps(0, 6)
    visibility, labels = torch.from_numpy(drawn.visibility)[:, None] / 255, torch.from_numpy(drawn.labels)[:, None]
    is_painted = (warp_share(visibility, labels)[:, 0] < 1).numpy()[later]
    if alpha:  # the outline is measured against colors nearby
        is_painted = np.stack([maximum_filter(frame, 15) for frame in is_painted])
    whole_later, parts_later = whole[later], parts[later]
    assert np.array_equal(whole_later[~is_painted], parts_later[~is_painted]) and is_painted.mean() < 0.8
    # Random weights make more of small differences than trained ones, with which this is 50 dB.
    assert psnr(whole_later[is_painted], parts_later[is_painted]) > 35


def test_the_inside_of_the_body_in_a_part_is_that_in_the_whole(tiny_models):
    labels = np.zeros((1, 128, 128), np.uint8)
    labels[:, 40:90, 30:100] = 1
    picture, gray = np.full((1, 128, 128, 3), 90, np.uint8), np.full((1, 128, 128), 90, np.uint8)
    maps = Control(picture, gray, picture, labels, picture, gray, *np.zeros((2, 1), np.float32))
    rows, columns, is_inner = slice(32, 64), slice(0, 128), inner_body(labels)
    masks = tiny_models.renderer.masks
    has_none = masks.predict(maps.part(rows, columns), is_inner[:, rows])[:, 0] == 0
    assert torch.equal(has_none, is_inner[:, rows]) and has_none.any()
    # By its own labels, the part's lower border would be no outline, and its height would count.
    assert not torch.equal(masks.predict(maps.part(rows, columns))[:, 0] == 0, has_none)


@pytest.mark.parametrize("size", [(64, 64), (512, 288), (1920, 1080), (1080, 1920), (926, 2160), (513, 7)])
def test_the_networks_picture_keeps_the_shape_of_a_large_frame(size):
    small = network_size(size, 512)
    assert max(small) == min(max(size), 512) and min(small) >= 1
    assert np.allclose(np.array(small) * max(size) / max(small), size, atol=0.5 * max(size) / max(small))


def test_reduced_maps_keep_colors_and_masks():
    rng = np.random.default_rng(0)
    pictures = [np.full((1, 60, 90, 3), value, np.uint8) for value in (200, 100, 50)]
    labels = rng.integers(0, 8, (1, 60, 90)).astype(np.uint8)
    warp, normals, plate = pictures
    maps = Control(warp, labels * 30, normals, labels, plate, labels, *np.zeros((2, 1), np.float32))
    small = reduce_maps(maps, (20, 30))
    assert small.warp.shape == (1, 20, 30, 3) and (small.warp == 200).all() and (small.plate == 50).all()
    assert np.array_equal(small.visibility, small.labels * 30) and reduce_maps(maps, (60, 90)) is maps
    mask = np.zeros((60, 90), bool)
    mask[31, 47] = True
    around = np.argwhere(reduce_mask(mask, (20, 30)))
    assert np.array_equal(around.min(0), [8, 13]) and np.array_equal(around.max(0), [12, 17])
    ramp = np.broadcast_to(np.arange(90, dtype=np.uint8), (1, 60, 90))
    colors = np.repeat(ramp[..., None], 3, -1)
    maps = Control(colors, ramp, colors, ramp, colors, ramp, *np.zeros((2, 1), np.float32))
    small = reduce_maps(maps, (20, 30))
    assert np.array_equal(small.warp[..., 0], small.labels) and np.array_equal(small.normals[..., 0], small.visibility)


@pytest.mark.parametrize("seed", range(6))
def test_a_scaled_area_covers_all_pixels_of_the_small_one(seed):
    rng = np.random.default_rng(seed)
    small, size = rng.integers(20, 60, 2), rng.integers(60, 400, 2)
    mask = rng.random(size) < 0.003
    covered = np.zeros(size, bool)
    for area, _ in cover(reduce_mask(mask, tuple(small)), 4):
        covered[area.scaled(small, size).slices] = True
    assert covered[mask].all()


def test_what_the_networks_change_is_added_to_the_detail_of_the_warp():
    torch.manual_seed(0)
    warp, reduced = torch.rand(1, 3, 48, 64), torch.rand(1, 3, 12, 16)
    picture, person = enlarge(reduced + 0.25, torch.ones(1, 1, 12, 16), reduced, warp)
    assert torch.allclose(picture, warp + 0.25, atol=1e-5) and torch.equal(person, torch.ones(1, 1, 48, 64))


@pytest.mark.integration
@pytest.mark.xdist_group("render")
@pytest.mark.parametrize("size", [(96, 128), (150, 64), (72, 168)])
def test_large_frames_are_the_warp_where_nothing_is_painted(tiny_models, speech, size):
    renderer = Models(tiny_models.params, tiny_models.folder).renderer
    renderer.params = renderer.params.model_copy(update={"network_side": 64})
    avatar = build_actor(2, tiny_models.body, 96, 1).avatar
    motion = act(speech, STYLES[0], 0, 25.0).frames(0, 4)
    view = camera.avatar_camera(avatar, CameraPath(), 4, 25.0, size)
    frames = renderer.segment(avatar, motion, view, Window(0, 0, 4, 0), 1)
    assert frames.shape == (4, *size, 3)
    maps = control(reference(avatar, tiny_models.body), tiny_models.body, motion, view)
    share = warp_share(
        torch.from_numpy(maps.visibility)[:, None] / 255, torch.from_numpy(maps.labels)[:, None], max(size) / 64
    )
    is_warp = share[:, 0].numpy() == 1
    assert is_warp.any() and np.array_equal(frames[is_warp], maps.warp[is_warp]) and not is_warp.all()
    assert not np.array_equal(frames[~is_warp], maps.warp[~is_warp])
