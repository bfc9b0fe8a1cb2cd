"""Motion synthesis with tiny models: lengths, seeds, conditions, pinned poses, features and training."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from stereotalker.acting.reference_acting import STYLES, act, resting_pose
from stereotalker.audio.phonemes import CLASS_INDEX, CLASSES
from stereotalker.diffusion.sampling import frame_noise, sample
from stereotalker.diffusion.schedulers import make_scheduler
from stereotalker.diffusion.windows import windows
from stereotalker.errors import UserError
from stereotalker.motion.audio_features import AudioFeatures, mean_confidence
from stereotalker.motion.denoiser import MotionConditions, MotionConfig, MotionDenoiser, Streams, read_motion
from stereotalker.motion.features import (
    FACE_COLUMNS,
    body_columns,
    face_columns,
    from_coefficients,
    from_slots,
    principal_axes,
    to_coefficients,
    to_motion,
    to_slots,
)
from stereotalker.motion.language_prior import SLOT
from stereotalker.motion.synthesize import MotionControls, Synthesizer, _joined
from stereotalker.records import SAMPLE_RATE, Speech
from stereotalker.runtime.stage_log import Log
from stereotalker.smplx_layout import JOINT
from stereotalker.training.loop import Checkpoint, fit
from stereotalker.training.motion import make_example, training_loss
from stereotalker.weights import load_weights, save_weights, weights_file

pytestmark = pytest.mark.integration


def synthesize(models, speech, frames=60, fps=25.0, **controls):
    return models.synthesizer.motion(speech, MotionControls(**({"style": 0, "seed": 1} | controls)), frames, fps)


@pytest.mark.parametrize(("frames", "fps"), [(1, 25.0), (60, 25.0), (37, 12.0), (70, 23.976), (150, 60.0)])
def test_motion_of_any_length_and_rate_is_made(tiny_models, speech, frames, fps):
    motion = synthesize(tiny_models, speech, frames, fps)
    assert motion.poses.shape == (frames, 55, 3) and motion.fps == fps
    assert np.isfinite(motion.poses).all() and motion.expression.min() >= 0 and motion.expression.max() <= 1


def test_motion_is_a_function_of_its_seed(tiny_models, speech):
    poses = [synthesize(tiny_models, speech, seed=seed).poses for seed in (1, 1, 2)]
    assert np.array_equal(poses[0], poses[1]) and not np.array_equal(poses[0], poses[2])


def test_motion_made_in_several_threads_is_the_same(tiny_models, speech):
    def poses(seed):
        torch.set_num_threads(1)  # torch keeps this for each thread
        return synthesize(tiny_models, speech, seed=seed).poses

    with ThreadPoolExecutor(4) as threads:
        at_once = list(threads.map(poses, range(8)))
    assert all(np.array_equal(together, poses(seed)) for seed, together in enumerate(at_once))


def test_phonemes_style_and_strength_change_the_motion(tiny_models, speech):
    base = synthesize(tiny_models, speech, 40).poses
    unread = Speech(speech.samples, -20.0, speech.words)
    for other in (
        synthesize(tiny_models, unread, 40),
        synthesize(tiny_models, speech, 40, style=1),
        synthesize(tiny_models, speech, 40, strength=2.0),
    ):
        assert not np.allclose(base, other.poses, atol=1e-6)


def test_guidance_changes_the_body_and_not_the_face(tiny_models, speech):
    """Guidance moves the body away from the prediction without words, and leaves the face as it is."""
    plain, guided = (
        Synthesizer(
            tiny_models.synthesizer.encoder,
            tiny_models.synthesizer.denoiser,
            tiny_models.params.motion.model_copy(update={"guidance": w, "steps": 1}),
        )
        for w in (1.0, 3.0)
    )
    one, other = (model.motion(speech, MotionControls(0, seed=1), 40, 25.0) for model in (plain, guided))
    face = [JOINT["jaw"], JOINT["left_eye"]]
    assert np.allclose(one.expression, other.expression, atol=0.01) and np.allclose(
        one.poses[:, face], other.poses[:, face], atol=0.01
    )
    assert np.abs(one.poses - other.poses).max() > 0.02


def test_gesture_labels_change_the_body(tiny_models, speech):
    S = tiny_models.params.motion.window // SLOT
    streams = Streams(torch.zeros(1, 2 * S, FACE_COLUMNS), torch.zeros(1, S, tiny_models.params.motion.body))
    audio = torch.zeros(1, 2 * S, tiny_models.synthesizer.encoder.features)
    body_mask = torch.zeros(1, S, dtype=torch.bool)

    def body(gesture_label: int) -> torch.Tensor:
        gesture_labels = torch.zeros(1, S, dtype=torch.long)
        gesture_labels[0, 3] = gesture_label
        conditions = MotionConditions(
            audio=audio,
            gesture_labels=gesture_labels,
            has_text=torch.ones(1),
            style=torch.zeros(1, dtype=torch.long),
            strength=torch.ones(1),
            context=streams,
            face_mask=body_mask.repeat_interleave(SLOT, 1),
            body_mask=body_mask,
        )
        with torch.inference_mode():
            return tiny_models.synthesizer.denoiser(streams, torch.tensor([500]), conditions).body

    assert not torch.allclose(body(0), body(5)) and torch.allclose(body(5), body(5))


def test_silence_noise_and_clipped_sound_give_finite_motion(tiny_models):
    rng = np.random.default_rng(0)
    for samples in (
        np.zeros(32000, np.float32),
        rng.normal(0, 0.2, 32000).astype(np.float32),
        np.sign(np.sin(np.arange(32000))).astype(np.float32),
    ):
        motion = synthesize(tiny_models, Speech(samples, -np.inf), 50)
        assert np.isfinite(motion.poses).all()


def test_motion_does_not_depend_on_what_is_said_much_later(tiny_models, speech):
    """Later sound does not change earlier frames: memory and work are those of one window."""
    long = Speech(np.tile(speech.samples, 6), -20.0)
    whole, part = (
        synthesize(tiny_models, long, 400),
        synthesize(tiny_models, Speech(long.samples[: 24 * SAMPLE_RATE], -20.0), 400),
    )
    assert np.array_equal(whole.poses[:300], part.poses[:300])


def test_pinned_poses_are_kept_and_reached_smoothly(tiny_models, speech):
    rest = resting_pose(STYLES[4])
    motion = synthesize(tiny_models, speech, 90, start=rest, end=rest)
    window, overlap = tiny_models.params.motion.window, tiny_models.params.motion.overlap
    for frames in (90, window - 1, 2 * window - overlap + 1):  # The last window is short, full, or has one new frame.
        arm = synthesize(tiny_models, speech, frames, end=rest).poses[:, JOINT["right_elbow"]]
        assert len(arm) == frames and np.abs(np.diff(arm, axis=0)).max() < 0.35
    arms = [JOINT["left_elbow"], JOINT["right_shoulder"]]
    free = synthesize(tiny_models, speech, 90)
    for frame in (0, -1):
        pinned, unpinned = (np.abs(m.poses[frame, arms] - rest.poses[0, arms]).max() for m in (motion, free))
        # The tiny body has 8 principal axes, which cannot represent every pose.
        assert pinned < 0.25 and pinned < unpinned
    speed = np.linalg.norm(np.diff(motion.poses[:, arms], axis=0), axis=-1)
    assert speed.max() < 0.5


def test_pinned_frames_are_joined_without_a_step():
    sampled, pinned = torch.randn(1, 40, 3), torch.full((1, 40, 3), 5.0)
    is_pinned = torch.zeros(1, 40, dtype=torch.bool)
    is_pinned[0, :8], is_pinned[0, 30:32] = True, True
    joined = _joined(sampled, pinned, is_pinned, 10.0)
    assert torch.equal(joined[:, :8], pinned[:, :8]) and torch.equal(joined[:, 30:32], pinned[:, 30:32])
    # Beside the pinned frames, the step from frame to frame is the one that was sampled.
    for inside, outside in ((7, 8), (30, 29), (31, 32)):
        assert float((joined[0, outside] - 5 - (sampled[0, outside] - sampled[0, inside])).abs().max()) < 0.3
    assert torch.allclose(joined[:, 18:20], sampled[:, 18:20], atol=1e-5)
    none_pinned = torch.zeros(1, 40, dtype=torch.bool)
    assert torch.equal(_joined(sampled, pinned, none_pinned, 10.0), sampled)


def test_motion_features_are_inverted_exactly(speech):
    motion = act(speech, STYLES[0], 0, 25.0)
    restored = to_motion(face_columns(motion), body_columns(motion), 25.0)
    assert (
        np.allclose(restored.poses, motion.poses)
        and np.allclose(restored.trans, motion.trans)
        and np.allclose(restored.expression, motion.expression)
    )


def test_forty_axes_at_half_the_rate_reproduce_the_acting(speech):
    bodies = [to_slots(body_columns(act(speech, STYLES[k], k, 25.0))) for k in range(12)]
    basis = [torch.from_numpy(np.asarray(a, np.float32)) for a in principal_axes(np.concatenate(bodies), 40)]
    restored = from_slots(from_coefficients(to_coefficients(torch.from_numpy(bodies[2]), *basis), *basis).numpy())
    truth = body_columns(act(speech, STYLES[2], 2, 25.0))[: len(restored)]
    assert np.abs(restored - truth)[3:-3].mean() < 0.01  # rad
    assert from_slots(bodies[0][:1]).shape[0] == SLOT


def test_unclear_speech_has_low_confidence_and_silence_is_certain():
    posteriors = np.full((500, len(CLASSES)), 0.02, np.float32)
    (
        posteriors[:200, CLASS_INDEX["aa"]],
        posteriors[200:400, CLASS_INDEX["aa"]],
        posteriors[400:, CLASS_INDEX["sil"]],
    ) = 0.8, 0.2, 0.9
    clear = mean_confidence(posteriors)
    assert clear[50] > 0.7 > 0.45 > clear[330] and mean_confidence(posteriors[400:]).min() == 1


def test_audio_features_do_not_depend_on_the_order_and_use_known_phonemes(tiny_models, speech, monkeypatch):
    # An encoder without training is not confident of any phoneme.
    monkeypatch.setattr("stereotalker.motion.audio_features.MIN_CONFIDENCE", 0.0)
    encoder = tiny_models.synthesizer.encoder
    long = Speech(np.tile(speech.samples, 12), -20.0)
    one, other = AudioFeatures(encoder, long, 25.0), AudioFeatures(encoder, long, 25.0)
    whole = one.frames(0, 600)
    assert np.array_equal(whole[480:560], other.frames(480, 560)) and whole.shape == (600, encoder.features)
    unread = Speech(speech.samples, -20.0)
    plain, weighted = (
        AudioFeatures(encoder, unread, 25.0, odds).frames(0, 50)[:, -len(CLASSES) :] for odds in (1.0, 4.0)
    )
    assert (weighted[:, CLASS_INDEX["m"]] > plain[:, CLASS_INDEX["m"]]).all() and np.allclose(
        weighted.sum(1), 1, atol=1e-5
    )
    with_phonemes = AudioFeatures(encoder, speech, 25.0).frames(0, 50)[:, -len(CLASSES) :]
    assert np.allclose(with_phonemes.sum(1), 1, atol=1e-5) and with_phonemes[:, CLASS_INDEX["m"]].max() == 1


def test_training_learns_one_example_and_resumes_to_the_same_end(
    tiny_models, tiny_params, speech, tmp_path, monkeypatch
):
    encoder = tiny_models.synthesizer.encoder
    options = tiny_params.motion.training.model_copy(update={"steps": 12})
    params = tiny_params.motion.model_copy(update={"training": options})

    def train(checkpoint, stop_at=None):
        model = read_motion(tiny_models.folder)
        prior = model.prior.read.weight.detach().clone()
        examples = [make_example([speech], encoder, params.fps, 3)]
        loss, losses_so_far = training_loss(model, examples, params), []

        def recorded_loss(rng):
            if stop_at == len(losses_so_far):
                raise KeyboardInterrupt
            losses_so_far.append(float((value := loss(rng)).detach()))
            return value

        try:
            fit(model, recorded_loss, options, Checkpoint(checkpoint, "inputs"), Log(), frozen="prior.")
        except KeyboardInterrupt:
            pass
        assert torch.equal(prior, model.prior.read.weight)
        return model.body_out.weight.detach().clone(), losses_so_far

    straight, losses = train(tmp_path / "a")
    assert losses[-1] < losses[0]
    monkeypatch.setattr("stereotalker.training.loop.CHECKPOINT_EVERY_S", 0)
    train(tmp_path / "b", stop_at=6)
    resumed, rest = train(tmp_path / "b")
    assert len(rest) == 6 and torch.allclose(straight, resumed, atol=1e-6)


def test_weights_are_loaded_strictly(tiny_models, tmp_path):
    with pytest.raises(UserError, match="expected weights of MotionDenoiser, found 'SpeechEncoder'"):
        load_weights(MotionDenoiser, MotionConfig, weights_file("audio", tiny_models.folder))
    torch.manual_seed(0)
    model = read_motion(tiny_models.folder)
    # The saved file then lacks the face layer, which is not frozen in a real model.
    model.frozen = ("prior.", "face_out")
    save_weights(model, tmp_path / "less.safetensors")
    with pytest.raises(UserError, match="tensors do not match MotionDenoiser: face_out"):
        load_weights(MotionDenoiser, MotionConfig, tmp_path / "less.safetensors")
    with pytest.raises(UserError, match="cannot be read"):
        read_motion(tmp_path)


@pytest.mark.parametrize("name", ["ddim", "dpm"])
def test_sampling_ends_at_the_prediction(name):
    goal = torch.full((2, 3), 0.7)
    assert torch.allclose(sample(lambda x, t: goal, torch.randn(2, 3), name, 3), goal, atol=1e-4)
    first = make_scheduler(name)
    first.set_timesteps(3)
    assert int(first.timesteps[0]) == 999  # Sampling starts from pure noise.
    with pytest.raises(ValueError, match="expected one of"):
        make_scheduler("euler-ancestral-karras")


def test_frame_noise_does_not_depend_on_segments():
    whole = frame_noise((2, 3), 5, 0, 12, 4)
    assert torch.equal(whole[5:9], frame_noise((2, 3), 5, 5, 9, 4)) and not torch.equal(
        whole, frame_noise((2, 3), 6, 0, 12, 4)
    )
    assert abs(float(frame_noise((64, 64), 5, 2, 3, 4).std()) - 1) < 0.05


@pytest.mark.parametrize(
    ("frames", "length", "overlap"), [(1, 10, 3), (10, 10, 3), (11, 10, 3), (95, 20, 0), (95, 20, 6)]
)
def test_windows_cover_every_frame_once(frames, length, overlap):
    covered = [f for w in windows(frames, length, overlap) for f in range(w.start + w.overlap, w.stop)]
    assert covered == list(range(frames))
    with pytest.raises(ValueError, match="overlap"):
        windows(10, 4, 4)


def test_the_jaw_of_the_acting_opens(speech):
    assert act(speech, STYLES[0], 0, 25.0).poses[:, JOINT["jaw"], 0].max() > 0.1
