"""Measures of motion, on motions whose figures are known."""

import numpy as np
import pytest
import torch

from stereotalker.acting.gestures import LEXICON
from stereotalker.acting.reference_acting import STYLES, act
from stereotalker.evaluation import motion_metrics
from stereotalker.evaluation.motion_metrics import (
    GestureAutoencoder,
    GestureConfig,
    NearestGesture,
    frechet,
    gesture_autoencoder_loss,
)
from stereotalker.records import SAMPLE_RATE, Motion, Speech, Timed
from stereotalker.runtime.stage_log import Log
from stereotalker.smplx_layout import JOINT
from stereotalker.training.loop import Checkpoint, fit


def shifted(motion: Motion, frames: int) -> Motion:
    return Motion(*(np.roll(a, frames, 0) for a in (motion.poses, motion.expression, motion.trans)), motion.fps)


def test_lip_measures_agree_with_known_motions(motion, speech, body):
    assert motion_metrics.lip_closure_rate(motion, speech, body) == 1.0
    assert motion_metrics.lip_agreement(motion, motion, body) == (pytest.approx(1.0), 0.0)
    assert motion_metrics.lip_agreement(shifted(motion, 3), motion, body)[1] == 3.0
    assert (
        motion_metrics.lip_vertex_error(motion, motion, body)
        == 0
        < motion_metrics.lip_vertex_error(shifted(motion, 3), motion, body)
    )
    gaping = motion.poses.copy()
    gaping[:, JOINT["jaw"], 0] = 0.3
    still = np.zeros_like(motion.expression)
    assert motion_metrics.lip_closure_rate(Motion(gaping, still, motion.trans, 25.0), speech, body) == 0.0
    assert np.isnan(motion_metrics.lip_closure_rate(motion, Speech(speech.samples, -20.0), body))
    silent = Speech(speech.samples, -20.0, (), (Timed("m", 0.0, 0.1), Timed("a", 1.0, 1.2)))
    assert 0 < len(motion_metrics.pause_aperture(motion, silent, body)) < len(motion.poses)


def test_the_lip_aperture_is_that_of_the_posed_body(motion, body):
    head_only = np.zeros_like(motion.poses)
    head_only[:, JOINT["jaw"]] = motion.poses[:, JOINT["jaw"]]
    whole = body.pose(Motion(head_only, motion.expression, motion.trans * 0, 25.0), np.zeros(body.betas, np.float32))[
        :, body.lip_pair
    ]
    at_rest = np.linalg.norm(np.subtract(*body.template[body.lip_pair]))
    assert np.allclose(
        body.lip_aperture(motion), 1000 * (np.linalg.norm(whole[:, 0] - whole[:, 1], axis=-1) - at_rest), atol=1e-3
    )


def test_jerk_grows_with_noise_and_diversity_is_zero_for_a_still_body(motion):
    noisy = Motion(
        motion.poses + np.random.default_rng(0).normal(0, 0.02, motion.poses.shape).astype(np.float32),
        motion.expression,
        motion.trans,
        25.0,
    )
    assert (
        motion_metrics.jerk(noisy) > 2 * motion_metrics.jerk(motion) > 0
        and motion_metrics.jerk(motion.frames(0, 3)) == 0.0
    )
    still = Motion(
        np.repeat(motion.poses[:1], 80, 0),
        np.repeat(motion.expression[:1], 80, 0),
        np.repeat(motion.trans[:1], 80, 0),
        25.0,
    )
    assert motion_metrics.diversity(still) < 1e-6 < motion_metrics.diversity(motion)
    assert np.isnan(motion_metrics.beat_consistency(still, Speech(np.zeros(SAMPLE_RATE, np.float32), -np.inf)))


