"""Stage `speech`: utterances with word and phoneme times, spoken by espeak-ng, and real recordings aligned with their text."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import numpy as np
from scipy.signal import fftconvolve

from stereotalker.audio import io
from stereotalker.audio.align import align
from stereotalker.audio.speak import Voice, speak
from stereotalker.audio.speech import from_script
from stereotalker.errors import UserError
from stereotalker.params import AudioParams, SpeechParams, resolve
from stereotalker.records import Speech, load, save

_VARIANTS = ("", "m1", "m2", "m3", "m4", "m7", "f1", "f2", "f3", "f4", "f5")
_HELD_OUT_VARIANTS = ("m5", "m6", "croak")
_LANGUAGE_MARKS = {"de": "äöüß", "fr-fr": "éèêçù", "es": "áíóúñ", "it": ""}


def build_corpus(folder: Path, params: SpeechParams, audio: AudioParams, log=print) -> None:
    """Write `folder`/train/*.safetensors and `folder`/held_out/*.safetensors (Speech records)."""
    shutil.rmtree(folder, ignore_errors=True)
    for part in ("train", "held_out"):
        (folder / part).mkdir(parents=True)
    sentences = [line for line in resolve(params.sentences).read_text().splitlines() if line.strip()]
    held = sentences[::9]
    trained = [s for s in sentences if s not in held]
    for index in range(params.utterances):
        part = "held_out" if index >= params.utterances - params.held_out else "train"
        speech = _synthetic(held if part == "held_out" else trained, part == "held_out", params, audio, index)
        save(speech, folder / part / f"synthetic-{index:05d}.safetensors")
    real = _recordings(params.recordings, audio) if params.recordings else []
    for index, speech in enumerate(real):
        part = "held_out" if index % 8 == 7 else "train"
        save(speech, folder / part / f"real-{index:05d}.safetensors")
    log(f"speech: {params.utterances} synthetic and {len(real)} aligned real utterances")


def read_corpus(folder: Path) -> list[Speech]:
    """Every Speech of a folder, in the order of names."""
    return [load(Speech, path) for path in sorted(folder.glob("*.safetensors"))]


def augment(samples: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Room, noise, telephone band, level: what recordings do to speech. f32 [S] -> f32 [S]."""
    if rng.random() < 0.4:
        length = int(rng.uniform(0.05, 0.4) * 16_000)
        tail = rng.normal(size=length) * np.exp(-np.arange(length) / (length / 5)) * rng.uniform(0.02, 0.15)
        tail[0] = 1
        samples = fftconvolve(samples, tail)[: len(samples)]
    spectrum = np.fft.rfft(samples)
    bands = np.interp(np.arange(len(spectrum)), np.linspace(0, len(spectrum), 8), rng.normal(0, 4, 8))
    spectrum *= 10 ** (bands / 20)
    if rng.random() < 0.2:
        spectrum[int(len(spectrum) * rng.uniform(0.42, 0.8)) :] = 0
    samples = np.fft.irfft(spectrum, len(samples))
    if rng.random() < 0.7:
        noise = rng.normal(size=len(samples))
        if rng.random() < 0.5:
            noise = np.cumsum(noise) - np.arange(len(noise)) * noise.mean()
            noise -= np.convolve(noise, np.ones(400) / 400, "same")
        level = samples.std() * 10 ** (-rng.uniform(8, 35) / 20)
        samples = samples + noise / max(noise.std(), 1e-9) * level
    return (samples * 10 ** (rng.uniform(-8, 4) / 20)).astype(np.float32)


def _synthetic(sentences: list[str], held_out: bool, params: SpeechParams, audio: AudioParams, index: int) -> Speech:
    rng = np.random.default_rng([params.seed, index])
    text = sentences[rng.integers(len(sentences))]
    marked = [language for language, marks in _LANGUAGE_MARKS.items() if any(c in marks for c in text.lower())]
    language = marked[0] if marked and marked[0] in params.languages else params.languages[rng.integers(len(params.languages))]
    variants = _HELD_OUT_VARIANTS if held_out else _VARIANTS
    voice = Voice(language, variants[rng.integers(len(variants))], *(int(rng.integers(a, b)) for a, b in ((125, 215), (25, 75), (30, 80))))
    return from_script(text, voice, audio.loudness, speak)[0]


def _recordings(folder: Path, audio: AudioParams) -> list[Speech]:
    """English recordings named by transcripts.csv (path, lang, text) whose alignment succeeds."""
    table = resolve(folder) / "transcripts.csv"
    if not table.is_file():
        raise UserError(f"speech.recordings: {table} not found; expected columns path, lang, text; set it to null to do without")
    found = []
    with open(table, newline="") as file:
        for row in csv.DictReader(file):
            if not row["lang"].startswith("en"):
                continue
            sound, level = io.normalise(io.decode(table.parent.parent / row["path"]), audio.loudness)
            samples = io.to_speech_samples(sound)
            if times := align(samples, row["text"]):
                found.append(Speech(samples, level, *times))
    return found
