"""Augmentation of clean speech by what recordings do to it: rooms, noise, band limits, levels and codecs.

All functions take f32 [S] at 16 kHz and return f32 [S] at 16 kHz.
"""

from __future__ import annotations

import io

import av
import numpy as np
from scipy.signal import fftconvolve, resample_poly

from stereotalker.media.time_lag import sound_lag
from stereotalker.records import SAMPLE_RATE

CODECS: tuple[str, ...] = ("g711", "mp3", "opus")
_BITRATE = {"mp3": 24_000, "opus": 10_000}  # bit/s
_MAX_CODEC_DELAY = 2400  # samples; 150 ms at 16 kHz, more than any of the codecs adds
_CONTAINER = {"mp3": ("mp3", "libmp3lame"), "opus": ("ogg", "libopus")}


def augment(samples: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Apply a random chain: room reverberation, tone, band limit, noise, telephone and level.

    Tone and level always change; each of the others has its own probability. f32 [S] -> f32 [S].
    """
    if rng.random() < 0.4:
        length = int(rng.uniform(0.05, 0.4) * SAMPLE_RATE)
        tail = rng.normal(size=length) * np.exp(-np.arange(length) / (length / 5)) * rng.uniform(0.02, 0.15)
        tail[0] = 1
        samples = fftconvolve(samples, tail)[: len(samples)]
    spectrum = np.fft.rfft(samples)
    tone_db = np.interp(np.arange(len(spectrum)), np.linspace(0, len(spectrum), 8), rng.normal(0, 4, 8))
    spectrum *= 10 ** (tone_db / 20)
    if rng.random() < 0.2:
        spectrum[int(len(spectrum) * rng.uniform(0.42, 0.8)) :] = 0
    samples = np.fft.irfft(spectrum, len(samples))
    if rng.random() < 0.7:
        noise = rng.normal(size=len(samples))
        if rng.random() < 0.5:  # brown noise, without its slow drift
            noise = np.cumsum(noise) - np.arange(len(noise)) * noise.mean()
            noise -= np.convolve(noise, np.ones(400) / 400, "same")
        level = samples.std() * 10 ** (-rng.uniform(8, 35) / 20)
        samples = samples + noise / max(noise.std(), 1e-9) * level
    if rng.random() < 0.1:
        samples = telephone(samples)
    return (samples * 10 ** (rng.uniform(-8, 4) / 20)).astype(np.float32)


def non_speech_sound(length: int, rng: np.random.Generator) -> np.ndarray:
    """Sound without speech, f32 [length] at 16 kHz.

    It is near silence, noise of any color, mains hum, melodies and chords, calls whose pitch glides, or clicks.
    """
    time, kind = np.arange(length) / SAMPLE_RATE, rng.integers(6)
    if kind == 0:
        sound = rng.normal(size=length) * 10 ** rng.uniform(-6, -3)
    elif kind == 1:
        spectrum = np.fft.rfft(rng.normal(size=length))
        sound = np.fft.irfft(spectrum / np.maximum(np.arange(len(spectrum)), 20.0) ** rng.uniform(0, 1.2), length)
    elif kind == 2:
        sound = sum(
            rng.uniform(0.1, 1) * np.sin(2 * np.pi * rng.choice((50, 60, 100, 120)) * k * time) for k in range(1, 6)
        )
    elif kind in (3, 4):
        sound = np.zeros(length)
        for _ in range(rng.integers(1, 4)):  # instruments of a piece, or animals
            start = 0
            while start < length:
                span = int(rng.uniform(0.08, 1.2) * SAMPLE_RATE)
                pitch = (
                    2 ** rng.uniform(6.5, 11.5) * np.ones(span)
                    if kind == 3
                    else 2 ** (rng.uniform(6.5, 11.5) + np.linspace(0, rng.uniform(-1, 1), span))
                )
                wave = sum(
                    0.7**k * rng.uniform(0.2, 1) * np.sin(2 * np.pi * k * np.cumsum(pitch) / SAMPLE_RATE)
                    for k in range(1, 7)
                    if k * pitch.max() < 7800
                )
                wave = (
                    wave
                    * np.exp(-np.arange(span) / span * rng.uniform(0, 4))
                    * np.minimum(np.arange(span) / 400, 1)
                    * (rng.random() < 0.85)
                )
                sound[start : start + span] += wave[: length - start]
                start += span
    else:
        sound = np.zeros(length)
        for start in rng.integers(0, length, rng.integers(1, 12)):
            burst = rng.normal(size=800) * np.exp(-np.arange(800) / rng.uniform(20, 300))
            sound[start : start + 800] += burst[: length - start]
    return (sound / max(np.abs(sound).max(), 1e-9) * 10 ** rng.uniform(-2, -0.3)).astype(np.float32)


def telephone(samples: np.ndarray) -> np.ndarray:
    """Send speech through a telephone line: ITU-T G.711 mu-law at 8 kHz. f32 [S] -> f32 [S]."""
    narrow = np.clip(resample_poly(samples, 1, 2), -1, 1)
    coded = np.sign(narrow) * np.log1p(255 * np.abs(narrow)) / np.log(256)
    coded = np.round(coded * 127) / 127
    wide = np.sign(coded) * (256 ** np.abs(coded) - 1) / 255
    return resample_poly(wide, 2, 1)[: len(samples)].astype(np.float32)


def through_codec(samples: np.ndarray, codec: str) -> np.ndarray:
    """Encode and decode speech with one of CODECS, at a bit rate low enough to be audible. f32 [S] -> f32 [S].

    The codec's delay is found by correlation and removed, so that word and phoneme times stay valid.
    """
    if codec == "g711":
        return telephone(samples)
    container, name = _CONTAINER[codec]
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container) as out:
        stream = out.add_stream(name, rate=SAMPLE_RATE, layout="mono")
        assert isinstance(stream, av.AudioStream)
        stream.bit_rate = _BITRATE[codec]
        frame = av.AudioFrame.from_ndarray(
            np.rint(np.clip(samples, -1, 1) * 32767).astype(np.int16)[None], format="s16", layout="mono"
        )
        frame.sample_rate = SAMPLE_RATE
        resampler = av.AudioResampler(format=stream.codec_context.format or "fltp", layout="mono", rate=SAMPLE_RATE)
        for part in [*resampler.resample(frame), *resampler.resample(None)]:
            out.mux(stream.encode(part))
        out.mux(stream.encode(None))
    buffer.seek(0)
    with av.open(buffer, "r") as encoded:
        resampler = av.AudioResampler(format="flt", layout="mono", rate=SAMPLE_RATE)
        parts = [p.to_ndarray().ravel() for frame in encoded.decode(audio=0) for p in resampler.resample(frame)]
        parts += [p.to_ndarray().ravel() for p in resampler.resample(None)]
    decoded = np.concatenate(parts)
    delay = sound_lag(decoded, samples, _MAX_CODEC_DELAY, either_sign=True)
    shifted = np.pad(decoded, (max(-delay, 0), 0))[max(delay, 0) :][: len(samples)]
    return np.pad(shifted, (0, len(samples) - len(shifted))).astype(np.float32)
