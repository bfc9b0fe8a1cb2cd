import numpy as np
import pytest
import torch

from stereotalker.acting.reference_acting import STYLES, act, resting_pose
from stereotalker.audio.phonemes import CLASS_INDEX, CLASSES
from stereotalker.diffusion.sampling import frame_noise, sample
from stereotalker.diffusion.schedulers import make_scheduler
from stereotalker.diffusion.windows import windows
from stereotalker.models import read_motion, weights_file
from stereotalker.motion.audio_features import AudioFeatures, mean_confidence
from stereotalker.motion.denoiser import MotionConditions, Streams
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
from stereotalker.smplx_layout import JOINT
from stereotalker.training.loop import fit
from stereotalker.training.motion import make_example, training_loss
from stereotalker.weights import load_weights, save_weights

pytestmark = pytest.mark.integration


def move(models, speech, frames=60, fps=25.0, **controls):
    return models.synthesizer.motion(speech, MotionControls(**({"style": 0, "seed": 1} | controls)), frames, fps)


@pytest.mark.parametrize(("frames", "fps"), [(1, 25.0), (60, 25.0), (37, 12.0), (70, 23.976), (150, 60.0)])
def test_any_length_and_rate(tiny_models, speech, frames, fps):
    motion = move(tiny_models, speech, frames, fps)
    assert motion.poses.shape == (frames, 55, 3) and motion.fps == fps
    assert np.isfinite(motion.poses).all() and motion.expression.min() >= 0 and motion.expression.max() <= 1


def test_motion_is_a_function_of_its_seed(tiny_models, speech):
    made = [move(tiny_models, speech, seed=seed).poses for seed in (1, 1, 2)]
    assert np.array_equal(made[0], made[1]) and not np.array_equal(made[0], made[2])


def test_phonemes_style_and_strength_are_heard(tiny_models, speech):
    base = move(tiny_models, speech, 40).poses
    unread = Speech(speech.samples, -20.0, speech.words)
    for other in (
        move(tiny_models, unread, 40),
        move(tiny_models, speech, 40, style=1),
        move(tiny_models, speech, 40, strength=2.0),
    ):
        assert not np.allclose(base, other.poses, atol=1e-6)


def test_guidance_moves_the_body_and_leaves_the_face(tiny_models, speech):
    """The denoiser is seen once more without words; the face is not touched by how far the body is taken from that."""
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


def test_gesture_labels_reach_the_body(tiny_models, speech):
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


def test_silence_noise_and_clipped_sound_move_without_words(tiny_models):
    rng = np.random.default_rng(0)
    for samples in (
        np.zeros(32000, np.float32),
        rng.normal(0, 0.2, 32000).astype(np.float32),
        np.sign(np.sin(np.arange(32000))).astype(np.float32),
    ):
        motion = move(tiny_models, Speech(samples, -np.inf), 50)
        assert np.isfinite(motion.poses).all()


def test_a_long_recording_is_its_windows(tiny_models, speech):
    """What comes later does not change what was made before: memory and work are those of a window."""
    long = Speech(np.tile(speech.samples, 6), -20.0)
    whole, part = move(tiny_models, long, 400), move(tiny_models, Speech(long.samples[: 24 * SAMPLE_RATE], -20.0), 400)
    assert np.array_equal(whole.poses[:300], part.poses[:300])


def test_pinned_poses_are_kept_and_reached_smoothly(tiny_models, speech):
    rest = resting_pose(STYLES[4])
    motion = move(tiny_models, speech, 90, start=rest, end=rest)
    window, overlap = tiny_models.params.motion.window, tiny_models.params.motion.overlap
    for frames in (90, window - 1, 2 * window - overlap + 1):  # the last window short, whole, and of one new frame
        arm = move(tiny_models, speech, frames, end=rest).poses[:, JOINT["right_elbow"]]
        assert len(arm) == frames and np.abs(np.diff(arm, axis=0)).max() < 0.35
    arms = [JOINT["left_elbow"], JOINT["right_shoulder"]]
    free = move(tiny_models, speech, 90)
    for at in (0, -1):
        ours, theirs = (np.abs(m.poses[at, arms] - rest.poses[0, arms]).max() for m in (motion, free))
        assert ours < 0.25 and ours < theirs  # the tiny body has 8 axes only, which cannot hold any pose
    speed = np.linalg.norm(np.diff(motion.poses[:, arms], axis=0), axis=-1)
    assert speed.max() < 0.5


def test_what_is_joined_leaves_no_step():
    made, held = torch.randn(1, 40, 3), torch.full((1, 40, 3), 5.0)
    where = torch.zeros(1, 40, dtype=torch.bool)
    where[0, :8], where[0, 30:32] = True, True
    joined = _joined(made, held, where, 10.0)
    assert torch.equal(joined[:, :8], held[:, :8]) and torch.equal(joined[:, 30:32], held[:, 30:32])
    for inside, outside in ((7, 8), (30, 29), (31, 32)):  # beside what is held, what was made goes on as it would have
        assert float((joined[0, outside] - 5 - (made[0, outside] - made[0, inside])).abs().max()) < 0.3
    assert torch.allclose(joined[:, 18:20], made[:, 18:20], atol=1e-5)
    nothing = torch.zeros(1, 40, dtype=torch.bool)
    assert torch.equal(_joined(made, held, nothing, 10.0), made)


def test_columns_go_and_come_back(speech):
    motion = act(speech, STYLES[0], 0, 25.0)
    again = to_motion(face_columns(motion), body_columns(motion), 25.0)
    assert (
        np.allclose(again.poses, motion.poses)
        and np.allclose(again.trans, motion.trans)
        and np.allclose(again.expression, motion.expression)
    )


