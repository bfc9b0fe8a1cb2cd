"""Photographs as training samples, the critic of patches, and the last training of the renderer."""

from copy import deepcopy
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from render_helpers import training_sample

from stereotalker.control.warp_kernels import SEEN
from stereotalker.errors import UserError
from stereotalker.evaluation import rendering
from stereotalker.params import FinishParams, PhotographsParams
from stereotalker.records import SAMPLE_RATE, Motion
from stereotalker.render.denoiser import read_denoiser
from stereotalker.runtime.stage_log import Log
from stereotalker.stages import stage_function
from stereotalker.synthetic.actor import build_actor
from stereotalker.training.critic import PatchCritic, critic_losses
from stereotalker.training.crops import draw_mixed
from stereotalker.training.loop import Checkpoint
from stereotalker.training.photographs import (
    build_photographs,
    gesture_and_back,
    photograph_sample,
    read_photographs,
)
from stereotalker.training.renderer import finish_denoiser, finishing_loss
from stereotalker.weights import weights_file

pytestmark = [pytest.mark.integration, pytest.mark.xdist_group("render")]


@pytest.fixture(scope="module")
def photograph(tiny_models):
    return build_actor(1, tiny_models.body, 96, 1, rest="open").avatar


@pytest.fixture(scope="module")
def sample(photograph, tiny_models, speech):
    return photograph_sample(photograph, tiny_models.body, speech, 2, 64, 5)


def test_a_gesture_of_no_movement_comes_back_as_the_photograph(photograph, tiny_models):
    still = Motion.still(photograph.poses, photograph.expression)
    back = gesture_and_back(photograph, tiny_models.body, still, 96, seed=0)  # seed 0 draws the portrait's own camera
    shown = (back.visibility == SEEN) & (back.regions > 0)
    assert back.image.shape == (1, 96, 96, 3) and shown.sum() > 500
    assert rendering.image_metrics.psnr(float(((back.warp.astype(float) - back.image)[shown] ** 2).mean())) > 22


def test_what_a_gesture_hides_is_not_seen_on_the_way_back(sample, photograph):
    person = sample.regions > 0
    hidden = (person & (sample.visibility < SEEN)).mean((1, 2)) / person.mean((1, 2))
    assert sample.image.shape == (2, 64, 64, 3) and sample.frames == 1
    assert (hidden > 0.01).all() and (hidden < 0.6).all()
    assert (sample.image == sample.image[0]).all()  # the truth is the photograph, whatever the gesture


def test_samples_of_the_same_inputs_are_kept_and_all_others_removed(photograph, tiny_models, speech, tmp_path):
    params = PhotographsParams(folder=None, gestures=2, size=64, share=0.5, seed=5)
    long = replace(speech, samples=np.resize(speech.samples, 5 * SAMPLE_RATE))
    avatars = [(k, replace(photograph, name=f"p{k}")) for k in (2, 3)]

    def build(avatars, params=params):
        made = []
        build_photographs(tmp_path, avatars, tiny_models.body, [long], params, made.append)
        return made, sorted(path.relative_to(tmp_path) for path in tmp_path.glob("*/*"))

    made, files = build(avatars)
    assert len(made) == 2 and [(f.parts[0], f.name[:2]) for f in files] == [("held_out", "p3"), ("train", "p2")]
    (read,) = read_photographs(tmp_path / "train")
    again = photograph_sample(photograph, tiny_models.body, long, 2, 64, 7)
    for name in ("image", "warp", "visibility", "angles", "portrait"):
        assert np.array_equal(getattr(read, name), getattr(again, name))
    assert build(avatars) == ([], files)
    # The same person with another number goes to the other part, and leaves nothing behind.
    made, files = build([(3, avatars[0][1])])
    assert len(made) == 1 and [(f.parts[0], f.name[:2]) for f in files] == [("held_out", "p2")]
    assert len(build([(3, avatars[0][1])], params.model_copy(update={"gestures": 1}))[0]) == 1
    assert build([]) == ([], []) and read_photographs(tmp_path / "absent") == []


def test_photographs_without_a_long_speech_are_refused(photograph, tiny_models, speech, tmp_path):
    params = PhotographsParams(folder=None, gestures=2, size=64, share=0.5, seed=5)
    with pytest.raises(UserError, match="no speech with words"):
        build_photographs(tmp_path, [(0, photograph)], tiny_models.body, [replace(speech, words=())], params)


def test_photographs_of_different_shapes_share_a_batch(photograph, sample, tiny_models):
    still = Motion.still(photograph.poses, photograph.expression)
    cut = {name: getattr(photograph, name)[:72] for name in ("portrait", "background", "regions")}
    wide = gesture_and_back(replace(photograph, **cut), tiny_models.body, still, 64, seed=0)
    assert wide.image.shape == (1, 48, 64, 3) and wide.portrait.shape == sample.portrait.shape
    assert draw_mixed([], [wide, sample], 1.0, np.random.default_rng(0), 6, 1, 32).frames == 1


