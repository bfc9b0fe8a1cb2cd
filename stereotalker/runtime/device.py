"""The device that the models use, and their precision."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import nn

Model = TypeVar("Model", bound=nn.Module)


def device() -> str:
    """Device of the mask predictor and the renderer. The other models are small and stay on the CPU."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def autocast(device: str = "cpu") -> torch.autocast:
    """A context that computes in bfloat16 on a GPU, and on a CPU that multiplies bfloat16 natively; else in float32."""
    if device != "cpu":
        return torch.autocast(device, torch.bfloat16)
    has_native_bf16 = torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return torch.autocast("cpu", torch.bfloat16, enabled=has_native_bf16)


def to_channels_last(model: Model, device: str) -> Model:
    """Move a convolutional model to a device, in place, and lay its weights out as that device multiplies them fast."""
    return model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs lack it