def test_half_the_frames_and_forty_axes_hold_the_acting(speech):
    bodies = [to_slots(body_columns(act(speech, STYLES[k], k, 25.0))) for k in range(12)]
    basis = [torch.from_numpy(np.asarray(a, np.float32)) for a in principal_axes(np.concatenate(bodies), 40)]
    back = from_slots(from_coefficients(to_coefficients(torch.from_numpy(bodies[2]), *basis), *basis).numpy())
    truth = body_columns(act(speech, STYLES[2], 2, 25.0))[: len(back)]
    assert np.abs(back - truth)[3:-3].mean() < 0.01  # rad
    assert from_slots(bodies[0][:1]).shape[0] == SLOT


def test_what_is_no_clear_speech_is_taken_as_silence():
    posteriors = np.full((500, len(CLASSES)), 0.02, np.float32)
    (
        posteriors[:200, CLASS_INDEX["aa"]],
        posteriors[200:400, CLASS_INDEX["aa"]],
        posteriors[400:, CLASS_INDEX["sil"]],
    ) = 0.8, 0.2, 0.9
    clear = mean_confidence(posteriors)
    assert clear[50] > 0.7 > 0.45 > clear[330] and mean_confidence(posteriors[400:]).min() == 1


def test_hearing_is_the_same_in_any_order_and_knows_phonemes(tiny_models, speech, monkeypatch):
    monkeypatch.setattr(
        "stereotalker.motion.audio_features.MIN_CONFIDENCE", 0.0
    )  # an encoder that was never trained is sure of nothing
    encoder = tiny_models.synthesizer.encoder
    long = Speech(np.tile(speech.samples, 12), -20.0)
    one, other = AudioFeatures(encoder, long, 25.0), AudioFeatures(encoder, long, 25.0)
    whole = one.frames(0, 600)
    assert np.array_equal(whole[480:560], other.frames(480, 560)) and whole.shape == (600, encoder.features)
    unread = Speech(speech.samples, -20.0)
    plain, raised = (
        AudioFeatures(encoder, unread, 25.0, odds).frames(0, 50)[:, -len(CLASSES) :] for odds in (1.0, 4.0)
    )
    assert (raised[:, CLASS_INDEX["m"]] > plain[:, CLASS_INDEX["m"]]).all() and np.allclose(raised.sum(1), 1, atol=1e-5)
    known = AudioFeatures(encoder, speech, 25.0).frames(0, 50)[:, -len(CLASSES) :]
    assert np.allclose(known.sum(1), 1, atol=1e-5) and known[:, CLASS_INDEX["m"]].max() == 1


def test_training_learns_one_example_and_resumes_to_the_same_end(
    tiny_models, tiny_params, speech, tmp_path, monkeypatch
):
    encoder = tiny_models.synthesizer.encoder
    options = tiny_params.motion.training.model_copy(update={"steps": 12})
    params = tiny_params.motion.model_copy(update={"training": options})

    def run(checkpoint, stop_at=None):
        model = read_motion(tiny_models.folder)
        prior = model.prior.read.weight.detach().clone()
        examples = [make_example([speech], encoder, params.fps, 3)]
        loss, seen = training_loss(model, examples, params), []

        def counted(rng):
            if stop_at == len(seen):
                raise KeyboardInterrupt
            seen.append(float((value := loss(rng)).detach()))
            return value

        try:
            fit(model, counted, options, checkpoint, lambda *_: None, frozen="prior.")
        except KeyboardInterrupt:
            pass
        assert torch.equal(prior, model.prior.read.weight)
        return model.body_out.weight.detach().clone(), seen

    straight, losses = run(tmp_path / "a")
    assert losses[-1] < losses[0]
    monkeypatch.setattr("stereotalker.training.loop.CHECKPOINT_EVERY_S", 0)
    run(tmp_path / "b", stop_at=6)
    resumed, rest = run(tmp_path / "b")
    assert len(rest) == 6 and torch.allclose(straight, resumed, atol=1e-6)
    assert not (tmp_path / "b").exists()


def test_weights_load_strictly(tiny_models, tmp_path):
    from stereotalker.errors import UserError
    from stereotalker.motion.denoiser import MotionConfig, MotionDenoiser

    with pytest.raises(UserError, match="expected weights of MotionDenoiser, found 'SpeechEncoder'"):
        load_weights(MotionDenoiser, MotionConfig, weights_file("audio", tiny_models.folder))
    torch.manual_seed(0)
    model = read_motion(tiny_models.folder)
    model.frozen = ("prior.", "face_out")  # saved without what is ours
    save_weights(model, tmp_path / "less.safetensors")
    with pytest.raises(UserError, match="tensors do not match MotionDenoiser: face_out"):
        load_weights(MotionDenoiser, MotionConfig, tmp_path / "less.safetensors")
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
    assert torch.equal(whole[5:9], frame_noise((2, 3), 5, 5, 9, 4)) and not torch.equal(
        whole, frame_noise((2, 3), 6, 0, 12, 4)
    )
    assert abs(float(frame_noise((64, 64), 5, 2, 3, 4).std()) - 1) < 0.05


@pytest.mark.parametrize(
    ("frames", "length", "overlap"), [(1, 10, 3), (10, 10, 3), (11, 10, 3), (95, 20, 0), (95, 20, 6)]
)
def test_windows_cover_everything_once(frames, length, overlap):
    covered = [f for w in windows(frames, length, overlap) for f in range(w.start + w.overlap, w.stop)]
    assert covered == list(range(frames))
    with pytest.raises(ValueError, match="overlap"):
        windows(10, 4, 4)


def test_the_jaw_is_not_at_rest_all_the_time(speech):
    assert act(speech, STYLES[0], 0, 25.0).poses[:, JOINT["jaw"], 0].max() > 0.1
