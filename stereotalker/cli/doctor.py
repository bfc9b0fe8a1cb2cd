"""What this machine can do: one line a finding, for `stereotalker doctor`."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import torch

from stereotalker.avatar.library import Library
from stereotalker.errors import UserError
from stereotalker.media.audio_files import FFMPEG
from stereotalker.models import Models
from stereotalker.motion.language_prior import minilm_folder
from stereotalker.params import load_params
from stereotalker.runtime.device import autocast
from stereotalker.runtime.home import Home

_NEEDED = (
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
)
_EXTRAS = {
    "anny": "[people]: rebuild the body",
    "mediapipe": "[photo]: fit portraits",
    "s3fs": "[s3]: store and outputs on s3://",
}


@dataclass(frozen=True)
class Finding:
    mark: str  # "ok", "optional", "MISSING"
    what: str
    detail: str


def examine() -> list[Finding]:
    """Every finding, most basic first. Our own modules import the core packages, so without those it cannot even start."""
    found = [Finding("ok", "python", f"{platform.python_version()} on {platform.machine()}, {os.cpu_count()} cores")]
    found += [_package(name, "MISSING", "run `make setup`") for name in _NEEDED]
    found += [_package(name, "optional", f"not installed; extra {use}") for name, use in _EXTRAS.items()]
    found.append(_check("ffmpeg", _ffmpeg))
    found.append(
        _check(
            "models",
            lambda: ", ".join(f"{stage} {digest[:8]}" for stage, digest in Models(load_params()).digests.items()),
        )
    )
    found.append(_check("language model", lambda: f"all-MiniLM-L6-v2, hash as expected, {minilm_folder().name}"))
    found.append(
        _check(
            "avatars",
            lambda: ", ".join(Library(Home.default().avatars).names()) or _fail("none; run `dvc repro people`"),
        )
    )
    found.append(_check("speech synthesis", _speech))
    arithmetic = "bfloat16" if autocast()._enabled else "float32 (no native bfloat16: slower)"
    found.append(Finding("ok", "arithmetic", arithmetic))
    found.append(
        Finding("ok", "gpu", torch.cuda.get_device_name() if torch.cuda.is_available() else "none; the CPU renders")
    )
    home = Home.default().root
    existing = next(p for p in (home, *home.parents) if p.exists())
    free = shutil.disk_usage(existing).free / 1e9
    writable = os.access(existing, os.W_OK)
    found.append(
        Finding(
            "ok" if writable and free > 1 else "MISSING",
            "workplace",
            f"{home}: {free:.0f} GB free{'' if writable else ', not writable'}",
        )
    )
    return found


def _package(name: str, absent: str, remedy: str) -> Finding:
    try:
        return Finding("ok", name, importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        return Finding(absent, name, remedy)


def _check(what: str, look) -> Finding:
    try:
        return Finding("ok", what, look())
    except (UserError, OSError, RuntimeError, ImportError) as error:
        return Finding("MISSING", what, str(error))


def _fail(reason: str) -> str:
    raise UserError(reason)


def _ffmpeg() -> str:
    answer = subprocess.run([FFMPEG, "-hide_banner", "-encoders"], capture_output=True, text=True, check=True).stdout
    missing = [codec for codec in ("libx264", " aac ") if codec not in answer]
    return f"{Path(FFMPEG).name} with H.264 and AAC" if not missing else _fail(f"{FFMPEG} lacks {', '.join(missing)}")


def _speech() -> str:
    from stereotalker.audio.text_to_speech import Voice, speak

    return f"espeak-ng speaks, {len(speak('ready', Voice()).phonemes)} phonemes in 'ready'"
