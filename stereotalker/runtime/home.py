"""The home folder: it holds everything that is kept after a batch.

That is the store, MLflow's records, Prefect's database and logs, the user's avatars, and the local signing key.
"""

from __future__ import annotations

import os
import socket
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import platformdirs

from stereotalker.errors import UserError

# Names inside a home folder. A folder `runs` in the working directory is a home only if it holds one of them.
_CONTENTS = ("store", "mlflow.db", "prefect", "avatars")


@dataclass(frozen=True)
class _Inside:
    """A path inside a home folder, read as an attribute of the home."""

    name: str

    def __get__(self, home: Home, owner: type[Home]) -> Path:
        return home.root / self.name


@dataclass(frozen=True)
class Home:
    """A home folder, and the paths inside it."""

    root: Path

    store = _Inside("store")  # finished stages; with a shared store, its local copies
    prefect = _Inside("prefect")  # database, log and address of Prefect's server
    avatars = _Inside("avatars")  # avatars that the user has added
    detectors = _Inside("detectors")  # model files of the detector that finds people in portraits
    credentials = _Inside("credentials")  # certificate and key of the local signer
    models = _Inside("models")  # releases; with a shared store of releases, its local copies
    releases = _Inside("releases")  # the ledger of releases, and the key that signs them
    history = _Inside("history.jsonl")  # what past clips took, see production/pace_history.py

    @classmethod
    def default(cls) -> Home:
        """The home folder of this user.

        STEREOTALKER_HOME if it is set; else a folder `runs` in the working directory that an older version made; else
        the platform's folder for user data, on Linux ~/.local/share/stereotalker.
        """
        if chosen := os.environ.get("STEREOTALKER_HOME"):
            home = Path(chosen).resolve()
            if "?" in str(home):  # in the address of MLflow's database it would begin the options
                raise UserError(f"STEREOTALKER_HOME {home}: a question mark cannot stand in its path; name another")
            return cls(home)
        older = Path("runs").resolve()
        if any((older / name).exists() for name in _CONTENTS):
            _note_older_home(older)
            return cls(older)
        return cls(platformdirs.user_data_path("stereotalker", appauthor=False))

    @property
    def tracking_uri(self) -> str:
        """Where MLflow keeps its records: MLFLOW_TRACKING_URI, or else a SQLite file here."""
        return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{self.root / 'mlflow.db'}"

    @property
    def artifacts(self) -> str:
        """URI of the folder for MLflow's artifacts."""
        return (self.root / "mlflow-artifacts").as_uri()


@cache
def _note_older_home(folder: Path) -> None:
    """Print once which folder is used, because this version would put a new home elsewhere."""
    print(
        f"note: {folder} of an older version is used; set STEREOTALKER_HOME to it, or move it to "
        f"{platformdirs.user_data_path('stereotalker', appauthor=False)}",
        file=sys.stderr,
    )


def free_port() -> int:
    """Number of a TCP port of this machine that is free at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
