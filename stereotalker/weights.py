"""Weights on disk: `<stage>.safetensors` with the model's config in its header. Loaded strictly, never unpickled."""

from __future__ import annotations

import json
from dataclasses import asdict
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
    """Write a model in bfloat16 (buffers as they are), without what comes from elsewhere (see `_is_frozen`)."""
    tensors = {}
    buffers = dict(model.named_buffers())
    for name, value in model.state_dict().items():
        if _is_frozen(model, name):
            continue
        value = value if name in buffers else value.to(torch.bfloat16)
        tensors[name] = value.contiguous()
    header = {"config": json.dumps(asdict(model.config)), "model": type(model).__name__}
    write_atomic(path, safetensors.torch.save(tensors, metadata=header))


def load_weights(kind: type[Model], config_type: type, path: Path) -> Model:
    """Build `kind(config)` from a file and fill it; every parameter must be there but the frozen ones, and no other."""
    if not path.is_file():
        raise UserError(f"weights {path} not found; run `dvc repro` to train them, or restore the repository's file")
    with safetensors.safe_open(path, "pt") as file:
        header = file.metadata() or {}
        if header.get("model") != kind.__name__:
            raise UserError(f"{path}: expected weights of {kind.__name__}, found {header.get('model', 'none')!r}")
        tensors = {name: file.get_tensor(name) for name in file.keys()}
    config = config_type(**{k: tuple(v) if isinstance(v, list) else v for k, v in json.loads(header["config"]).items()})
    model = kind(config)
    own = model.state_dict()
    wanted = {name for name in own if not _is_frozen(model, name)}
    difference = sorted(wanted ^ set(tensors)) or sorted(n for n in wanted if own[n].shape != tensors[n].shape)
    if difference:
        raise UserError(
            f"{path}: tensors do not match {kind.__name__}: {', '.join(difference[:5])}; train the stage again"
        )
    with torch.no_grad():
        for name, tensor in tensors.items():
            own[name].copy_(tensor)
    return model.eval()


def _is_frozen(model: nn.Module, name: str) -> bool:
    """Public weights inside a model, which its `frozen` names by their beginnings, come from their own source; adapters on them are ours."""
    return name.startswith(getattr(model, "frozen", ()) or ("\0",)) and "lora_" not in name