def test_mixed_batches_hold_runs_of_people_or_as_many_frames_of_photographs(tiny_models, speech, sample):
    person = training_sample(tiny_models, speech, 1.0)
    draw = partial(draw_mixed, [person], [sample], runs=2, frames=2, size=32)
    only_people, only_photographs = (draw(share, np.random.default_rng(1)) for share in (0.0, 1.0))
    assert only_people.frames == 2 and only_photographs.frames == 1
    assert len(only_people.image) == len(only_photographs.image) == 4
    assert draw_mixed([person], [], 1.0, np.random.default_rng(1), 2, 2, 32).frames == 2


def test_the_critic_learns_to_tell_noise_and_judges_nothing_where_pictures_are_equal():
    torch.manual_seed(0)
    judge, warp, visibility = PatchCritic(), torch.rand(4, 3, 32, 32), torch.ones(4, 1, 32, 32)
    image = torch.full((4, 3, 32, 32), 0.5)
    drawn = (image + 0.2 * torch.randn_like(image)).requires_grad_()
    optimizer, values = torch.optim.Adam(judge.parameters(), lr=2e-3), []
    for _ in range(40):
        deceived, judged = critic_losses(judge, drawn, image, warp, visibility)
        optimizer.zero_grad()
        judged.backward()
        assert drawn.grad is None  # the critic's loss does not train the renderer
        optimizer.step()
        values.append(float(judged.detach()))
    assert values[-1] < 0.5 * values[0]
    optimizer.zero_grad()
    deceived.backward()
    assert drawn.grad.abs().sum() > 0 and all(p.grad is None for p in judge.parameters())
    assert [float(x) for x in critic_losses(judge, image, image, warp, visibility)] == [0.0, 0.0]


def critic():
    torch.manual_seed(3)
    return PatchCritic()


def test_finishing_changes_the_denoiser_and_keeps_the_mean_of_both_weights(tiny_models, speech, sample, tmp_path):
    model, person = read_denoiser(weights_file("render", tiny_models.folder)), training_sample(tiny_models, speech, 1.0)
    torch.nn.init.zeros_(model.net.conv_out.weight)
    options = FinishParams(
        critic=0.4,
        new_share=1.0,
        training={"crop": 64, "run": 2, "steps": 12, "batch": 2, "learning_rate": 2e-3, "seed": 1},
    )
    draw = partial(draw_mixed, [person], [sample], 0.5, runs=2, frames=2, size=64)
    before, losses, shown = deepcopy(model.state_dict()), [], []

    class Values(Log):
        def __call__(self, name, value, step):
            losses.append(value)

        def preview(self, model, step):
            shown.append(deepcopy(model.state_dict()))

    finish_denoiser(
        model,
        critic(),
        tiny_models.renderer.masks,
        draw,
        "ddim",
        options,
        Values(),
        Checkpoint(tmp_path / "checkpoint", "inputs"),
    )
    changed = [name for name, value in model.state_dict().items() if not torch.equal(value, before[name])]
    assert "net.conv_out.weight" in changed and np.isfinite(losses).all()
    half, after = read_denoiser(weights_file("render", tiny_models.folder)), model.state_dict()
    torch.nn.init.zeros_(half.net.conv_out.weight)
    options = options.model_copy(update={"new_share": 0.5})
    finish_denoiser(
        half,
        critic(),
        tiny_models.renderer.masks,
        draw,
        "ddim",
        options,
        Values(),
        Checkpoint(tmp_path / "checkpoint", "inputs"),
    )
    for name, value in half.named_parameters():
        assert torch.allclose(value, (before[name] + after[name]) / 2, atol=1e-5)
        assert torch.equal(value, shown[-1][name])  # the last preview is of the weights that are saved


def test_the_share_of_the_critic_bounds_its_gradient(tiny_models, sample):
    model = read_denoiser(weights_file("render", tiny_models.folder))
    crops = draw_mixed([], [sample], 1.0, np.random.default_rng(2), 1, 2, 64)
    norms = []
    for share in (0.0, 10.0):
        judge = critic()
        torch.manual_seed(4)
        model.zero_grad()
        finishing_loss(model, judge, tiny_models.renderer.masks, "ddim", share)(crops).backward()
        norms.append(float(model.net.conv_out.weight.grad.norm()))
    assert 5 * norms[0] < norms[1] < 15 * norms[0]


def test_without_a_folder_of_photographs_the_stage_leaves_empty_folders(tiny_params, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data" / "photographs" / "train").mkdir(parents=True)
    (tmp_path / "data" / "photographs" / "train" / "old.safetensors").write_bytes(b"of other parameters")
    assert tiny_params.photographs.folder is None
    stage_function("photographs")(tiny_params, print)
    assert sorted(p.name for p in (tmp_path / "data" / "photographs").iterdir()) == ["held_out", "train"]
    assert read_photographs(tmp_path / "data" / "photographs" / "train") == []


def test_unseen_pixels_are_scored_against_the_warp(tiny_models, sample):
    scores = rendering.score_renderer(tiny_models.renderer, {"photograph": [sample]}, ("warp", "ours"))
    figures = rendering.unseen_summary(scores, "unseen")
    assert set(figures) == {"unseen_gain_db", "unseen_sharpness"} and all(np.isfinite(v) for v in figures.values())
    perfect = replace(sample, warp=sample.image)
    perfect_scores = rendering.score_renderer(tiny_models.renderer, {"photograph": [perfect]}, ("warp",))
    assert perfect_scores.mean("warp", "psnr", None, None, rendering.UNSEEN) == pytest.approx(78.1, abs=1)
