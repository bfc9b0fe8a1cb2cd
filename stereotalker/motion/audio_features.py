"""What the motion model hears: the encoder's features at the motion's frame rate, made as they are asked for, in flat memory."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import uniform_filter1d

from stereotalker.audio.encoder import HOP, SpeechEncoder, classes_at, frame_times, loudness_of
from stereotalker.audio.phonemes import BILABIAL, CLASS, CLASSES
from stereotalker.records import SAMPLE_RATE, Speech

_CHUNK_S = 20  # encoded at once
CLEAR = 0.45  # clearness below which what is heard is no speech, or none that lips could follow: it is taken as silence


class Hearing:
    """Features of a Speech, frame after frame. Where its phonemes are known, they take the place of the encoder's guess.

    closure_odds: by how much the guess's odds of a p, b or m are raised. A missed closure is seen, one too many hardly.
    """

    def __init__(self, encoder: SpeechEncoder, speech: Speech, fps: float, closure_odds: float = 1.0):
        self._encoder, self.speech, self._fps = encoder, speech, fps
        self._odds = np.array([closure_odds if name in BILABIAL else 1.0 for name in CLASSES], np.float32)
        self._level = loudness_of(speech.samples)
        self._chunks: dict[int, np.ndarray] = {}

    def frames(self, start: int, stop: int) -> np.ndarray:
        """At the centres of frames start..stop-1, linear between the encoder's own; silence behind the end. f32 [T, F]."""
        at = ((np.arange(start, stop) + 0.5) / self._fps - frame_times(1)[0]) * SAMPLE_RATE / HOP
        low = np.maximum(np.floor(at).astype(int), 0)
        share = np.clip(at - low, 0, 1)[:, None].astype(np.float32)
        features = self._encoded(int(low[0]), int(low[-1]) + 2)
        low = low - low[0]
        return features[low] * (1 - share) + features[low + 1] * share

    def _encoded(self, start: int, stop: int) -> np.ndarray:
        """The encoder's frames start..stop-1, f32 [N, F]; chunks already passed are let go."""
        size = _CHUNK_S * SAMPLE_RATE // HOP
        first, last = start // size, (stop - 1) // size
        self._chunks = {k: v for k, v in self._chunks.items() if k >= first}
        for k in range(first, last + 1):
            if k not in self._chunks:
                self._chunks[k] = self._chunk(k * size, size)
        return np.concatenate([self._chunks[k] for k in range(first, last + 1)])[
            start - first * size : stop - first * size
        ]

    def _chunk(self, first: int, count: int) -> np.ndarray:
        features = self._encoder.encode(self.speech.samples, first, count, self._level)
        posteriors = features[:, -len(CLASSES) :]
        if self.speech.phonemes:
            posteriors[:] = known_posteriors(self.speech, first, count)
        else:
            unclear = clearness(posteriors) < CLEAR
            posteriors *= self._odds
            posteriors /= posteriors.sum(1, keepdims=True)
            if unclear.any():
                features[unclear] = self._encoder.encode(np.zeros(SAMPLE_RATE, np.float32), 20, 1)
        return features


def clearness(posteriors: np.ndarray) -> np.ndarray:
    """How sure the encoder is of the sounds within 2 s to either side of a frame, [N, C] -> f32 [N]; 1 where it hears less than a second of them.

    Measured medians: clean speech of unheard voices 0.57 to 0.72, at 8 dB over white noise 0.56, at 3 dB 0.46, jazz 0.40.
    """
    heard = (posteriors[:, CLASS["sil"]] < 0.5).astype(np.float32)
    sure, count = (
        uniform_filter1d(x, 4 * SAMPLE_RATE // HOP, mode="constant") for x in (posteriors.max(1) * heard, heard)
    )
    return np.where(count > 0.25, sure / np.maximum(count, 1e-6), 1.0)


def known_posteriors(speech: Speech, first: int, count: int) -> np.ndarray:
    """One-hot phoneme classes of encoder frames first..first+count-1, f32 [N, C]."""
    return np.eye(len(CLASSES), dtype=np.float32)[classes_at(speech, frame_times(count, first))]
