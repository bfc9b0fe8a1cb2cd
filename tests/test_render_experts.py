"""The experts of the render denoiser: which tokens each of them gets, and what it starts from."""

import numpy as np
import pytest
import torch
from diffusers.models.attention import FeedForward
from render_helpers import training_sample

from stereotalker.errors import UserError
from stereotalker.evaluation import rendering
from stereotalker.render.denoiser import DenoiserConfig, RenderDenoiser, ResnetFeedForward, TemporalAttention, upcycle
from stereotalker.render.experts import EXPERTS, REGION_EXPERTS, Guidance, PriorGuidedExperts, ViewGate, geglu
from stereotalker.smplx_layout import REGION, REGIONS
from tests.conftest import experts_after_convolutions

pytestmark = [pytest.mark.integration, pytest.mark.xdist_group("render")]


def dense_layer(width=16):
    torch.manual_seed(0)
    return FeedForward(width)


def expert_layer(kinds, width=16, regions=None, view=((0.3, 0.1), (-0.5, 0.0)), random_weights=True):
    """Experts from a random dense layer, guided by the regions and views of frames of 4 x 4 tokens."""
    guidance = Guidance()
    layer = PriorGuidedExperts(dense_layer(width), kinds, 3, guidance)
    if random_weights:
        for p in layer.parameters():
            torch.nn.init.normal_(p, std=0.3)
    if regions is None:
        regions = torch.randint(0, len(REGIONS), (2, 4, 4), generator=torch.Generator().manual_seed(1))
    guidance.set(regions, torch.tensor(view), 2)
    return layer


def random_tokens(frames=2, width=16):
    return torch.randn(frames, 16, width, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("kinds", list(EXPERTS))
def test_upcycled_experts_start_as_the_dense_layer(kinds):
    layer, x = expert_layer(kinds, random_weights=False), random_tokens()
    person = (layer.guidance.at(16) != REGION["background"])[..., None]
    assert torch.allclose(layer(x), dense_layer()(x) * person, atol=1e-5)


A, B = (0.3, 0.1), (-0.5, 0.0)


@pytest.mark.parametrize("view", [(A, B, B, A), (A, A, A, A), (A, A, B, B), (A, B, A, A)])
def test_dispatch_equals_evaluating_every_expert(view):
    regions = torch.randint(0, len(REGIONS), (4, 4, 4), generator=torch.Generator().manual_seed(1))
    regions[1], regions[3, :2] = 0, 0  # The second frame shows no person.
    layer, x = expert_layer("both", regions=regions, view=view), random_tokens(4)
    expected = geglu(x, layer.shared.into[0], layer.shared.bias[0], layer.shared.out[0]) + layer.bias
    mix = layer.gate(torch.tensor(view))
    into, bias, out = (
        torch.einsum("bk,k...->b...", mix, p) for p in (layer.view.into, layer.view.bias, layer.view.out)
    )
    expected = expected + torch.stack([geglu(x[b], into[b], bias[b], out[b]) for b in range(4)])
    regions = layer.guidance.at(16)
    for k in range(1, len(REGIONS)):
        expert = REGION_EXPERTS.index("torso" if REGIONS[k] == "legs" else REGIONS[k])
        expected = expected + (regions == k)[..., None] * geglu(
            x, layer.region.into[expert], layer.region.bias[expert], layer.region.out[expert]
        )
    assert torch.allclose(layer(x), expected * (regions > 0)[..., None], atol=1e-4)


def test_frames_of_background_alone_give_zero():
    layer = expert_layer("both", regions=torch.zeros(2, 4, 4, dtype=torch.long))
    assert layer(random_tokens()).abs().max() == 0


def test_a_region_trains_only_its_own_expert():
    layer = expert_layer("both", regions=torch.full((2, 4, 4), REGION["hands"]))
    layer(random_tokens()).sum().backward()
    trained = [
        name for name, gradient in zip(REGION_EXPERTS, layer.region.into.grad, strict=True) if gradient.abs().sum() > 0
    ]
    assert trained == ["hands"] and layer.view.into.grad.abs().sum() > 0


def test_the_gate_changes_smoothly_with_the_view_and_each_side_has_its_expert():
    gate = ViewGate(3)
    angles = torch.linspace(-0.8, 0.8, 50)
    mix = gate(torch.stack([angles, angles * 0], 1))
    assert torch.allclose(mix.sum(1), torch.ones(50)) and mix.diff(dim=0).abs().max() < 0.2
    assert mix[[0, 25, 49]].argmax(1).tolist() == [0, 1, 2]


def test_a_coarse_cell_that_touches_the_person_belongs_to_the_person():
    guidance = Guidance()
    regions = torch.zeros(1, 4, 4, dtype=torch.long)
    regions[0, 0, 0], regions[0, 2:, 2:] = REGION["hands"], REGION["face"]
    guidance.set(regions, torch.zeros(1, 2), 1)
    assert guidance.at(16).view(4, 4)[0, 0] == REGION["hands"] and guidance.at(4).tolist() == [
        [REGION["hands"], 0, 0, REGION["face"]]
    ]


# ---- the denoiser ----


def test_an_upcycled_denoiser_computes_what_the_dense_one_did(tiny_models, speech):
    r = tiny_models.params.render
    torch.manual_seed(0)
    dense = RenderDenoiser(
        DenoiserConfig(r.pretrained, r.patch, tuple(r.channels), r.heads, r.reference_width, r.view_experts, "none")
    )
    torch.nn.init.normal_(dense.net.conv_out.weight, std=0.02)
    for layer in experts_after_convolutions(dense):
        torch.nn.init.normal_(layer.ff.shared.out, std=0.1)
    sample = training_sample(tiny_models, speech, 0.0)
    pictures = [
        rendering.pictures(rendering.with_denoiser(tiny_models.renderer, m.eval()), sample)
        for m in (dense, upcycle(dense, "both"))
    ]
    person = sample.regions > 0
    assert np.abs(pictures[0].astype(int) - pictures[1])[person].mean() < 1  # within the rounding of bfloat16
    assert np.abs(pictures[0].astype(int) - sample.warp)[person].mean() > 2


def test_every_block_has_experts(tiny_models):
    net = tiny_models.renderer.denoiser.net
    for block in (*net.down_blocks, net.mid_block, *net.up_blocks):
        layers = [layer for layer in block.modules() if isinstance(layer, PriorGuidedExperts)]
        assert layers and all(layer.view is not None and layer.region is not None for layer in layers)
    assert not any(isinstance(layer, FeedForward) for layer in net.modules())


def test_experts_after_a_convolution_get_every_cell_in_its_place():
    torch.manual_seed(0)
    layer = ResnetFeedForward(torch.nn.Conv2d(16, 16, 1))
    torch.nn.init.normal_(layer.ff.net[2].weight)
    x = torch.randn(2, 16, 4, 6, generator=torch.Generator().manual_seed(0))
    cells = layer.convolution(x).permute(0, 2, 3, 1)
    for format_ in (torch.contiguous_format, torch.channels_last):
        result = layer(x.to(memory_format=format_)).permute(0, 2, 3, 1)
        assert (
            torch.allclose(result, cells + layer.ff(layer.norm(cells)), atol=1e-5)
            and (result - cells).abs().max() > 0.1
        )


def test_frames_attend_only_to_frames_of_their_own_window():
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


def test_only_a_dense_denoiser_is_upcycled(tiny_models):
    with pytest.raises(UserError, match="without experts"):
        upcycle(tiny_models.renderer.denoiser, "view")
