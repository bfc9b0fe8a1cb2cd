"""The shipped weights on real human speech.

The lips close where a forced alignment finds p, b and m, the body moves, and silence keeps both still.
"""

import csv

import numpy as np
import pytest

from stereotalker.audio.forced_alignment import align
from stereotalker.audio.speech import from_file
from stereotalker.evaluation.motion_metrics import diversity, lip_closure_rate
from stereotalker.models import Models
from stereotalker.motion.language_prior import GESTURE_NAMES, choose_gesture_labels
from stereotalker.motion.synthesize import MotionControls
from stereotalker.params import ROOT, load_params
from stereotalker.records import Speech
from stereotalker.smplx_layout import JOINT
from stereotalker.weights import PRODUCTION_WEIGHTS, weights_file
from tests.conftest import REAL_DATA

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def shipped():
    return Models(load_params(ROOT / "params.yaml"))


def test_the_shipped_weights_are_less_than_60_mb():
    assert sum(weights_file(stage).stat().st_size for stage in PRODUCTION_WEIGHTS) < 60e6


def test_real_speech_moves_lips_and_body(shipped, real_speech):
    row = next(r for r in csv.DictReader(open(real_speech / "transcripts.csv")) if "p226_003" in r["path"])
    speech = from_file(real_speech.parent / row["path"], -20.0)
    aligned = Speech(speech.samples, speech.loudness, *align(speech.samples, row["text"]))
    motion = shipped.synthesizer.motion(speech, MotionControls(2, seed=1), round(speech.seconds * 25), 25.0)
    # No training data has this voice. All such recordings together have 0.91.
    assert lip_closure_rate(motion, aligned, shipped.body) >= 0.75
    with_phonemes = shipped.synthesizer.motion(aligned, MotionControls(2, seed=1), round(speech.seconds * 25), 25.0)
    assert lip_closure_rate(with_phonemes, aligned, shipped.body) >= 0.9
    aperture = shipped.body.lip_aperture(motion)
    assert (aperture < 2.0).mean() < 0.6 and np.percentile(aperture, 95) > 5.0
    assert (
        motion.poses[:, JOINT["right_elbow"]].std(0).sum() > 0.02
        and motion.poses[:, JOINT["head"]].std(0).sum() > 0.004
    )


def test_silence_keeps_the_mouth_nearly_closed(shipped):
    motion = shipped.synthesizer.motion(
        Speech(np.zeros(48_000, np.float32), -np.inf), MotionControls(0, seed=1), 75, 25.0
    )
    assert np.percentile(shipped.body.lip_aperture(motion), 95) < 0.5


@pytest.mark.parametrize(
    "name", ["sorohanro_-_solo-trumpet-06.ogg", "Kevin_MacLeod_-_Vibe_Ace.ogg", "glacier-bay-humpback.ogg"]
)
def test_music_and_animal_sounds_do_not_move_the_lips(shipped, name):
    path = REAL_DATA / "bad_input" / "librosa" / name
    if not path.is_file():
        pytest.skip(f"{path} is absent; set STEREOTALKER_DATA to the folder that holds bad_input/")
    samples = from_file(path, -20.0).samples[: 12 * 16_000]
    motion = shipped.synthesizer.motion(Speech(samples, -20.0), MotionControls(0, seed=1), 300, 25.0)
    assert np.percentile(shipped.body.lip_aperture(motion), 95) < 2.0 and diversity(motion) < 0.03


def test_words_outside_the_lexicon_get_their_gesture_class(shipped):
    gesture_classifier = shipped.synthesizer.gesture_classifier
    expected = {
        "gigantic": "big",
        "pause": "stop",
        "ponder": "think",
        "unite": "together",
        "cash": "money",
        "launch": "begin",
        "shrink": "decline",
        "observe": "see",
    }
    hits = [
        GESTURE_NAMES[choose_gesture_labels(gesture_classifier.words([word, "he", "said"])[:1], 0.7)[0]] == gesture
        for word, gesture in expected.items()
    ]
    assert sum(hits) >= 5
