"""A release: one immutable list of everything that the frames of a clip depend on, apart from the clip itself.

Its files are named by their SHA-256. Release number 0 is the package itself; the others come from a training, and
MLflow counts them from 1 (tasks/registry.py).
"""

from __future__ import annotations

import csv
import json
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from packaging.requirements import Requirement

from stereotalker.avatar.detector_calibration import FILE as CALIBRATION_FILE
from stereotalker.errors import Unavailable, UserError
from stereotalker.params import ASSETS, DEFAULT_PARAMS, FREE_BODY, ROOT, load_params
from stereotalker.store.code import code_version
from stereotalker.store.digests import bytes_digest, file_digest
from stereotalker.weights import FOLDER, PRODUCTION_WEIGHTS, read_header, weights_file

WEIGHTS_FILES = tuple(weights_file(stage, Path()).name for stage in PRODUCTION_WEIGHTS)
FILES = (*WEIGHTS_FILES, FREE_BODY, CALIBRATION_FILE.name)  # names of all files of a release
SOURCES_FILE = ASSETS / "training_data.csv"  # what the shipped weights are trained on: source, use, licence
SHIPPED_NUMBER = 0


@dataclass(frozen=True)
class Source:
    """Data that weights were trained on, and the licence that it is under."""

    source: str
    use: str
    licence: str


@dataclass(frozen=True)
class Release:
    """The manifest of a release. Equal manifests have equal digests."""

    files: dict[str, str]  # name, one of FILES -> SHA-256
    params: dict  # of training, models and evaluation, as the evaluation that judged the release had them
    code: str  # digest of the code and its libraries, see store.code.code_version
    libraries: dict[str, str]  # package that StereoTalker requires -> installed version
    lock: str  # SHA-256 of requirements.lock; empty for an installed package
    sources: tuple[Source, ...]  # training data with its licences
    commit: str = ""  # of the checkout that trained it; ends in "+changes" if files differed from it
    data: dict[str, str] = field(default_factory=dict)  # output of the data pipeline -> its digest in dvc.lock
    runs: dict[str, str] = field(default_factory=dict)  # stage -> id of its training's run in MLflow
    made: str = ""  # UTC, ISO 8601; empty for the shipped release

    @property
    def digest(self) -> str:
        """SHA-256 of the manifest, 64 hexadecimal characters."""
        return bytes_digest(self.to_json())

    def to_json(self) -> bytes:
        """The manifest as canonical JSON: sorted keys, UTF-8, a line feed at its end."""
        return (json.dumps(asdict(self), indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode()

    @classmethod
    def from_json(cls, data: bytes) -> Release:
        """Read what `to_json` wrote. Raises UserError if it is no release."""
        try:
            values = json.loads(data)
            sources = tuple(Source(**source) for source in values.pop("sources"))
            return cls(**values, sources=sources)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"the manifest of a release cannot be read: {type(error).__name__}: {error}") from None


@cache
def shipped_release() -> Release:
    """Release 0: the files and the code of the installed package. Raises Unavailable if a file is missing."""
    try:
        files = {name: file_digest(path) for name, path in shipped_files().items()}
    except OSError as error:
        raise Unavailable(f"{error.filename} cannot be read ({error.strerror}); install the package again") from None
    lock = ROOT / "requirements.lock"
    return Release(
        files=files,
        params=load_params(DEFAULT_PARAMS).of_models(),
        code=code_version(),
        libraries=libraries(),
        lock=file_digest(lock) if lock.is_file() else "",
        sources=read_sources(SOURCES_FILE),
    )


def shipped_files() -> dict[str, Path]:
    """The files of release 0, by name."""
    weights = {name: FOLDER / name for name in WEIGHTS_FILES}
    return weights | {FREE_BODY: ASSETS / FREE_BODY, CALIBRATION_FILE.name: CALIBRATION_FILE}


def read_sources(path: Path) -> tuple[Source, ...]:
    """The rows of a table with the columns source, use, licence. Raises UserError if a column is missing."""
    with open(path, encoding="utf-8", newline="") as lines:
        try:
            return tuple(Source(row["source"], row["use"], row["licence"]) for row in csv.DictReader(lines))
        except KeyError as error:
            raise UserError(f"{path}: column {error} is missing; expected source, use, licence") from None


@cache
def libraries() -> dict[str, str]:
    """Installed versions of the packages that StereoTalker requires; optional ones only if they are installed."""
    found = {}
    for line in requires("stereotalker") or ():
        name = Requirement(line).name
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return dict(sorted(found.items()))


def mismatch(files: dict[str, Path]) -> str:
    """Why the weights of a release, by name, cannot work together; empty if they can."""
    from stereotalker.audio.encoder import feature_count  # imports torch, which most commands of releases do not need

    audio, motion = (
        read_header(files[weights_file(s, Path()).name].read_bytes())["config"] for s in ("audio", "motion")
    )
    if audio.get("pretrained"):  # its width is that of the public model
        return ""
    made, expected = feature_count(audio["hidden"]), motion["features"]
    return (
        f"audio.safetensors makes {made} features, but motion.safetensors expects {expected}: train both, at one scale"
        if made != expected
        else ""
    )
