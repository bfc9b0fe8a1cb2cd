from copy import deepcopy
from dataclasses import replace

import cv2
import numpy as np
import pytest
import safetensors
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.models.attention import FeedForward
from scipy.ndimage import distance_transform_edt

from stereotalker.acting.reference_acting import STYLES, act
from stereotalker.avatar.library import Library, read_avatar
from stereotalker.control.masks import region_iou
from stereotalker.control.reference_warp import SEEN, control, reference
from stereotalker.control.region_sources import hand_vertices
from stereotalker.control.texture import texel_corners
from stereotalker.diffusion.windows import Window, windows
from stereotalker.errors import ClipError, UserError
from stereotalker.evaluation import rendering
from stereotalker.geometry import camera
from stereotalker.geometry.camera_path import CameraPath
from stereotalker.models import read_denoiser
from stereotalker.params import DenoiserTraining
from stereotalker.records import Motion
from stereotalker.render.denoiser import DenoiserConfig, RenderDenoiser, ResnetFeedForward, TemporalAttention, upcycle
from stereotalker.render.experts import EXPERTS, REGION_EXPERTS, Guidance, PriorGuidedExperts, ViewGate, geglu
from stereotalker.render.renderer import composite_visible_pixels
from stereotalker.smplx_layout import REGION, REGIONS
from stereotalker.synthetic.actor import build_actor
from stereotalker.synthetic.takes import CaptureSetup, capture_take
from stereotalker.training import crops
from stereotalker.training.crops import draw_crops
from stereotalker.training.renderer import train_denoiser, training_loss
from stereotalker.training.samples import to_sample
from stereotalker.weights import save_weights
from tests.conftest import experts_after_convolutions

pytestmark = [pytest.mark.integration, pytest.mark.xdist_group("render")]


@pytest.fixture(scope="module")
def avatar(tiny_models):
    return build_actor(2, tiny_models.body, 96, 1).avatar


def sample_of(tiny_models, speech, wrong):
    take = capture_take(
        build_actor(1, tiny_models.body, 64, 1),
        tiny_models.body,
        speech,
        0,
        0,
        CaptureSetup(size=64, cameras=3, frames=1, fps=10.0, swing=20.0, supersample=1),
    )
    return to_sample(take, tiny_models.body, 0, wrong)


def crops_of(sample, seed):
    return draw_crops([sample], np.random.default_rng(seed), 2, 2, 64)


def clip(tiny_models, avatar, speech, size, frames=10, fps=25.0):
    motion = act(speech, STYLES[0], 0, fps).frames(0, frames)
    view = camera.avatar_camera(avatar, CameraPath(kind="orbit", swing=20, period=1), frames, fps, size)
    return motion, view


@pytest.mark.parametrize("size", [(64, 64), (96, 70), (66, 130)])
def test_any_even_size(tiny_models, avatar, speech, size):
    motion, view = clip(tiny_models, avatar, speech, size, 3)
    frames = tiny_models.renderer.segment(avatar, motion, view, windows(3, 8)[0], seed=1)
    assert frames.shape == (3, *size, 3) and frames.dtype == np.uint8
    assert frames.std() > 10 and np.abs(frames[0].astype(int) - frames[2]).max() > 0


def test_segments_do_not_know_of_each_other(tiny_models, avatar, speech):
    motion, view = clip(tiny_models, avatar, speech, (64, 64))
    first, second = windows(10, tiny_models.params.render.segment)
    backwards = [tiny_models.renderer.segment(avatar, motion, view, w, 3) for w in (second, first)][::-1]
    forwards = [tiny_models.renderer.segment(avatar, motion, view, w, 3) for w in (first, second)]
    assert all(np.array_equal(a, b) for a, b in zip(forwards, backwards, strict=True))
    assert not np.array_equal(forwards[0], tiny_models.renderer.segment(avatar, motion, view, first, 4))


