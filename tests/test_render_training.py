"""Training of the render denoiser: loss, crops, and a public model as the starting point."""

import numpy as np
import pytest
import safetensors
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from render_helpers import training_sample

from stereotalker.control.masks import read_masks
from stereotalker.errors import UserError
from stereotalker.evaluation import rendering
from stereotalker.params import DenoiserTraining
from stereotalker.render.denoiser import DenoiserConfig, RenderDenoiser, read_denoiser, upcycle
from stereotalker.training import crops
from stereotalker.training.crops import draw_crops
from stereotalker.training.loop import Checkpoint
from stereotalker.training.renderer import train_denoiser, training_loss
from stereotalker.weights import save_weights, weights_file

pytestmark = [pytest.mark.integration, pytest.mark.xdist_group("render")]


def draw_two_crops(sample, seed):
    return draw_crops([sample], np.random.default_rng(seed), 2, 2, 64)


def test_the_loss_falls_on_one_sample(tiny_models, speech):
    sample = training_sample(tiny_models, speech, 1.0)
    model = read_denoiser(weights_file("render", tiny_models.folder))
    torch.nn.init.zeros_(model.net.conv_out.weight)
    loss = training_loss(model.train(), read_masks(tiny_models.folder), "ddim")
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    values = []
    for step in range(12):
        torch.manual_seed(step % 2)
        value = loss(draw_two_crops(sample, step % 2))
        value.backward()
        optimizer.step()
        optimizer.zero_grad()
        values.append(float(value.detach()))
    assert np.mean(values[-2:]) < 0.97 * np.mean(values[:2])


@pytest.fixture(scope="module")
def public_model(tmp_path_factory):
    """A small model in Stable Diffusion's public format, unet and vae, with random weights."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("public")
    unet = UNet2DConditionModel(
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        cross_attention_dim=12,
        attention_head_dim=4,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )
    unet.save_pretrained(folder / "unet")
    AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=4,
    ).save_pretrained(folder / "vae")
    return str(folder)


def test_a_public_model_is_upcycled_trained_saved_and_read(tiny_models, speech, public_model, tmp_path):
    params = tiny_models.params.render.model_copy(update={"pretrained": public_model})
    config = DenoiserConfig(
        public_model, params.patch, tuple(params.channels), 2, params.reference_width, params.view_experts, "none"
    )
    model, sample = RenderDenoiser(config), training_sample(tiny_models, speech, 1.0)
    old = UNet2DConditionModel.from_pretrained(public_model, subfolder="unet")
    assert (
        torch.equal(model.net.conv_in.weight[:, :4], old.conv_in.weight)
        and model.net.conv_in.weight[:, 4:].abs().max() == 0
    )
    assert model.codec.factor == 2 and model.multiple == 4
    grown = upcycle(model, "both")
    training_loss(grown, tiny_models.renderer.masks, "ddim")(draw_two_crops(sample, 0)).backward()
    assert all(p.grad is None for p in grown.codec.parameters()) and grown.net.conv_out.weight.grad.abs().max() > 0
    save_weights(grown, tmp_path / "render.safetensors")
    with safetensors.safe_open(tmp_path / "render.safetensors", "pt") as file:
        assert not any(name.startswith("codec.") for name in file.keys())
    frames = rendering.pictures(
        rendering.with_denoiser(tiny_models.renderer, read_denoiser(tmp_path / "render.safetensors")), sample
    )
    assert frames.shape == sample.image.shape and frames.std() > 0


def test_crops_of_a_size_without_whole_cells_are_refused(tiny_models, tmp_path):
    options = DenoiserTraining(crop=50, run=2, steps=1, batch=2, learning_rate=1e-3, seed=0)
    with pytest.raises(UserError, match="multiple of 16"):
        train_denoiser(
            tiny_models.renderer.denoiser,
            tiny_models.renderer.masks,
            [],
            "ddim",
            options,
            print,
            Checkpoint(tmp_path / "checkpoint", "inputs"),
        )


# ---- crops ----


def test_crops_show_the_person_and_are_a_function_of_the_seed(tiny_models, speech):
    sample = training_sample(tiny_models, speech, 1.0)
    a, b = (draw_crops([sample], np.random.default_rng(3), 4, 2, 32) for _ in range(2))
    assert a.image.shape == (8, 32, 32, 3) and (a.regions > 0).any((1, 2)).all()
    assert all(np.array_equal(getattr(a, n), getattr(b, n)) for n in ("image", "warp", "angles", "portrait"))
    assert not np.array_equal(a.image, draw_crops([sample], np.random.default_rng(4), 4, 2, 32).image)


def test_all_maps_of_a_mirrored_crop_are_mirrored(tiny_models, speech):
    sample = training_sample(tiny_models, speech, 0.0)
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
