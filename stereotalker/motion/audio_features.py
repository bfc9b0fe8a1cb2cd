"""Computes the motion model's audio features at the motion's frame rate.

Features are computed in chunks on demand, and old chunks are dropped, so memory does not grow with the length of the
speech. T motion frames, N encoder frames (50 Hz), F features, C phoneme classes. The last C features are the posteriors
of the phoneme classes.
"""

from __future__ import annotations

import numpy as np
from scipy.ndimage import uniform_filter1d

from stereotalker.audio.encoder import HOP_SAMPLES, SpeechEncoder, frame_times, phoneme_classes_at, speech_level
from stereotalker.audio.phonemes import BILABIAL, CLASS_INDEX, CLASSES
from stereotalker.records import SAMPLE_RATE, Speech

_CHUNK_S = 20  # seconds of speech that are encoded in one call

# Least value of `mean_confidence` at which the encoder's features are used. Below it the sound is not speech, or not
# speech that lips could follow, and the features of silence are used instead.
MIN_CONFIDENCE = 0.45


class AudioFeatures:
    """Audio features of a Speech, motion frame by motion frame.

    Where the phonemes of the speech are known, their one-hot classes replace the encoder's posteriors.
    """

    def __init__(self, encoder: SpeechEncoder, speech: Speech, fps: float, closure_odds: float = 1.0):
        """`fps` is the motion's frame rate.

        `closure_odds` multiplies the odds that the encoder gives to the bilabials p, b and m. A value above 1 makes
        closed lips more frequent: a viewer notices a missed closure and hardly notices a closure too many.
        """
        self._encoder, self.speech, self._fps = encoder, speech, fps
        self._odds = np.array([closure_odds if name in BILABIAL else 1.0 for name in CLASSES], np.float32)
        self._level = speech_level(speech.samples)
        self._chunks: dict[int, np.ndarray] = {}

    def frames(self, start: int, stop: int) -> np.ndarray:
        """Features f32 [T, F] at the centers of motion frames start..stop-1, linear between encoder frames.

        Frames behind the end of the speech hold the features of silence. Ask for rising spans: chunks before `start`
        are dropped.
        """
        position = ((np.arange(start, stop) + 0.5) / self._fps - frame_times(1)[0]) * SAMPLE_RATE / HOP_SAMPLES
        low = np.maximum(np.floor(position).astype(int), 0)
        weight = np.clip(position - low, 0, 1)[:, None].astype(np.float32)
        features = self._encoded(int(low[0]), int(low[-1]) + 2)
        low = low - low[0]
        return features[low] * (1 - weight) + features[low + 1] * weight

    def _encoded(self, start: int, stop: int) -> np.ndarray:
        """Features f32 [N, F] of encoder frames start..stop-1. Chunks before `start` are dropped."""
        size = _CHUNK_S * SAMPLE_RATE // HOP_SAMPLES
        first, last = start // size, (stop - 1) // size
        self._chunks = {k: v for k, v in self._chunks.items() if k >= first}
        for k in range(first, last + 1):
            if k not in self._chunks:
                self._chunks[k] = self._chunk(k * size, size)
        return np.concatenate([self._chunks[k] for k in range(first, last + 1)])[
            start - first * size : stop - first * size
        ]

    def _chunk(self, first: int, count: int) -> np.ndarray:
        """Features f32 [N, F] of encoder frames first..first+count-1, with the corrections that the class describes."""
        features = self._encoder.encode(self.speech.samples, first, count, self._level)
        posteriors = features[:, -len(CLASSES) :]
        is_known = self._has_known_phonemes(first, count)
        is_unclear = ~is_known & (mean_confidence(posteriors) < MIN_CONFIDENCE)
        posteriors *= self._odds
        posteriors /= posteriors.sum(1, keepdims=True)
        if is_known.any():
            posteriors[is_known] = one_hot_posteriors(self.speech, first, count)[is_known]
        if is_unclear.any():
            # Encoder frame 20 of a second of zeros is far from both ends, so it is a typical frame of silence.
            features[is_unclear] = self._encoder.encode(np.zeros(SAMPLE_RATE, np.float32), 20, 1)
        return features

    def _has_known_phonemes(self, first: int, count: int) -> np.ndarray:
        """bool [N]: for which of the encoder frames first..first+count-1 the speech has phonemes, or is silent."""
        times = frame_times(count, first)
        is_known = np.full(count, bool(self.speech.phonemes))
        for start, end in self.speech.unaligned:
            is_known &= (times < start) | (times >= end)
        return is_known


def mean_confidence(posteriors: np.ndarray) -> np.ndarray:
    """Mean of the largest posterior over the sounding frames within 2 s to either side. [N, C] -> f32 [N].

    It is 1 where less than a second of those 4 s sounds, because so few frames say little. Measured medians: clean
    speech of voices the encoder was not trained on 0.57 to 0.72, at 8 dB over white noise 0.56, at 3 dB 0.46, jazz
    0.40.
    """
    is_sounding = (posteriors[:, CLASS_INDEX["sil"]] < 0.5).astype(np.float32)
    confidence, share_sounding = (
        uniform_filter1d(x, 4 * SAMPLE_RATE // HOP_SAMPLES, mode="constant")
        for x in (posteriors.max(1) * is_sounding, is_sounding)
    )
    return np.where(share_sounding > 0.25, confidence / np.maximum(share_sounding, 1e-6), 1.0)


def one_hot_posteriors(speech: Speech, first: int, count: int) -> np.ndarray:
    """One-hot phoneme classes f32 [N, C] of encoder frames first..first+count-1, from the speech's own phonemes."""
    return np.eye(len(CLASSES), dtype=np.float32)[phoneme_classes_at(speech, frame_times(count, first))]
