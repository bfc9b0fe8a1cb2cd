"""Records of batches, trainings and evaluations in MLflow, and the registry of weights.

No other module imports MLflow. Only the driver of a batch writes.
"""

from __future__ import annotations

import logging
import math
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from filelock import FileLock
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException

from stereotalker.models import PRODUCTION_WEIGHTS, weights_file
from stereotalker.runtime.home import Home, free_port
from stereotalker.runtime.process_identity import identity, is_dead
from stereotalker.store.digests import file_digest
from stereotalker.validation import as_utf8

EXPERIMENTS = {
    "batch": "stereotalker-batches",
    "training": "stereotalker-training",
    "evaluation": "stereotalker-evaluation",
}
TrackingError = MlflowException

# Aliases in the registry: the weights in production, and newly trained ones.
CHAMPION, CHALLENGER = "champion", "challenger"

# Characters of a value that MLflow accepts.
_MAX_PARAM_CHARS, _MAX_TAG_CHARS = 6000, 5000


class Tracker:
    """Writes runs of one kind, a key of EXPERIMENTS, to the MLflow records of a home. Methods raise TrackingError."""

    def __init__(self, home: Home, kind: str):
        home.root.mkdir(parents=True, exist_ok=True)
        # Messages like "Creating initial MLflow database tables" are of no use to a user.
        logging.getLogger("mlflow").setLevel(logging.WARNING)
        self._home = home
        # MLflow makes its tables at the first use, and two processes that do so at once break the database for good.
        with FileLock(home.root / "mlflow.lock"):
            self._client = MlflowClient(tracking_uri=home.tracking_uri, registry_uri=home.tracking_uri)
            self.experiment = self._open_experiment(EXPERIMENTS[kind])

    def _open_experiment(self, name: str) -> str:
        """Id of the experiment, which is made if necessary.

        An experiment keeps its artifacts where its home was when it was made, and MLflow cannot change that. In a home
        that was moved since then, the older experiment gets another name, and a new one is made.
        """
        existing = self._client.get_experiment_by_name(name)
        is_local = existing is not None and existing.artifact_location.startswith("file:")
        if existing and is_local and existing.artifact_location != self._home.artifacts:
            self._client.rename_experiment(existing.experiment_id, f"{name} until {time.strftime('%Y-%m-%d %H:%M:%S')}")
            existing = None
        if existing:
            return existing.experiment_id
        return self._client.create_experiment(name, artifact_location=self._home.artifacts)

    def start(self, name: str, parent: str | None = None, tags: dict[str, str] | None = None) -> str:
        """Start a run, inside the run with the id `parent` if given. Returns its id."""
        parent_tag = {"mlflow.parentRunId": parent} if parent else {}
        given = {"owner": identity(), **(tags or {}), **parent_tag}
        all_tags = {name: as_utf8(str(value)) for name, value in given.items()}
        return self._client.create_run(self.experiment, run_name=as_utf8(name), tags=all_tags).info.run_id

    def note(
        self,
        run: str,
        params: dict | None = None,
        metrics: dict[str, float] | None = None,
        tags: dict | None = None,
        step: int = 0,
    ) -> None:
        """Add parameters, metrics and tags to a run. Long texts are cut to the lengths that MLflow accepts.

        A metric that is nan or infinite was not measured. MLflow would store infinity as the largest number, so it is
        left out, and the tag `not_measured` names it.
        """
        now_ms = int(time.time() * 1000)
        metrics, tags = dict(metrics or {}), dict(tags or {})
        if missing := sorted(name for name, value in metrics.items() if not math.isfinite(value)):
            tags["not_measured"] = ", ".join(missing)
            metrics = {name: value for name, value in metrics.items() if name not in missing}
        self._client.log_batch(
            run,
            metrics=[Metric(name, float(value), now_ms, step) for name, value in metrics.items()],
            params=[Param(name, as_utf8(str(value))[:_MAX_PARAM_CHARS]) for name, value in (params or {}).items()],
            tags=[RunTag(name, as_utf8(str(value))[:_MAX_TAG_CHARS]) for name, value in tags.items()],
        )

    def attach(self, run: str, name: str, data: bytes) -> None:
        """Add a file to a run."""
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / name).write_bytes(data)
            self._client.log_artifact(run, str(Path(folder) / name))

    def end(self, run: str, status: str = "FINISHED") -> None:
        """End a run. status: FINISHED, FAILED or KILLED."""
        self._client.set_terminated(run, status)

    def close_orphans(self) -> int:
        """End runs, as KILLED, whose process ran on this machine and has ended. Returns the number of runs."""
        runs = self._client.search_runs([self.experiment], "attributes.status = 'RUNNING'")
        dead = [run for run in runs if is_dead(run.data.tags.get("owner", ""))]
        for run in dead:
            self.end(run.info.run_id, "KILLED")
        return len(dead)

    def register(self, stage: str, folder: Path, run: str, alias: str) -> str:
        """Add a stage's weights in `folder` to the registry as a new version with an alias. Returns the version."""
        name = f"stereotalker-{stage}"
        try:
            self._client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        self._client.log_artifact(run, str(weights_file(stage, folder)), artifact_path="model")
        source = f"{self._client.get_run(run).info.artifact_uri}/model"
        tags = {"sha256": file_digest(weights_file(stage, folder))}
        version = self._client.create_model_version(name, source=source, run_id=run, tags=tags).version
        self._client.set_registered_model_alias(name, alias, version)
        return str(version)

    def promote(self, stage: str, version: str) -> None:
        """Make a version the champion."""
        self._client.set_registered_model_alias(f"stereotalker-{stage}", CHAMPION, version)

    def versions(self, digests: dict[str, str]) -> dict[str, str]:
        """Version of every stage's weights on disk: the champion's if the files are the same, else "unregistered".

        digests: SHA-256 of the weights of every stage.
        """
        versions = {}
        for stage in PRODUCTION_WEIGHTS:
            versions[stage] = "unregistered"
            try:
                champion = self._client.get_model_version_by_alias(f"stereotalker-{stage}", CHAMPION)
            except MlflowException:
                continue  # the stage has no champion
            if champion.tags.get("sha256") == digests[stage]:
                versions[stage] = str(champion.version)
        return versions


class UiServer:
    """A process that serves MLflow's web page. A context manager, which ends it."""

    def __init__(self, process: subprocess.Popen, url: str):
        self._process, self.url = process, url

    def __enter__(self) -> UiServer:
        return self

    def __exit__(self, *error) -> None:
        self._process.terminate()
        self._process.wait()

    def wait(self) -> None:
        """Wait until the process ends, or until Ctrl-C."""
        try:
            self._process.wait()
        except KeyboardInterrupt:
            pass


def open_ui(home: Home) -> UiServer:
    """Start MLflow's web page on the records of a home."""
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", home.tracking_uri]
    command += ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    process = subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
    )
    return UiServer(process, f"http://127.0.0.1:{port}")
