import numpy as np
import pytest
import torch

from stereotalker.body.layout import JOINT
from stereotalker.diffusion.sample import frame_noise, sample
from stereotalker.diffusion.schedule import make_scheduler
from stereotalker.diffusion.windows import windows
from stereotalker.models import LANGUAGE_MODEL, read_motion, weights_file
from stereotalker.motion.denoiser import to_features, to_motion
from stereotalker.motion.prior import MINILM_SHA256, LanguagePrior, WordEmbedder, minilm_folder
from stereotalker.motion.synthesize import perform, training_loss
from stereotalker.people.acting import STYLES, act
from stereotalker.records import Speech, Timed
from stereotalker.store import file_digest
from stereotalker.training import fit
from stereotalker.weights import load_weights


@pytest.mark.parametrize(("frames", "fps"), [(1, 25.0), (60, 25.0), (37, 12.0), (70, 23.976), (150, 60.0)])
def test_any_length_and_rate(tiny_models, speech, frames, fps):
    motion = tiny_models.synthesizer.motion(speech, 0, 1.0, 7, frames, fps)
    assert motion.poses.shape == (frames, 55, 3) and motion.fps == fps
    assert np.isfinite(motion.poses).all() and motion.expression.min() >= 0 and motion.expression.max() <= 1


def test_motion_is_a_function_of_its_seed(tiny_models, speech):
    made = [tiny_models.synthesizer.motion(speech, 0, 1.0, seed, 60, 25.0).poses for seed in (1, 1, 2)]
    assert np.array_equal(made[0], made[1]) and not np.array_equal(made[0], made[2])


def test_words_style_and_strength_are_heard(tiny_models, speech):
    def poses(words=speech.words, style=0, strength=1.0):
        return tiny_models.synthesizer.motion(Speech(speech.samples, -20.0, words), style, strength, 1, 40, 25.0).poses

    base = poses()
    for other in (poses(words=()), poses(style=1), poses(strength=2.0)):
        assert not np.allclose(base, other, atol=1e-6)


def test_silence_and_noise_move_calmly(tiny_models):
    for samples in (np.zeros(32000, np.float32), np.random.default_rng(0).normal(0, 0.2, 32000).astype(np.float32)):
        motion = tiny_models.synthesizer.motion(Speech(samples, -np.inf), 0, 1.0, 1, 50, 25.0)
        assert np.isfinite(motion.poses).all()


def test_features_go_and_come_back(speech):
    motion = act(speech, STYLES[0], 0, 25.0)
    again = to_motion(to_features(motion), 25.0)
    assert np.allclose(again.poses, motion.poses) and np.allclose(again.trans, motion.trans)


def test_the_language_model_is_the_upstream_one():
    assert file_digest(minilm_folder() / "model.safetensors") == MINILM_SHA256


def test_only_lora_and_projection_learn():
    prior = LanguagePrior(features=8, rank=2)
    learning = {name for name, p in prior.named_parameters() if p.requires_grad}
    assert all("lora_" in name or name.startswith(("project", "scale")) for name in learning)
    assert any("lora_" in name for name in learning)


def test_known_words_take_their_slots():
    prior = LanguagePrior(features=8, rank=2).eval()
    words, known = WordEmbedder(prior).slots((Timed("huge", 0.5, 0.9), Timed("late", 99.0, 99.5)), 10, 25.0)
    assert known.tolist() == [i == 6 for i in range(10)] and np.abs(words[6]).sum() > 0
    audio = torch.zeros(1, 10, 8)
    with_word, _ = prior(audio, torch.from_numpy(words)[None], torch.from_numpy(known)[None])
    without, _ = prior(audio, torch.from_numpy(words)[None], torch.zeros(1, 10, dtype=torch.bool))
    assert not torch.allclose(with_word, without)


def test_training_learns_one_performance_and_resumes_to_the_same_end(tiny_models, tiny_params, speech, tmp_path, monkeypatch):
    encoder = tiny_models.synthesizer.encoder
    options = tiny_params.motion.training.model_copy(update={"steps": 12})
    params = tiny_params.motion.model_copy(update={"training": options})

    def run(checkpoint, stop_at=None):
        model = read_motion(tiny_models.folder)
        performances = [perform([speech], encoder, WordEmbedder(model.prior), params.fps, 3)]
        loss, seen = training_loss(model, performances, params), []

        def counted(rng):
            if stop_at == len(seen):
                raise KeyboardInterrupt
            seen.append(float((value := loss(rng)).detach()))
            return value

        try:
            fit(model, counted, options, checkpoint, lambda *_: None)
        except KeyboardInterrupt:
            pass
        return model.out_body.weight.detach().clone(), seen

    straight, losses = run(tmp_path / "a")
    assert losses[-1] < losses[0]
    monkeypatch.setattr("stereotalker.training.CHECKPOINT_EVERY_S", 0)
    run(tmp_path / "b", stop_at=6)
    resumed, rest = run(tmp_path / "b")
    assert len(rest) == 6 and torch.allclose(straight, resumed, atol=1e-6)
    assert not (tmp_path / "b").exists()


def test_weights_load_strictly(tiny_models, tmp_path):
    from stereotalker.errors import UserError
    from stereotalker.motion.denoiser import MotionConfig, MotionDenoiser

    with pytest.raises(UserError, match="expected weights of MotionDenoiser, found 'SpeechEncoder'"):
        load_weights(MotionDenoiser, MotionConfig, weights_file("audio", tiny_models.folder), LANGUAGE_MODEL)
    with pytest.raises(UserError, match="tensors do not match"):
        load_weights(MotionDenoiser, MotionConfig, weights_file("motion", tiny_models.folder))
    with pytest.raises(UserError, match="not found"):
        read_motion(tmp_path)


@pytest.mark.parametrize("name", ["ddim", "dpm"])
def test_sampling_ends_at_what_is_predicted(name):
    goal = torch.full((2, 3), 0.7)
    assert torch.allclose(sample(lambda x, t: goal, torch.randn(2, 3), name, 3), goal, atol=1e-4)
    first = make_scheduler(name)
    first.set_timesteps(3)
    assert int(first.timesteps[0]) == 999  # from pure noise
    with pytest.raises(ValueError, match="expected one of"):
        make_scheduler("euler-ancestral-karras")


def test_frame_noise_does_not_know_of_segments():
    whole = frame_noise((2, 3), 5, 0, 12, 4)
    assert torch.equal(whole[5:9], frame_noise((2, 3), 5, 5, 9, 4)) and not torch.equal(whole, frame_noise((2, 3), 6, 0, 12, 4))
    assert abs(float(frame_noise((64, 64), 5, 2, 3, 4).std()) - 1) < 0.05


@pytest.mark.parametrize(("frames", "length", "overlap"), [(1, 10, 3), (10, 10, 3), (11, 10, 3), (95, 20, 0), (95, 20, 6)])
def test_windows_cover_everything_once(frames, length, overlap):
    covered = [f for w in windows(frames, length, overlap) for f in range(w.start + w.overlap, w.stop)]
    assert covered == list(range(frames))
    with pytest.raises(ValueError, match="overlap"):
        windows(10, 4, 4)


def test_the_jaw_is_not_at_rest_all_the_time(speech):
    assert act(speech, STYLES[0], 0, 25.0).poses[:, JOINT["jaw"], 0].max() > 0.1
