"""Records of batches, trainings and evaluations in MLflow, and the registered model whose versions are releases.

No other module imports MLflow. Only the driver of a batch writes.
"""

from __future__ import annotations

import json
import logging
import math
import os
import sqlite3
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout
from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, Metric, Param, RunTag
from mlflow.exceptions import MlflowException

from stereotalker.production.scene import MAX_PEOPLE
from stereotalker.runtime.home import Home, free_port
from stereotalker.runtime.process_identity import identity, is_dead
from stereotalker.validation import as_utf8

EXPERIMENTS = {
    "batch": "stereotalker-batches",
    "training": "stereotalker-training",
    "evaluation": "stereotalker-evaluation",
}
TrackingError = MlflowException

# Tags that name a clip's person; those of the second person of a scene are avatar.2 and consent.2, and so on.
PERSON_TAGS = ("avatar", "consent")
MODEL = "stereotalker"  # name of the registered model
# Its aliases: the release in production, the newest trained one, and the one that was in production before. Where no
# version has an alias, it is release 0, the package.
CHAMPION, CHALLENGER, PREVIOUS = "champion", "challenger", "previous"

# Characters of a value that MLflow accepts.
_MAX_PARAM_CHARS, _MAX_TAG_CHARS, _MAX_DIGEST_CHARS = 6000, 5000, 36


def person_tag(name: str, number: int) -> str:
    """The tag `name` of a clip's person with this number: avatar, avatar.2, avatar.3, ..."""
    return f"{name}.{number + 1}" if number else name


@dataclass(frozen=True)
class FoundRun:
    """A run that was looked for."""

    id: str
    tags: dict[str, str]
    ended: float  # s since 1970


class Tracker:
    """Writes runs of one kind, a key of EXPERIMENTS, to the MLflow records of a home. Methods raise TrackingError."""

    def __init__(self, home: Home, kind: str):
        self._home, self._kind, self._client = home, kind, _client(home)
        with FileLock(home.root / "mlflow.lock"):  # two processes would make two experiments
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

    def note_inputs(self, run: str, datasets: dict[str, tuple[str, str]]) -> None:
        """Add the data that a run reads: name -> (digest, how to get it)."""
        entities = [
            DatasetInput(Dataset(name, digest[:_MAX_DIGEST_CHARS], "dvc", json.dumps({"get": source})))
            for name, (digest, source) in datasets.items()
        ]
        if entities:
            self._client.log_inputs(run, datasets=entities)

    def find(self, tags: dict[str, str]) -> list[FoundRun]:
        """The finished runs of this kind with these tags, the newest first, also those of a home that was moved.

        Of PERSON_TAGS a run may have several, and one of them must be as wanted. Raises ValueError if a value holds
        both kinds of quotation marks.
        """
        several = next((name for name in PERSON_TAGS if name in tags), None)
        if several is None:
            return self._find(tags)
        others = {name: value for name, value in tags.items() if name != several}
        found = {
            run.id: run
            for number in range(MAX_PEOPLE)
            for run in self._find({**others, person_tag(several, number): tags[several]})
        }
        return sorted(found.values(), key=lambda run: -run.ended)

    def _find(self, tags: dict[str, str]) -> list[FoundRun]:
        wanted = [f"tags.`{name}` = {_quoted(value)}" for name, value in tags.items()]
        query = " and ".join([*wanted, "attributes.status = 'FINISHED'"])
        pattern = f"name LIKE '{EXPERIMENTS[self._kind]}%'"
        experiments = [
            experiment.experiment_id for experiment in self._client.search_experiments(filter_string=pattern)
        ]
        found, token = [], None
        while True:
            page = self._client.search_runs(experiments, query, max_results=1000, page_token=token)
            found += [FoundRun(run.info.run_id, dict(run.data.tags), run.info.end_time / 1000) for run in page]
            if not (token := page.token):
                return found

    def status(self, run: str) -> str:
        """Status of a run; empty if it does not exist."""
        try:
            return self._client.get_run(run).info.status
        except MlflowException:
            return ""

    def attached(self, run: str, name: str) -> bytes | None:
        """A file of a run; None if it does not exist.

        MLflow keeps the address of a run's files as it was when the run began, and the home may have been moved.
        """
        here = self._home.root / "mlflow-artifacts" / run / "artifacts" / name
        if here.is_file():
            return here.read_bytes()
        with tempfile.TemporaryDirectory() as folder:
            try:
                return Path(self._client.download_artifacts(run, name, folder)).read_bytes()
            except (MlflowException, OSError):
                return None

    def tag(self, run: str, name: str, value: str) -> None:
        """Set a tag of a run."""
        self._client.set_tag(run, name, as_utf8(value)[:_MAX_TAG_CHARS])

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


