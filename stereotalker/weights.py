"""Checkpoints: `<stage>.safetensors` files with the model's config in the header.

They are loaded strictly and never unpickled.
"""

from __future__ import annotations

import json
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import TypeVar

import safetensors
import safetensors.torch
import torch
from torch import nn

from stereotalker.errors import UserError
from stereotalker.params import PACKAGE
from stereotalker.store.files import write_atomic

FOLDER = PACKAGE / "weights"
Model = TypeVar("Model", bound=nn.Module)


def save_weights(model: nn.Module, path: Path) -> None:
    """Write a model to a file. Parameters become bfloat16, buffers keep their dtype.

    Frozen public weights are left out (see `_is_frozen`). model.config must be a dataclass.
    """
    tensors = {}
    buffers = dict(model.named_buffers())
    for name, value in model.state_dict().items():
        if _is_frozen(model, name):
            continue
        value = value if name in buffers else value.to(torch.bfloat16)
        tensors[name] = value.contiguous()
    assert is_dataclass(model.config) and not isinstance(model.config, type)
    header = {"config": json.dumps(asdict(model.config)), "model": type(model).__name__}
    write_atomic(path, safetensors.torch.save(tensors, metadata=header))


def load_weights(kind: type[Model], config_type: type, path: Path) -> Model:
    """Build the model `kind(config_type(...))` and load its tensors from a file. Returns it in evaluation mode.

    The file must contain all tensors of the model but the frozen ones, and no other. Raises UserError if the file is
    missing, belongs to another class, or its tensors have other names or shapes.
    """
    if not path.is_file():
        raise UserError(
            f"weights {path} not found; install the package again, or in a checkout restore the file "
            "or train it with `dvc repro`"
        )
    with safetensors.safe_open(path, "pt") as file:
        header = file.metadata() or {}
        if header.get("model") != kind.__name__:
            raise UserError(f"{path}: expected weights of {kind.__name__}, found {header.get('model', 'none')!r}")
        tensors = {name: file.get_tensor(name) for name in file.keys()}
    config = config_type(**{k: tuple(v) if isinstance(v, list) else v for k, v in json.loads(header["config"]).items()})
    model = kind(config)
    state = model.state_dict()
    expected = {name for name in state if not _is_frozen(model, name)}
    difference = sorted(expected ^ set(tensors)) or sorted(n for n in expected if state[n].shape != tensors[n].shape)
    if difference:
        raise UserError(
            f"{path}: tensors do not match {kind.__name__}: {', '.join(difference[:5])}; train the stage again"
        )
    with torch.no_grad():
        for name, tensor in tensors.items():
            state[name].copy_(tensor)
    return model.eval()


def _is_frozen(model: nn.Module, name: str) -> bool:
    """Whether a tensor is a public weight inside the model, which is loaded from its own source and not saved.

    `model.frozen` lists the beginnings of their names. Adapters (LoRA) on public weights are ours and are saved.
    """
    return name.startswith(getattr(model, "frozen", ()) or ("\0",)) and "lora_" not in name