@pytest.mark.parametrize("size", [(65, 71), (8, 8), (33, 9)])
def test_odd_and_tiny_pictures(tiny_models, avatar, speech, size):
    motion, view = clip(tiny_models, avatar, speech, size, 2)
    assert tiny_models.renderer.segment(avatar, motion, view, windows(2, 8)[0], seed=1).shape == (2, *size, 3)


@pytest.mark.parametrize("fps", [12.0, 23.976, 60.0])
def test_any_frame_rate(tiny_models, avatar, speech, fps):
    motion, view = clip(tiny_models, avatar, speech, (64, 64), 5, fps)
    frames = tiny_models.renderer.segment(avatar, motion, view, windows(5, 8)[0], seed=1)
    assert len(frames) == 5 and np.abs(np.diff(frames.astype(int), axis=0)).max() > 0
    assert np.allclose(
        view.azimuth, 20 * np.sin(2 * np.pi * np.arange(5) / fps), atol=1e-4
    )  # once around in a second, whatever the rate


def test_a_window_that_begins_anywhere_gives_the_same_frames(tiny_models, avatar, speech):
    motion, view = clip(tiny_models, avatar, speech, (64, 64))
    whole = tiny_models.renderer.segment(avatar, motion, view, Window(0, 0, 10, 0), 3)
    for start, stop in ((3, 6), (5, 10), (9, 10)):
        assert np.array_equal(
            tiny_models.renderer.segment(avatar, motion, view, Window(0, start, stop, 0), 3), whole[start:stop]
        )


def test_avatars_that_take_turns_are_prepared_once(tiny_models, avatar, speech, monkeypatch):
    prepared = []
    monkeypatch.setattr(
        "stereotalker.render.renderer.reference", lambda *given: prepared.append(given[0].name) or reference(*given)
    )
    motion, view = clip(tiny_models, avatar, speech, (64, 64), 2)
    faces = [replace(avatar, name=name) for name in "abcd"]
    made = [tiny_models.renderer.segment(faces[k], motion, view, windows(2, 8)[0], 1) for k in (0, 1, 0, 1, 2, 3, 0)]
    assert prepared == ["a", "b", "c", "d", "a"]  # the longest unused goes
    assert all(np.array_equal(frames, made[0]) for frames in made)


def test_a_camera_that_sees_nobody_gives_the_background(tiny_models, avatar, speech):
    motion, view = clip(tiny_models, avatar, speech, (64, 64), 2)
    motion = replace(motion, trans=motion.trans + np.array([50, 0, 0], np.float32))
    maps = control(reference(avatar, tiny_models.body), tiny_models.body, motion, view)
    assert maps.labels.max() == 0 and maps.visibility.max() == 0 and np.array_equal(maps.warp, maps.plate)
    frames = rendering.with_body_masks(tiny_models.renderer).segment(
        avatar, motion, view, windows(2, 8)[0], seed=1
    )  # masks of zero area
    assert np.abs(frames.astype(int) - maps.plate).max() <= 1


def test_hands_that_the_portrait_does_not_show_are_of_the_faces_colour(tiny_models, avatar, speech):
    hidden = avatar.regions.copy()
    hidden[hidden == REGION["hands"]] = REGION["torso"]
    plain = replace(avatar, regions=hidden)
    ref = reference(plain, tiny_models.body)
    hands = hand_vertices(tiny_models.body) & (tiny_models.body.part == 0)
    assert (ref.region[: len(hands)][hands] == REGION["hands"]).mean() > 0.99
    skin = np.median(avatar.portrait[avatar.regions == REGION["face"]], 0)
    corners = texel_corners(tiny_models.body)
    rows = np.unique(tiny_models.body.texture_faces[hands[tiny_models.body.faces].all(1)])
    colours = ref.texture.colour[corners[rows, 1].astype(int).clip(0, 511), corners[rows, 0].astype(int).clip(0, 511)]
    assert np.abs(np.median(colours, 0) - skin).max() < 25
    motion, view = clip(tiny_models, plain, speech, (64, 64), 2)
    assert tiny_models.renderer.segment(plain, motion, view, windows(2, 8)[0], seed=1).shape == (2, 64, 64, 3)


