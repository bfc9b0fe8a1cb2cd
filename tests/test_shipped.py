"""The shipped weights, on real human speech: lips close where a forced alignment says p, b, m; the body moves; silence is calm."""

import csv

import numpy as np
import pytest

from stereotalker.audio.align import align
from stereotalker.audio.speech import from_file
from stereotalker.body.layout import JOINT
from stereotalker.evaluation import lips_closed
from stereotalker.models import STAGES, Models, weights_file
from stereotalker.params import ROOT, load_params
from stereotalker.records import Speech


@pytest.fixture(scope="module")
def shipped():
    return Models(load_params(ROOT / "params.yaml"))


def test_weights_are_small_enough_to_ship():
    assert sum(weights_file(stage).stat().st_size for stage in STAGES) < 60e6


def test_real_speech_moves_lips_and_body(shipped, real_speech):
    row = next(r for r in csv.DictReader(open(real_speech / "transcripts.csv")) if "p226_003" in r["path"])
    speech, _ = from_file(real_speech.parent / row["path"], -20.0)
    aligned = Speech(speech.samples, speech.loudness, *align(speech.samples, row["text"]))
    motion = shipped.synthesizer.motion(speech, 2, 1.0, 1, round(speech.seconds * 25), 25.0)
    assert lips_closed(motion, aligned, shipped.body) >= 0.4  # 0.44 when the weights were shipped, whose training never saw the sentence
    aperture = shipped.body.lip_aperture(motion)
    assert (aperture < 2.0).mean() < 0.6 and np.percentile(aperture, 95) > 5.0
    assert motion.poses[:, JOINT["right_elbow"]].std(0).sum() > 0.02 and motion.poses[:, JOINT["head"]].std(0).sum() > 0.004


def test_silence_keeps_the_mouth_nearly_shut(shipped):
    motion = shipped.synthesizer.motion(Speech(np.zeros(48_000, np.float32), -np.inf), 0, 1.0, 1, 75, 25.0)
    assert np.percentile(shipped.body.lip_aperture(motion), 90) < 4.0
