"""The render worker, which runs in a process of its own. It imports neither Prefect nor MLflow.

The process imports this module first. So the environment of other libraries is set here, before torch is imported.
"""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterable
from pathlib import Path

from stereotalker.runtime.environment import set_library_defaults

set_library_defaults()

import torch

from stereotalker.errors import Unavailable
from stereotalker.models import Models
from stereotalker.params import Params
from stereotalker.production.segments import RenderedSegment, SegmentJob, render_segment
from stereotalker.releases.model_store import ModelStore
from stereotalker.store.code import installed_version, package_digest
from stereotalker.store.remote import open_store


def versions_of(models: Models, libraries: Iterable[str]) -> dict[str, str]:
    """What driver and workers must have in common: code, Python, arithmetic, models, and installed distributions.

    libraries: names of the distributions. Other names of the result may be among them.
    """
    installed = {name: installed_version(name) for name in libraries}
    python = f"{platform.python_implementation()} {sys.version_info.major}.{sys.version_info.minor}"
    own = {"code": package_digest(), "python": python, "arithmetic": models.arithmetic}
    return installed | own | models.digests


ReleasePlace = tuple[str, str, str]  # digest of a release, the store in which it lies or "", folder for local copies


class RenderWorker:
    """Renders one segment after the other. The models are loaded once."""

    def __init__(
        self, params: str, weights: str, release: ReleasePlace, versions: dict[str, str], store: str, local_store: str
    ):
        """Arguments are plain values, because they are sent over the network.

        params: the parameters as JSON; weights: folder, which is used if `release` names no store; versions: those of
        the driver, see `versions_of`; store, local_store: see open_store. Raises Unavailable if this machine would
        compute something else than the driver.
        """
        digest, models, local_models = release
        folder = ModelStore(models, Path(local_models)).checkout(digest) if models else Path(weights)
        self._models = Models(Params.model_validate_json(params), folder)
        own = versions_of(self._models, versions)
        if different := [name for name in versions if own.get(name) != versions[name]]:
            raise Unavailable(
                f"this machine's {', '.join(different)} differ from the driver's; install the same package, libraries "
                "and weights everywhere"
            )
        self._store = open_store(store, Path(local_store))

    def process(self) -> int:
        """Process id of the worker."""
        return os.getpid()

    def load(self) -> None:
        """Load the models before the first segment needs them."""
        self._models.renderer  # noqa: B018

    def render(self, job: SegmentJob) -> RenderedSegment:
        """Render a segment into the store. See segments.render_segment."""
        torch.set_num_threads(self._models.params.produce.worker.threads)
        return render_segment(job, lambda: self._models.renderer, self._store)
