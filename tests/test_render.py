import numpy as np
import pytest
import torch

from stereotalker.avatar.library import Library, read_avatar
from stereotalker.body import camera
from stereotalker.body.layout import REGION, REGIONS
from stereotalker.control.masks import region_iou
from stereotalker.diffusion.windows import windows
from stereotalker.errors import ClipError
from stereotalker.manifest import CameraMove
from stereotalker.people.acting import STYLES, act
from stereotalker.people.dataset import to_sample
from stereotalker.people.takes import Shot, cast, perform
from stereotalker.render.experts import Guidance, PriorGuidedExperts
from stereotalker.render.renderer import training_loss


@pytest.fixture(scope="module")
def avatar(tiny_models):
    return cast(2, tiny_models.body, 96, 1).avatar


def sample_of(tiny_models, speech, wrong):
    take = perform(cast(1, tiny_models.body, 64, 1), tiny_models.body, speech, 0, 0, Shot(cameras=3, frames=1, fps=10.0, swing=20.0, supersample=1))
    return to_sample(take, tiny_models.body, 0, wrong)


def clip(tiny_models, avatar, speech, size, frames=10, fps=25.0):
    motion = act(speech, STYLES[0], 0, fps).frames(0, frames)
    view = camera.around(avatar, CameraMove(kind="orbit", swing=20, period=1), frames, fps, size)
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


def experts(width=8, view=3):
    torch.manual_seed(0)
    layer = PriorGuidedExperts(width, view, Guidance())
    for p in layer.parameters():
        torch.nn.init.normal_(p, std=0.3)
    return layer


def test_dispatch_equals_asking_every_expert():
    layer, x = experts(), torch.randn(2, 16, 8)
    layer.guidance.regions_BHW = torch.randint(0, len(REGIONS), (2, 4, 4), generator=torch.Generator().manual_seed(1))
    layer.guidance.view_B2 = torch.tensor([[0.3, 0.1], [-0.5, 0.0]])
    expected = layer.shared(x)
    gate = layer.gate(layer.guidance.view_B2)
    for k, expert in enumerate(layer.view):
        expected = expected + gate[:, k, None, None] * expert(x)
    regions = layer.guidance.regions_BHW.flatten(1)
    for k, expert in enumerate(layer.region, 1):
        expected = expected + (regions == k)[..., None] * expert(x)
    assert torch.allclose(layer(x), expected, atol=1e-5)


def test_a_region_trains_its_own_expert_only():
    layer = experts()
    layer.guidance.regions_BHW = torch.full((1, 4, 4), REGION["hands"])
    layer.guidance.view_B2 = torch.zeros(1, 2)
    layer(torch.randn(1, 16, 8)).sum().backward()
    touched = [REGIONS[k] for k, e in enumerate(layer.region, 1) if e.into.weight.grad is not None and e.into.weight.grad.abs().sum() > 0]
    assert touched == ["hands"] and layer.view[0].into.weight.grad.abs().sum() > 0


def test_view_changes_the_mix_smoothly():
    gate = experts().gate
    angles = torch.linspace(-0.8, 0.8, 50)
    mix = gate(torch.stack([angles, angles * 0], 1))
    assert torch.allclose(mix.sum(1), torch.ones(50)) and mix.diff(dim=0).abs().max() < 0.2 and mix.std(0).max() > 1e-3


def test_guidance_on_coarser_grids():
    guidance = Guidance()
    guidance.regions_BHW = torch.arange(16).view(1, 4, 4)
    assert guidance.at(16).tolist() == [list(range(16))] and guidance.at(4).tolist() == [[5, 7, 13, 15]]


def test_loss_falls_on_one_sample(tiny_models, speech):
    sample = sample_of(tiny_models, speech, 1.0)
    model = tiny_models.renderer.denoiser
    torch.nn.init.zeros_(model.net.conv_out.weight)
    loss = training_loss(model.train(), tiny_models.renderer.masks, [sample], tiny_models.params.render)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    values = []
    for step in range(12):
        value = loss(np.random.default_rng(step % 2))
        value.backward()
        optimizer.step()
        optimizer.zero_grad()
        values.append(float(value.detach()))
    model.eval()
    assert np.mean(values[-2:]) < 0.97 * np.mean(values[:2])


def test_masks_are_shares(tiny_models, speech):
    from stereotalker.evaluation import _control

    sample = sample_of(tiny_models, speech, 0.0)
    shares = tiny_models.renderer.masks.predict(_control(sample))
    assert shares.shape == (3, len(REGIONS), 64, 64) and torch.allclose(shares.sum(1), torch.ones(3, 64, 64), atol=1e-5)
    assert region_iou(sample.regions, sample.regions)["torso"] == 1.0


def test_shipped_avatars_load():
    assert {"ava", "ben", "cleo", "dan"} <= set(Library().names())
    for name in Library().names():
        avatar = read_avatar(Library().find(name))
        assert avatar.origin == "synthetic" and avatar.portrait.shape[0] >= 256


@pytest.mark.parametrize(("name", "complaint"), [("zoe", "a picture file or one of ava"), ("../ava", "unknown"), ("", "unknown"), (".", "unknown")])
def test_unknown_avatars_are_explained(name, complaint):
    with pytest.raises(ClipError, match=complaint):
        Library().find(name)