@dataclass(frozen=True)
class ModelVersion:
    """A version of the registered model: one release."""

    number: int
    release: str  # digest
    tags: dict[str, str]


class ModelRegistry:
    """The registered model MODEL in MLflow, whose versions are releases. Methods raise TrackingError."""

    def __init__(self, home: Home):
        self._client = _client(home)

    def create(self, release: str, run: str | None, tags: dict[str, str]) -> int:
        """Add a release and return its number. A release that is there already keeps its number.

        release: its digest; run: id of the run that made it.
        """
        try:
            self._client.create_registered_model(MODEL)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        for version in self.versions():
            if version.release == release:
                return version.number
        all_tags = {name: as_utf8(value)[:_MAX_TAG_CHARS] for name, value in {"release": release, **tags}.items()}
        source = f"stereotalker-release:{release}"
        return int(self._client.create_model_version(MODEL, source, run_id=run, tags=all_tags).version)

    def versions(self) -> list[ModelVersion]:
        """All releases that are registered, the oldest first."""
        found = self._client.search_model_versions(f"name = '{MODEL}'")
        return sorted((_version(version) for version in found), key=lambda version: version.number)

    def at(self, alias: str) -> ModelVersion | None:
        """The release that an alias points to; None if it points to none."""
        try:
            return _version(self._client.get_model_version_by_alias(MODEL, alias))
        except MlflowException as error:
            # MLflow says so if the alias does not exist, and if the model does not.
            if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                return None
            raise

    def point(self, alias: str, number: int) -> None:
        """Let an alias point to a release. To number 0, which MLflow does not hold, no alias points."""
        if number:
            self._client.set_registered_model_alias(MODEL, alias, str(number))
        elif self.at(alias):
            self._client.delete_registered_model_alias(MODEL, alias)

    def tag(self, name: str, value: str) -> None:
        """Set a tag of the model."""
        self._client.set_registered_model_tag(MODEL, name, as_utf8(value)[:_MAX_TAG_CHARS])

    def tags(self) -> dict[str, str]:
        """The tags of the model; empty if there is no model."""
        try:
            return dict(self._client.get_registered_model(MODEL).tags)
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return {}
            raise


def can_write(home: Home) -> bool:
    """Whether nobody is writing to the records of a home at this moment. A server settles that by itself."""
    file = home.root / "mlflow.db"
    if not home.tracking_uri.startswith("sqlite") or not file.is_file():
        return True
    try:
        with FileLock(home.root / "mlflow.lock", timeout=0.5):
            with closing(sqlite3.connect(file, timeout=0.5, isolation_level=None)) as database:
                database.execute("BEGIN IMMEDIATE")
                database.execute("ROLLBACK")
        return True
    except (Timeout, sqlite3.OperationalError):
        return False


def _quoted(value: str) -> str:
    """A value for a query of MLflow, which knows no escapes."""
    if "'" not in value:
        return f"'{value}'"
    if '"' in value:
        raise ValueError(f"{value} holds both kinds of quotation marks, and MLflow cannot look for it")
    return f'"{value}"'


def _version(found) -> ModelVersion:
    return ModelVersion(int(found.version), found.tags.get("release", ""), dict(found.tags))


def _client(home: Home) -> MlflowClient:
    """A client of the records of a home.

    MLflow makes its tables at the first use, and two processes that do so at once break the database for good.
    """
    home.root.mkdir(parents=True, exist_ok=True)
    # Messages like "Creating initial MLflow database tables" are of no use to a user.
    logging.getLogger("mlflow").setLevel(logging.WARNING)
    with FileLock(home.root / "mlflow.lock"):
        client = MlflowClient(tracking_uri=home.tracking_uri, registry_uri=home.tracking_uri)
        client.get_experiment_by_name("Default")
        return client


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
