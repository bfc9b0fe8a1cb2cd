"""Measures of the sound of a finished video, for the quality gate."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np

from stereotalker.media.audio_files import OUTPUT_RATE
from stereotalker.media.time_lag import sound_lag

_LAG_S = 30.0  # seconds of sound from which the lag behind the driving sound is measured


@dataclass(frozen=True)
class SoundMeasures:
    """What one pass over a file's sound keeps."""

    samples: int  # of each channel, at OUTPUT_RATE
    peak: float  # of full scale
    beginning: np.ndarray  # f32 [N] mean of the channels, the first _LAG_S seconds


def measure_sound(file: Path) -> SoundMeasures:
    """Decode the sound of a video once, frame by frame."""
    samples, peak, beginning = 0, 0.0, [np.zeros(0, np.float32)]
    with av.open(str(file)) as container:
        resampler = av.AudioResampler(format="fltp", layout="stereo", rate=OUTPUT_RATE)
        for frame in container.decode(audio=0):
            for part in resampler.resample(frame):
                sound = part.to_ndarray()
                if samples < _LAG_S * OUTPUT_RATE:
                    beginning.append(sound.mean(0))
                samples += sound.shape[1]
                peak = max(peak, float(np.abs(sound).max(initial=0.0)))
    return SoundMeasures(samples, peak, np.concatenate(beginning))


def sound_delay(file_sound: np.ndarray, driving_sound: np.ndarray) -> float:
    """Lag in seconds of the file's sound (f32 [N]) behind the driving sound (i16 [N, 2]); 0 for silence.

    Only their beginnings are used.
    """
    count = min(len(file_sound), len(driving_sound), int(_LAG_S * OUTPUT_RATE))
    a, b = file_sound[:count], driving_sound[:count].mean(1) / 32768
    if not np.any(np.abs(a) > 1e-4) or not np.any(np.abs(b) > 1e-4):
        return 0.0
    return sound_lag(a, b) / OUTPUT_RATE
