"""The home folder: what outlives one batch, that is the store, MLflow's records, Prefect's database and logs."""

from __future__ import annotations

import os
import socket
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import platformdirs

_CONTENTS = ("store", "mlflow.db", "prefect", "avatars")  # a folder `runs` is ours if it holds any of these


@dataclass(frozen=True)
class Home:
    """The folder `root` and the names inside it."""

    root: Path

    @classmethod
    def default(cls) -> Home:
        """STEREOTALKER_HOME if it is set; else a folder `runs` of an older version in the working directory; else the
        platform's folder for user data, on Linux ~/.local/share/stereotalker."""
        if chosen := os.environ.get("STEREOTALKER_HOME"):
            return cls(Path(chosen).resolve())
        older = Path("runs").resolve()
        if any((older / name).exists() for name in _CONTENTS):
            _note_older_home(older)
            return cls(older)
        return cls(platformdirs.user_data_path("stereotalker", appauthor=False))

    @property
    def store(self) -> Path:
        return self.root / "store"

    @property
    def prefect(self) -> Path:
        return self.root / "prefect"

    @property
    def avatars(self) -> Path:
        """Avatars that the user has added."""
        return self.root / "avatars"

    @property
    def detectors(self) -> Path:
        """Model files of the detector that finds people in portraits."""
        return self.root / "detectors"

    @property
    def credentials(self) -> Path:
        """Certificate and key of the local signer."""
        return self.root / "credentials"

    @property
    def history(self) -> Path:
        return self.root / "history.jsonl"

    @property
    def tracking_uri(self) -> str:
        """Where MLflow keeps its records: MLFLOW_TRACKING_URI, or else a SQLite file here."""
        return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{self.root / 'mlflow.db'}"

    @property
    def artifacts(self) -> str:
        return (self.root / "mlflow-artifacts").as_uri()


@cache
def _note_older_home(folder: Path) -> None:
    """Say once where the state lies, because a newer version would have put it elsewhere."""
    print(
        f"note: {folder} of an older version is used; set STEREOTALKER_HOME to it, or move it to "
        f"{platformdirs.user_data_path('stereotalker', appauthor=False)}",
        file=sys.stderr,
    )


def free_port() -> int:
    """A TCP port of this machine that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
