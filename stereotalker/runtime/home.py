"""Where a workplace keeps what outlives one batch: the store, MLflow's records, Prefect's database and logs."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Home:
    """By default the folder `runs` where the command is called; STEREOTALKER_HOME moves it."""

    root: Path

    @classmethod
    def default(cls) -> Home:
        return cls(Path(os.environ.get("STEREOTALKER_HOME", "runs")).resolve())

    @property
    def store(self) -> Path:
        return self.root / "store"

    @property
    def prefect(self) -> Path:
        return self.root / "prefect"

    @property
    def avatars(self) -> Path:
        """A user's own."""
        return self.root / "avatars"

    @property
    def detectors(self) -> Path:
        """Model files that find people in portraits."""
        return self.root / "detectors"

    @property
    def credentials(self) -> Path:
        """Of the local signer."""
        return self.root / "credentials"

    @property
    def history(self) -> Path:
        return self.root / "history.jsonl"

    @property
    def tracking_uri(self) -> str:
        """MLflow's: MLFLOW_TRACKING_URI, else a local SQLite file."""
        return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{self.root / 'mlflow.db'}"

    @property
    def artifacts(self) -> str:
        return (self.root / "mlflow-artifacts").as_uri()


def free_port() -> int:
    """A TCP port of this machine that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
