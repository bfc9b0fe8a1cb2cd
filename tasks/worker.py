"""The render worker, which runs in a process of its own. It imports neither Prefect nor MLflow.

The process imports this module first. So the environment of other libraries is set here, before torch is imported.
"""

from __future__ import annotations

import os
from pathlib import Path

from stereotalker.runtime.environment import set_library_defaults

set_library_defaults()

import torch

from stereotalker.errors import UserError
from stereotalker.models import Models
from stereotalker.params import Params
from stereotalker.production.segments import RenderedSegment, SegmentJob, render_segment
from stereotalker.store.remote import open_store


class RenderWorker:
    """Renders one segment after the other. The models are loaded once."""

    def __init__(self, params: str, weights: str, digests: dict[str, str], store: str, local_store: str):
        """Arguments are plain values, because they are sent over the network.

        params: the parameters as JSON; weights: folder; digests: those of the driver's models; store, local_store: see
        open_store. Raises UserError if the models of this machine have other digests.
        """
        self._models = Models(Params.model_validate_json(params), Path(weights))
        if different := [stage for stage, digest in self._models.digests.items() if digest != digests[stage]]:
            raise UserError(
                f"this machine's models differ from the driver's: {', '.join(different)}; "
                "install the same weights everywhere"
            )
        self._store = open_store(store, Path(local_store))

    def process(self) -> int:
        """Process id of the worker."""
        return os.getpid()

    def render(self, job: SegmentJob) -> RenderedSegment:
        """Render a segment into the store. See segments.render_segment."""
        torch.set_num_threads(self._models.params.produce.worker.threads)
        return render_segment(job, lambda: self._models.renderer, self._store)
