"""The device that the models use, and their precision."""

from __future__ import annotations

from copy import deepcopy
from typing import TypeVar

import torch
from torch import nn

from stereotalker.errors import Unavailable

Model = TypeVar("Model", bound=nn.Module)


def training_device() -> str:
    """Device on which models are trained: the GPU, if this machine has one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def check_device(device: str) -> str:
    """The device itself, "cuda" or "cpu". Raises Unavailable if this process has no such device."""
    if device == "cuda" and not torch.cuda.is_available():
        raise Unavailable("produce.worker.gpus asks for a GPU, but torch finds none here; set it to 0")
    return device


def arithmetic(device: str) -> str:
    """The device and the precision that `autocast` computes in on it, as store keys hold them."""
    return f"{device} {'bfloat16' if _computes_in_bf16(device) else 'float32'}"


def autocast(device: str = "cpu") -> torch.autocast:
    """A context that computes in bfloat16 on a GPU, and on a CPU that multiplies bfloat16 natively; else in float32."""
    return torch.autocast(device, torch.bfloat16, enabled=_computes_in_bf16(device))


def _computes_in_bf16(device: str) -> bool:
    return device != "cpu" or _has_native_bf16()


def _has_native_bf16() -> bool:
    return torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def to_channels_last(model: Model, device: str) -> Model:
    """Move a convolutional model to a device, in place, and lay its weights out as that device multiplies them fast."""
    return model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs lack it


def inference_copy(model: Model, device: str) -> Model:
    """A copy of a model on a device, in evaluation mode and ready to compute fast there.

    Weights that `autocast` converts at every call are converted once. A module with `computes_in_float32` keeps its
    own.
    """
    copy = to_channels_last(deepcopy(model).eval(), device).requires_grad_(False)
    if _computes_in_bf16(device):
        _convert(copy)
    return copy


def _convert(module: nn.Module) -> None:
    """Convert convolutions and linear layers to bfloat16, in place."""
    if isinstance(module, (nn.Conv2d, nn.Linear)):
        module.to(torch.bfloat16)
    for child in module.children():
        if not getattr(child, "computes_in_float32", False):
            _convert(child)