def test_beats_on_speech_onsets_are_more_consistent():
    samples = np.zeros(6 * SAMPLE_RATE, np.float32)
    rng, beats = np.random.default_rng(0), np.arange(0.5, 5.6, 0.7)
    for beat in beats:
        start, stop = int(beat * SAMPLE_RATE), int((beat + 0.2) * SAMPLE_RATE)
        samples[start:stop] = rng.normal(0, 0.1, int(0.2 * SAMPLE_RATE) + 1)[: stop - start]
    onsets = motion_metrics.onsets(samples)
    assert len(onsets) == len(beats) and np.abs(onsets - beats).max() < 0.05

    def swing(delay: float) -> Motion:
        poses = np.zeros((150, 55, 3), np.float32)
        time = (np.arange(150) + 0.5) / 25
        # Without delay the elbow stands still at every onset.
        poses[:, JOINT["left_elbow"], 1] = np.cos(np.pi * (time - 0.5 - delay) / 0.7)
        return Motion(poses, np.zeros((150, 52), np.float32), np.zeros((150, 3), np.float32), 25.0)

    speech = Speech(samples, -20.0)
    assert (
        motion_metrics.beat_consistency(swing(0.0), speech)
        > 0.8
        > 0.3
        > motion_metrics.beat_consistency(swing(0.35), speech)
    )


def test_drift_and_seams_are_found_where_they_were_put():
    time = np.arange(25 * 180) / 25
    poses = np.zeros((len(time), 55, 3), np.float32)
    poses[:, JOINT["right_elbow"], 1] = np.sin(2 * np.pi * time / 4)
    steady = Motion(poses, np.zeros((len(time), 52), np.float32), np.zeros((len(time), 3), np.float32), 25.0)
    assert max(motion_metrics.drift(steady)) < 1e-3
    poses = poses.copy()
    poses[:, JOINT["right_elbow"], 1] *= 1 + time / 180
    growing = Motion(poses, steady.expression, steady.trans, 25.0)
    assert motion_metrics.drift(growing)[0] > 0.3
    borders = np.arange(100, 4400, 80)
    assert 0.8 < motion_metrics.seams(steady, borders) < 1.2
    jumping = steady.poses.copy()
    jumping[:, JOINT["head"], 0] = 0.5 * (np.searchsorted(borders, np.arange(len(time)), side="right") % 2)
    assert motion_metrics.seams(Motion(jumping, steady.expression, steady.trans, 25.0), borders) > 2


def test_the_nearest_gesture_is_the_acted_one():
    classifier, hits = NearestGesture(4, 25.0), []
    for word in ("huge", "stop", "five", "together", "think", "money"):
        speech = Speech(np.zeros(3 * SAMPLE_RATE, np.float32), -np.inf, (Timed(word, 1.3, 1.7),))
        hits.append(classifier.nearest(act(speech, STYLES[4], 77, 25.0), 1.42) == LEXICON[word])
    assert sum(hits) >= 5


def test_the_frechet_distance_has_its_closed_form():
    rng = np.random.default_rng(0)
    a = rng.normal(size=(4000, 3))
    assert frechet(a, a) == pytest.approx(0, abs=1e-6) and frechet(a + 2.0, a) == pytest.approx(12.0, rel=0.01)
    assert frechet(2 * a, a) == pytest.approx(3.0, rel=0.05)  # sum of (2 - 1)^2


def test_the_gesture_autoencoder_learns(speech, tiny_params, tmp_path):
    motions = [act(speech, STYLES[k], k, 25.0) for k in range(3)]
    torch.manual_seed(0)
    model, losses = GestureAutoencoder(GestureConfig(8, 4, 24)), []
    loss = gesture_autoencoder_loss(model, motions, 4)

    def recorded_loss(rng):
        losses.append(float((value := loss(rng)).detach()))
        return value

    fit(
        model,
        recorded_loss,
        tiny_params.gestures.training.model_copy(update={"steps": 20, "learning_rate": 3e-3}),
        Checkpoint(tmp_path / "a", "inputs"),
        Log(),
    )
    assert np.mean(losses[-4:]) < np.mean(losses[:4]) and model.features(motions).shape[1] == 4
    assert model.features([motions[0].frames(0, 3)] + motions).shape[0] == model.features(motions).shape[0]
