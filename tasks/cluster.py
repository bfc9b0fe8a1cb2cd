"""Ray actors that hold the renderer, one for each slot of the pool. No other module imports Ray."""

from __future__ import annotations

import logging
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import ray
from ray import exceptions

from stereotalker.errors import Unavailable, WorkerLost
from stereotalker.models import Models
from stereotalker.params import WorkerParams
from stereotalker.production.segments import RenderedSegment, SegmentJob
from stereotalker.store.code import library_versions
from stereotalker.tasks.worker import RenderWorker, versions_of

_OBJECT_STORE_BYTES = 200 * 1024**2  # enough, because only small jobs are sent

# Errors after which the worker is gone.
_LOST = (
    exceptions.RayActorError,
    exceptions.ActorUnavailableError,
    exceptions.NodeDiedError,
    exceptions.WorkerCrashedError,
    exceptions.OutOfMemoryError,
)


class Cluster:
    """A connection to the Ray cluster at an address, or else to one that is started here. The `slots` share it.

    Raises Unavailable if no cluster answers, or if a worker does not fit on this machine.
    """

    def __init__(self, models: Models, workers: int, store: str, local_store: Path):
        rules = models.params.produce.worker
        address = rules.cluster
        self._was_initialized = ray.is_initialized()
        if not self._was_initialized:
            local_options: dict[str, Any] = {
                "num_cpus": workers * rules.threads,
                "object_store_memory": _OBJECT_STORE_BYTES,
                "include_dashboard": False,
            }
            try:
                ray.init(
                    address=address,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                    **({} if address else local_options),
                )
            except (ConnectionError, ValueError) as error:
                raise Unavailable(
                    f"no Ray cluster answers at {address}: {error}; "
                    "start one with `ray start --head`, or leave --ray-address out"
                ) from None
        _check_resources(rules, address)
        versions = versions_of(models, library_versions())
        self.slots = [ActorSlot(models, versions, store, local_store) for _ in range(workers)]

    def close(self) -> None:
        """End the connection, unless somebody else had made it before."""
        if not self._was_initialized:
            ray.shutdown()


class ActorSlot:
    """One actor, with one call at a time. It is started by `prepare` or the first job, and killed by `rest`.

    See pool.Slot.
    """

    def __init__(self, models: Models, versions: dict[str, str], store: str, local_store: Path):
        self._rules = models.params.produce.worker
        release = models.release, models.store, str(local_store.with_name("models"))
        weights = str(models.folder)
        self._arguments = (models.params.model_dump_json(), weights, release, versions, store, str(local_store))
        self._actor = None

    def prepare(self) -> None:
        """Start the actor, and let it load its models. An error comes again, and is raised, at the first job."""
        with suppress(Exception):
            self._ready().load.remote()

    def run(self, job: SegmentJob) -> RenderedSegment:
        """Render a job. Raises WorkerLost if the actor dies or cannot start, TimeoutError if the job takes too long."""
        actor = self._ready()
        try:
            return ray.get(actor.render.remote(job), timeout=self._rules.segment_timeout)
        except _LOST as error:
            self.rest()
            raise WorkerLost(_first_line(error), node_was_lost=_is_node_lost(error)) from None
        except exceptions.GetTimeoutError:
            self.rest()
            limit = self._rules.segment_timeout
            raise TimeoutError(
                f"frames {job.window.start}-{job.window.stop} took longer than {limit:g} s; "
                "raise produce.worker.segment_timeout"
            ) from None
        except exceptions.RayTaskError as error:
            raise _cause(error) from None

    def rest(self) -> None:
        """Kill the actor, so that its memory is free."""
        if self._actor is not None:
            ray.kill(self._actor)
            self._actor = None

    @property
    def process(self) -> int | None:
        """Process id of the worker; None if there is no worker."""
        return ray.get(self._actor.process.remote()) if self._actor is not None else None

    def _ready(self):
        """The actor, which is started if there is none."""
        self._actor = self._actor or self._start()
        return self._actor

    def _start(self):
        """Start an actor and wait until it is ready."""
        rules = self._rules
        options = {"num_cpus": rules.threads, "num_gpus": rules.gpus, "max_restarts": 0, "max_task_retries": 0}
        actor = ray.remote(**options)(RenderWorker).remote(*self._arguments)
        try:
            ray.get(actor.process.remote(), timeout=rules.start_timeout)
        except exceptions.GetTimeoutError:
            ray.kill(actor)
            raise WorkerLost(
                f"no worker with {rules.threads} CPUs and {rules.gpus:g} GPUs was ready in {rules.start_timeout:g} s",
                node_was_lost=True,
            ) from None
        except _LOST as error:
            if getattr(error, "actor_init_failed", False):  # the worker's constructor raised, and would raise again
                raise Unavailable(f"a worker could not start: {str(error).strip().splitlines()[-1]}") from None
            raise WorkerLost(_first_line(error), node_was_lost=True) from None
        except exceptions.RayTaskError as error:
            raise _cause(error) from None
        return actor


def _check_resources(rules: WorkerParams, address: str | None) -> None:
    """Raise Unavailable if no node has room for a worker. With a cluster it is a note, because clusters may grow."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if any(node.get("CPU", 0) >= rules.threads and node.get("GPU", 0) >= rules.gpus for node in nodes):
        return
    available = "; ".join(f"{node.get('CPU', 0):g} CPUs, {node.get('GPU', 0):g} GPUs" for node in nodes)
    reason = f"a worker needs {rules.threads} CPUs and {rules.gpus:g} GPUs, the nodes have {available}"
    if address is None:
        ray.shutdown()
        raise Unavailable(f"{reason}; lower --threads or --gpus")
    print(f"note: {reason}; waiting for a larger node", file=sys.stderr)


def _is_node_lost(error: BaseException) -> bool:
    """Whether the whole node was lost. Some errors of Ray say so in their text only."""
    return (
        isinstance(error, exceptions.NodeDiedError | exceptions.ActorUnavailableError)
        or "node" in str(error).lower()
        and "died" in str(error).lower()
    )


def _cause(error: exceptions.RayTaskError) -> BaseException:
    """The worker's own error, with the worker's traceback as a note, which the clip's log shows.

    Ray could not send an error that cannot be pickled; then only its text is left.
    """
    cause = error.cause if isinstance(error.cause, BaseException) else RuntimeError(str(error))
    cause.add_note(f"In the worker:\n{error.traceback_str}")
    return cause


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
