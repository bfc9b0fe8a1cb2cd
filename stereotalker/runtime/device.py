"""Which device the models use, and in which precision."""

from __future__ import annotations

import torch


def device() -> str:
    """Where masks and renderer are trained and run; the other models are small and stay on the processor."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def autocast(device: str = "cpu") -> torch.autocast:
    """bf16 on a GPU, and where the processor multiplies it natively; else full precision."""
    if device != "cpu":
        return torch.autocast(device, torch.bfloat16)
    return torch.autocast(
        "cpu",
        torch.bfloat16,
        enabled=torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported(),
    )
