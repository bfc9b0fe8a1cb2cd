"""The device that the models use, and their precision."""

from __future__ import annotations

import torch


def device() -> str:
    """Device of the mask predictor and the renderer. The other models are small and stay on the CPU."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def autocast(device: str = "cpu") -> torch.autocast:
    """A context that computes in bfloat16 on a GPU, and on a CPU that multiplies bfloat16 natively; else in float32."""
    if device != "cpu":
        return torch.autocast(device, torch.bfloat16)
    has_native_bf16 = torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return torch.autocast("cpu", torch.bfloat16, enabled=has_native_bf16)