def test_a_large_portrait_is_warped_without_aliasing(tiny_models, avatar):
    noise = np.random.default_rng(0).integers(0, 2, avatar.regions.shape, np.uint8) * 255
    checked = replace(avatar, portrait=np.repeat(noise[..., None], 3, 2))
    still, small = Motion.still(avatar.poses, avatar.expression), (24, 24)
    view = camera.avatar_camera(checked, CameraPath(), 1, 25.0, small)
    maps = control(reference(checked, tiny_models.body), tiny_models.body, still, view)
    assert maps.warp[0][maps.visibility[0] == SEEN].std() < 60  # point samples of black and white deviate by 127


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


# ---- experts -------------------------------------------------------------------------------------------------------------


def dense(width=16):
    torch.manual_seed(0)
    return FeedForward(width)


def layer_of(kinds, width=16, regions=None, view=((0.3, 0.1), (-0.5, 0.0)), scattered=True):
    """Experts of a random dense layer, told of two frames of 4 x 4 tokens."""
    guidance = Guidance()
    layer = PriorGuidedExperts(dense(width), kinds, 3, guidance)
    if scattered:
        for p in layer.parameters():
            torch.nn.init.normal_(p, std=0.3)
    if regions is None:
        regions = torch.randint(0, len(REGIONS), (2, 4, 4), generator=torch.Generator().manual_seed(1))
    guidance.set(regions, torch.tensor(view), 2)
    return layer


