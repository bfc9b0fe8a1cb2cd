"""Reads the sound of any file that ffmpeg can decode, and normalizes and converts it.

Files are decoded with ffmpeg-python and the ffmpeg binary in imageio-ffmpeg's wheel.
"""

from __future__ import annotations

import io
import os
from pathlib import Path

import av
import ffmpeg
import imageio_ffmpeg
import numpy as np
import pyloudnorm
from scipy.io import wavfile
from scipy.signal import resample_poly

from stereotalker.errors import ClipError
from stereotalker.records import SAMPLE_RATE

OUTPUT_RATE = 48_000  # Hz of the sound in a finished clip
FFMPEG = imageio_ffmpeg.get_ffmpeg_exe()
MIN_SECONDS, MAX_SECONDS = 0.2, 3 * 3600.0  # of sound in an input file
_MAX_PEAK = 0.97  # of full scale, after normalization
_BLOCK_S = 0.4  # seconds of the shortest sound that ITU-R BS.1770 can measure


def decode(path: Path) -> np.ndarray:
    """Decode the first audio stream of a file to f32 [2, N] at OUTPUT_RATE.

    Raises ClipError, which says what is wrong with the file.
    """
    check_readable(path)
    try:
        raw, _ = (
            ffmpeg.input(str(path))
            .output("pipe:", format="f32le", acodec="pcm_f32le", ac=2, ar=OUTPUT_RATE, map="0:a:0")
            .run(cmd=[FFMPEG, "-nostdin", "-v", "error"], capture_stdout=True, capture_stderr=True)
        )
    except ffmpeg.Error as error:
        lines = error.stderr.decode(errors="replace").strip().splitlines() or ["no reason given"]
        raise ClipError(
            f"{path} cannot be read as audio ({lines[-1].strip()}); expected a file with an audio stream"
        ) from None
    stereo = np.frombuffer(raw, np.float32).reshape(-1, 2).T
    seconds = stereo.shape[1] / OUTPUT_RATE
    if not MIN_SECONDS <= seconds <= MAX_SECONDS:
        raise ClipError(f"{path} lasts {seconds:.2f} s; expected {MIN_SECONDS} s to {MAX_SECONDS / 3600:.0f} h")
    if not np.isfinite(stereo).all():
        raise ClipError(f"{path} holds NaN or infinite samples; export it again")
    return stereo


def check_readable(path: Path) -> None:
    """Raise ClipError if the file does not exist or may not be read."""
    if not path.is_file():
        raise ClipError(f"audio file {path} not found; expected an audio or video file")
    if not os.access(path, os.R_OK):
        raise ClipError(f"audio file {path} may not be read; change its permissions")


def media_seconds(path: Path) -> float:
    """Seconds of sound in a file, from its header; 0 if the header does not say. Raises ClipError like `decode`."""
    check_readable(path)
    try:
        with av.open(str(path)) as container:
            if not container.streams.audio:
                raise ClipError(
                    f"{path} cannot be read as audio (it has no audio stream); expected a file with an audio stream"
                )
            stream = container.streams.audio[0]
            if stream.duration:
                assert stream.time_base is not None
                seconds = float(stream.duration * stream.time_base)
            else:
                seconds = (container.duration or 0) / av.time_base
    except av.FFmpegError as error:
        raise ClipError(
            f"{path} cannot be read as audio ({error.strerror}); expected a file with an audio stream"
        ) from None
    if seconds and not MIN_SECONDS <= seconds <= MAX_SECONDS:
        raise ClipError(f"{path} lasts {seconds:.2f} s; expected {MIN_SECONDS} s to {MAX_SECONDS / 3600:.0f} h")
    return seconds


def normalise(stereo: np.ndarray, target: float) -> tuple[np.ndarray, float]:
    """Scale sound f32 [2, N] to a loudness of `target` LUFS (ITU-R BS.1770), with peaks of at most 0.97 of full scale.

    Returns the sound and its loudness. Silence is returned unchanged, with a loudness of -inf.
    """
    level = loudness(stereo)
    if not np.isfinite(level):
        return stereo, -np.inf
    gain = min(10 ** ((target - level) / 20), _MAX_PEAK / max(float(np.abs(stereo).max()), 1e-9))
    return (stereo * gain).astype(np.float32), level + 20 * np.log10(gain)


def loudness(stereo: np.ndarray) -> float:
    """Integrated loudness in LUFS (ITU-R BS.1770) of f32 [2, N] at OUTPUT_RATE; -inf for silence.

    A sound that is too short to be measured is repeated.
    """
    min_samples = int(_BLOCK_S * OUTPUT_RATE) + 1
    if stereo.shape[1] < min_samples:
        stereo = np.tile(stereo, -(-min_samples // stereo.shape[1]))
    if not np.any(np.abs(stereo) > 1e-5):
        return -np.inf
    return float(pyloudnorm.Meter(OUTPUT_RATE).integrated_loudness(stereo.T.astype(np.float64)))


def to_speech_samples(stereo: np.ndarray) -> np.ndarray:
    """Convert stereo f32 [2, N] at OUTPUT_RATE to mono f32 [S] at SAMPLE_RATE.

    If the channels are in opposite phase and their mean would cancel them, the louder one is used instead.
    """
    mono = stereo.mean(0)
    louder = stereo[np.argmax((stereo**2).mean(1))]
    if (mono**2).mean() < 0.1 * (louder**2).mean():
        mono = louder
    return np.clip(resample_poly(mono, SAMPLE_RATE, OUTPUT_RATE), -1, 1).astype(np.float32)


def from_mono(samples: np.ndarray, sample_rate: int) -> np.ndarray:
    """Convert mono f32 [S] at any sample rate to f32 [2, N] at OUTPUT_RATE."""
    common = np.gcd(OUTPUT_RATE, sample_rate)
    return np.tile(resample_poly(samples, OUTPUT_RATE // common, sample_rate // common).astype(np.float32), (2, 1))


def wav_bytes(samples: np.ndarray, sample_rate: int = OUTPUT_RATE) -> bytes:
    """The bytes of a 16-bit WAV file with mono sound f32 [N], or sound f32 [C, N] of C channels.

    Samples beyond -1..1 are clipped.
    """
    buffer = io.BytesIO()
    wavfile.write(buffer, sample_rate, np.rint(np.clip(samples, -1, 1).T * 32767).astype(np.int16))
    return buffer.getvalue()
