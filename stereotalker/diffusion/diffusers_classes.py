"""The classes of the diffusers library that our models are made of, imported without parts that none of them uses.

diffusers 0.42 imports accelerate, peft, transformers and torch._dynamo with the first class of a UNet. That takes
several times as long as the class itself, and every render worker would wait for it at its start. All of them are
optional: diffusers looks whether they are installed, and does without if they are not. So they are hidden while it is
imported.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

_OPTIONAL = ("accelerate", "peft", "transformers", "torch._dynamo")


@contextmanager
def _hidden(names: tuple[str, ...]) -> Iterator[None]:
    """Let imports of modules fail inside the block, as if they were not installed. Modules in use stay as they are.

    That holds for all threads, so the block must be short, and must run when this module is imported.

    torch.compiler.disable would import torch._dynamo, to keep a function from being compiled. Nothing is compiled here,
    so it leaves the function as it is.
    """
    absent: dict[str, Any] = {name: None for name in names if name not in sys.modules}
    disable = torch.compiler.disable
    sys.modules.update(absent)
    if "torch._dynamo" in absent:
        torch.compiler.disable = lambda fn=None, *_, **__: fn if fn is not None else lambda function: function
    try:
        yield
    finally:
        torch.compiler.disable = disable
        for name in absent:
            sys.modules.pop(name, None)


with _hidden(_OPTIONAL):
    from diffusers import DDIMScheduler, DPMSolverMultistepScheduler
    from diffusers.models import AutoencoderKL, UNet2DConditionModel, UNet2DModel
    from diffusers.models.attention import BasicTransformerBlock, FeedForward
    from diffusers.models.attention_processor import Attention, AttnProcessor
    from diffusers.models.resnet import ResnetBlock2D

__all__ = [
    "Attention",
    "AttnProcessor",
    "AutoencoderKL",
    "BasicTransformerBlock",
    "DDIMScheduler",
    "DPMSolverMultistepScheduler",
    "FeedForward",
    "ResnetBlock2D",
    "UNet2DConditionModel",
    "UNet2DModel",
]