def tokens(frames=2, width=16):
    return torch.randn(frames, 16, width, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("kinds", list(EXPERTS))
def test_upcycled_experts_begin_as_the_dense_layer(kinds):
    layer, x = layer_of(kinds, scattered=False), tokens()
    person = (layer.guidance.at(16) != REGION["background"])[..., None]
    assert torch.allclose(layer(x), dense()(x) * person, atol=1e-5)


A, B = (0.3, 0.1), (-0.5, 0.0)


@pytest.mark.parametrize("view", [(A, B, B, A), (A, A, A, A), (A, A, B, B), (A, B, A, A)])
def test_dispatch_equals_asking_every_expert(view):
    regions = torch.randint(0, len(REGIONS), (4, 4, 4), generator=torch.Generator().manual_seed(1))
    regions[1], regions[3, :2] = 0, 0  # a frame without anybody between others
    layer, x = layer_of("both", regions=regions, view=view), tokens(4)
    expected = geglu(x, layer.shared.into[0], layer.shared.bias[0], layer.shared.out[0]) + layer.bias
    mix = layer.gate(torch.tensor(view))
    into, bias, out = (
        torch.einsum("bk,k...->b...", mix, p) for p in (layer.view.into, layer.view.bias, layer.view.out)
    )
    expected = expected + torch.stack([geglu(x[b], into[b], bias[b], out[b]) for b in range(4)])
    regions = layer.guidance.at(16)
    for k in range(1, len(REGIONS)):
        own = REGION_EXPERTS.index("torso" if REGIONS[k] == "legs" else REGIONS[k])
        expected = expected + (regions == k)[..., None] * geglu(
            x, layer.region.into[own], layer.region.bias[own], layer.region.out[own]
        )
    assert torch.allclose(layer(x), expected * (regions > 0)[..., None], atol=1e-4)


def test_frames_of_background_alone_pass_by():
    layer = layer_of("both", regions=torch.zeros(2, 4, 4, dtype=torch.long))
    assert layer(tokens()).abs().max() == 0


def test_a_region_trains_its_own_expert_only():
    layer = layer_of("both", regions=torch.full((2, 4, 4), REGION["hands"]))
    layer(tokens()).sum().backward()
    touched = [
        name for name, gradient in zip(REGION_EXPERTS, layer.region.into.grad, strict=True) if gradient.abs().sum() > 0
    ]
    assert touched == ["hands"] and layer.view.into.grad.abs().sum() > 0


def test_view_changes_the_mix_smoothly_and_sides_have_their_experts():
    gate = ViewGate(3)
    angles = torch.linspace(-0.8, 0.8, 50)
    mix = gate(torch.stack([angles, angles * 0], 1))
    assert torch.allclose(mix.sum(1), torch.ones(50)) and mix.diff(dim=0).abs().max() < 0.2
    assert mix[[0, 25, 49]].argmax(1).tolist() == [0, 1, 2]


def test_a_coarse_cell_with_any_of_the_person_is_the_persons():
    guidance = Guidance()
    regions = torch.zeros(1, 4, 4, dtype=torch.long)
    regions[0, 0, 0], regions[0, 2:, 2:] = REGION["hands"], REGION["face"]
    guidance.set(regions, torch.zeros(1, 2), 1)
    assert guidance.at(16).view(4, 4)[0, 0] == REGION["hands"] and guidance.at(4).tolist() == [
        [REGION["hands"], 0, 0, REGION["face"]]
    ]


# ---- the denoiser --------------------------------------------------------------------------------------------------------


def test_a_grown_denoiser_computes_what_the_dense_one_did(tiny_models, speech):
    r = tiny_models.params.render
    torch.manual_seed(0)
    plain = RenderDenoiser(
        DenoiserConfig(r.pretrained, r.patch, tuple(r.channels), r.heads, r.reference_width, r.view_experts, "none")
    )
    torch.nn.init.normal_(plain.net.conv_out.weight, std=0.02)
    for layer in experts_after_convolutions(plain):
        torch.nn.init.normal_(layer.ff.shared.out, std=0.1)
    sample = sample_of(tiny_models, speech, 0.0)
    made = [
        rendering.pictures(rendering.with_denoiser(tiny_models.renderer, m.eval()), sample)
        for m in (plain, upcycle(plain, "both"))
    ]
    person = sample.regions > 0
    assert np.abs(made[0].astype(int) - made[1])[person].mean() < 1  # bfloat16
    assert np.abs(made[0].astype(int) - sample.warp)[person].mean() > 2


def test_every_block_has_experts(tiny_models):
    net = tiny_models.renderer.denoiser.net
    for block in (*net.down_blocks, net.mid_block, *net.up_blocks):
        layers = [layer for layer in block.modules() if isinstance(layer, PriorGuidedExperts)]
        assert layers and all(layer.view is not None and layer.region is not None for layer in layers)
    assert not any(isinstance(layer, FeedForward) for layer in net.modules())


def test_experts_behind_a_convolution_see_every_cell_in_its_place():
    torch.manual_seed(0)
    layer = ResnetFeedForward(torch.nn.Conv2d(16, 16, 1))
    torch.nn.init.normal_(layer.ff.net[2].weight)
    x = torch.randn(2, 16, 4, 6, generator=torch.Generator().manual_seed(0))
    cells = layer.convolution(x).permute(0, 2, 3, 1)
    for format_ in (torch.contiguous_format, torch.channels_last):
        made = layer(x.to(memory_format=format_)).permute(0, 2, 3, 1)
        assert torch.allclose(made, cells + layer.ff(layer.norm(cells)), atol=1e-5) and (made - cells).abs().max() > 0.1


def test_what_the_portrait_shows_stays_as_it_is():
    image, warp, seen = torch.zeros(1, 3, 20, 20), torch.ones(1, 3, 20, 20), torch.ones(1, 1, 20, 20)
    seen[..., :8] = 0.5
    made = composite_visible_pixels(image, warp, seen)[0, 0]
    assert made[:, :8].max() == 0 and made[:, 14:].min() == 1 and (made.diff(dim=1) >= 0).all()


def test_full_precision_gives_the_same_picture(tiny_models, avatar, speech, monkeypatch):
    motion, view = clip(tiny_models, avatar, speech, (64, 64), 2)
    made = []
    for rounded in (True, False):
        for module in ("render.renderer", "control.masks"):
            monkeypatch.setattr(
                f"stereotalker.{module}.autocast",
                lambda *_, rounded=rounded: torch.autocast("cpu", torch.bfloat16, enabled=rounded),
            )
        made.append(tiny_models.renderer.segment(avatar, motion, view, windows(2, 8)[0], 1).astype(int))
    off = np.abs(made[0] - made[1])
    assert 0 < off.max() and off.mean() < 1


def test_frames_attend_to_each_other_within_their_run_alone():
    guidance = Guidance()
    spatial = torch.nn.Identity()
    spatial.forward = lambda x: (x,)
    layer = TemporalAttention(spatial, 8, 2, guidance)
    torch.nn.init.normal_(layer.time.to_out[0].weight)
    guidance.set(torch.zeros(4, 2, 2, dtype=torch.long), torch.zeros(4, 2), 2)
    x = torch.randn(4, 8, 2, 2, generator=torch.Generator().manual_seed(0))
    before = layer(x)[0]
    x[3] += 1
    change = (layer(x)[0] - before).abs().amax((1, 2, 3))
    assert change[:2].max() == 0 and change[2] > 0


def test_loss_falls_on_one_sample(tiny_models, speech):
    sample = sample_of(tiny_models, speech, 1.0)
    model = deepcopy(tiny_models.renderer.denoiser)
    torch.nn.init.zeros_(model.net.conv_out.weight)
    loss = training_loss(model.train(), tiny_models.renderer.masks, "ddim")
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    values = []
    for step in range(12):
        torch.manual_seed(step % 2)
        value = loss(crops_of(sample, step % 2))
        value.backward()
        optimizer.step()
        optimizer.zero_grad()
        values.append(float(value.detach()))
    assert np.mean(values[-2:]) < 0.97 * np.mean(values[:2])


@pytest.fixture(scope="module")
def public(tmp_path_factory):
    """A small model in Stable Diffusion's public format, unet and vae, with random weights."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("public")
    unet = UNet2DConditionModel(
        block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4, cross_attention_dim=12, attention_head_dim=4,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )  # fmt: skip
    unet.save_pretrained(folder / "unet")
    AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=4,
    ).save_pretrained(folder / "vae")
    return str(folder)


def test_a_public_model_is_upcycled_trained_saved_and_read_again(tiny_models, speech, public, tmp_path):
    params = tiny_models.params.render.model_copy(update={"pretrained": public})
    config = DenoiserConfig(
        public, params.patch, tuple(params.channels), 2, params.reference_width, params.view_experts, "none"
    )
    model, sample = RenderDenoiser(config), sample_of(tiny_models, speech, 1.0)
    old = UNet2DConditionModel.from_pretrained(public, subfolder="unet")
    assert (
        torch.equal(model.net.conv_in.weight[:, :4], old.conv_in.weight)
        and model.net.conv_in.weight[:, 4:].abs().max() == 0
    )
    assert model.codec.factor == 2 and model.multiple == 4
    grown = upcycle(model, "both")
    training_loss(grown, tiny_models.renderer.masks, "ddim")(crops_of(sample, 0)).backward()
    assert all(p.grad is None for p in grown.codec.parameters()) and grown.net.conv_out.weight.grad.abs().max() > 0
    save_weights(grown, tmp_path / "render.safetensors")
    with safetensors.safe_open(tmp_path / "render.safetensors", "pt") as file:
        assert not any(name.startswith("codec.") for name in file.keys())
    frames = rendering.pictures(
        rendering.with_denoiser(tiny_models.renderer, read_denoiser(tmp_path / "render.safetensors")), sample
    )
    assert frames.shape == sample.image.shape and frames.std() > 0


def test_crops_that_are_no_whole_cells_are_refused(tiny_models, tmp_path):
    options = DenoiserTraining(crop=50, run=2, steps=1, batch=2, learning_rate=1e-3, seed=0)
    with pytest.raises(UserError, match="multiple of 16"):
        train_denoiser(
            tiny_models.renderer.denoiser,
            tiny_models.renderer.masks,
            [],
            "ddim",
            options,
            print,
            tmp_path / "checkpoint",
        )


def test_only_a_dense_denoiser_gets_experts(tiny_models):
    with pytest.raises(UserError, match="without experts"):
        upcycle(tiny_models.renderer.denoiser, "view")


# ---- crops ---------------------------------------------------------------------------------------------------------------


def test_crops_show_the_person_and_are_a_function_of_the_seed(tiny_models, speech):
    sample = sample_of(tiny_models, speech, 1.0)
    a, b = (draw_crops([sample], np.random.default_rng(3), 4, 2, 32) for _ in range(2))
    assert a.image.shape == (8, 32, 32, 3) and (a.regions > 0).any((1, 2)).all()
    assert all(np.array_equal(getattr(a, n), getattr(b, n)) for n in ("image", "warp", "angles", "portrait"))
    assert not np.array_equal(a.image, draw_crops([sample], np.random.default_rng(4), 4, 2, 32).image)


def test_mirrored_crops_are_mirrored_whole(tiny_models, speech):
    sample = sample_of(tiny_models, speech, 0.0)
    cut = {
        n: getattr(sample, n)
        for n in ("image", "regions", "warp", "visibility", "normals", "labels", "plate", "angles")
    }
    other = crops._mirrored(cut)
    assert np.array_equal(other["image"][:, :, ::-1], sample.image) and np.array_equal(
        other["angles"], sample.angles * (-1, 1)
    )
    inside = sample.visibility > 0
    assert np.array_equal(255 - other["normals"][:, :, ::-1][inside][:, 0], sample.normals[inside][:, 0])
    assert (other["normals"][:, :, ::-1][~inside] == sample.normals[~inside]).all()


# ---- masks ---------------------------------------------------------------------------------------------------------------


def test_well_inside_the_body_there_is_no_background(tiny_models, avatar, speech):
    motion, view = clip(tiny_models, avatar, speech, (128, 128), 1)
    maps = control(reference(avatar, tiny_models.body), tiny_models.body, motion, view)
    masks = deepcopy(tiny_models.renderer.masks)
    torch.nn.init.zeros_(masks.net.conv_out.weight)
    with torch.no_grad():
        masks.net.conv_out.bias.view(len(REGIONS), -1).copy_(
            20.0 * (torch.arange(len(REGIONS)) == REGION["background"])[:, None]
        )
    share = masks.predict(maps)[0, REGION["background"]].numpy()
    depth = distance_transform_edt(np.pad(maps.labels[0] > 0, 9, mode="edge"))[
        9:-9, 9:-9
    ]  # beyond the picture the body goes on
    assert (share[depth > 3] == 0).all() and (depth > 3).any()
    assert (share[depth < 2] > 0.99).all()


def test_masks_are_shares(tiny_models, speech):
    sample = sample_of(tiny_models, speech, 0.0)
    shares = tiny_models.renderer.masks.predict(rendering.control_of(sample))
    assert shares.shape == (3, len(REGIONS), 64, 64) and torch.allclose(shares.sum(1), torch.ones(3, 64, 64), atol=1e-5)
    assert region_iou(sample.regions, sample.regions)["torso"] == 1.0


def test_shipped_avatars_load():
    assert {"ava", "ben", "cleo", "dan"} <= set(Library().names())
    for name in Library().names():
        avatar = read_avatar(Library().find(name))
        assert avatar.origin == "synthetic" and avatar.portrait.shape[0] >= 256


@pytest.mark.parametrize(
    ("name", "complaint"),
    [("zoe", "a picture file or one of ava"), ("../ava", "unknown"), ("", "unknown"), (".", "unknown")],
)
def test_unknown_avatars_are_explained(name, complaint):
    with pytest.raises(ClipError, match=complaint):
        Library().find(name)
