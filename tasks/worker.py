"""What a render worker runs in a process of its own. It imports neither Prefect nor MLflow.

The process imports this module first, so the settings of other libraries are made here, before torch is imported.
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
    """Holds the models, loaded once, and renders one segment after the other."""

    def __init__(self, params: str, weights: str, digests: dict[str, str], store: str, local_store: str):
        """params: as JSON; digests: of the driver's models, which must be the same here. Raises UserError if not."""
        self._models = Models(Params.model_validate_json(params), Path(weights))
        if other := [stage for stage, digest in self._models.digests.items() if digest != digests[stage]]:
            raise UserError(
                f"this machine's models differ from the driver's: {', '.join(other)}; "
                "install the same weights everywhere"
            )
        self._store = open_store(store, Path(local_store))

    def process(self) -> int:
        """The id of this process."""
        return os.getpid()

    def render(self, job: SegmentJob) -> RenderedSegment:
        """See `render_segment`."""
        torch.set_num_threads(self._models.params.produce.worker.threads)
        return render_segment(job, lambda: self._models.renderer, self._store)
