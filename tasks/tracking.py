"""What is written down about batches, trainings and evaluations. The only file that knows MLflow; the driver alone writes."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException

from stereotalker.models import PRODUCTION_WEIGHTS, weights_file
from stereotalker.runtime.home import Home, free_port
from stereotalker.runtime.process_identity import identity, is_dead
from stereotalker.store.digests import file_digest

EXPERIMENTS = {
    "batch": "stereotalker-batches",
    "training": "stereotalker-training",
    "evaluation": "stereotalker-evaluation",
}
TrackingError = MlflowException
CHAMPION, CHALLENGER = "champion", "challenger"


class Tracker:
    """Runs in MLflow's store of a home."""

    def __init__(self, home: Home, kind: str):
        home.root.mkdir(parents=True, exist_ok=True)
        logging.getLogger("mlflow").setLevel(
            logging.WARNING
        )  # "Creating initial MLflow database tables" says nothing to a user
        self._home = home
        self._client = MlflowClient(tracking_uri=home.tracking_uri, registry_uri=home.tracking_uri)
        name = EXPERIMENTS[kind]
        found = self._client.get_experiment_by_name(name)
        self.experiment = (
            found.experiment_id if found else self._client.create_experiment(name, artifact_location=home.artifacts)
        )

    def start(self, name: str, parent: str | None = None, tags: dict[str, str] | None = None) -> str:
        """A new run; returns its id."""
        extra = {"mlflow.parentRunId": parent} if parent else {}
        own = {"owner": identity(), **(tags or {}), **extra}
        return self._client.create_run(self.experiment, run_name=name, tags=own).info.run_id

    def note(
        self,
        run: str,
        params: dict | None = None,
        metrics: dict[str, float] | None = None,
        tags: dict | None = None,
        step: int = 0,
    ) -> None:
        now = int(time.time() * 1000)
        self._client.log_batch(
            run,
            metrics=[Metric(name, float(value), now, step) for name, value in (metrics or {}).items()],
            params=[Param(name, str(value)[:6000]) for name, value in (params or {}).items()],
            tags=[RunTag(name, str(value)[:5000]) for name, value in (tags or {}).items()],
        )

    def attach(self, run: str, name: str, data: bytes) -> None:
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / name).write_bytes(data)
            self._client.log_artifact(run, str(Path(folder) / name))

    def end(self, run: str, status: str = "FINISHED") -> None:
        """status: FINISHED, FAILED or KILLED."""
        self._client.set_terminated(run, status)

    def close_orphans(self) -> int:
        """Runs whose process on this machine is gone become KILLED, children too. Returns how many."""
        runs = self._client.search_runs([self.experiment], "attributes.status = 'RUNNING'")
        dead = [run for run in runs if is_dead(run.data.tags.get("owner", ""))]
        for run in dead:
            self.end(run.info.run_id, "KILLED")
        return len(dead)

    def register(self, stage: str, folder: Path, run: str, alias: str) -> str:
        """A new version of a stage's weights in the registry, under an alias. Returns the version."""
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
        self._client.set_registered_model_alias(f"stereotalker-{stage}", CHAMPION, version)

    def versions(self, digests: dict[str, str]) -> dict[str, str]:
        """What each stage's weights on disk are called: the champion's version if it is the same file, else "unregistered"."""
        found = {}
        for stage in PRODUCTION_WEIGHTS:
            found[stage] = "unregistered"
            try:
                champion = self._client.get_model_version_by_alias(f"stereotalker-{stage}", CHAMPION)
            except MlflowException:
                continue  # none was ever promoted
            if champion.tags.get("sha256") == digests[stage]:
                found[stage] = str(champion.version)
        return found


class OpenUi:
    """MLflow's page while it is open."""

    def __init__(self, process: subprocess.Popen, url: str):
        self._process, self.url = process, url

    def __enter__(self) -> OpenUi:
        return self

    def __exit__(self, *error) -> None:
        self._process.terminate()
        self._process.wait()

    def wait(self) -> None:
        try:
            self._process.wait()
        except KeyboardInterrupt:
            pass


def open_ui(home: Home) -> OpenUi:
    """Start MLflow's own page on the records of a home."""
    port = free_port()
    command = [
        sys.executable,
        "-m",
        "mlflow",
        "server",
        "--backend-store-uri",
        home.tracking_uri,
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--workers",
        "1",
    ]
    process = subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
    )
    return OpenUi(process, f"http://127.0.0.1:{port}")
