"""Checkpoints: `<stage>.safetensors` files with the model's config in the header.

They are loaded strictly and never unpickled.
"""

from __future__ import annotations

import json
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import TypeVar

import safetensors.torch
import torch
from torch import nn

from stereotalker.errors import Unavailable, UserError
from stereotalker.params import PACKAGE
from stereotalker.records import HEADER
from stereotalker.store.files import write_atomic

FOLDER = PACKAGE / "weights"
# Stages whose weights production loads. They are some of stages.TRAINING_STAGES, which train and save the weights.
PRODUCTION_WEIGHTS = ("audio", "motion", "masks", "render")
Model = TypeVar("Model", bound=nn.Module)


def weights_file(stage: str, folder: Path = FOLDER) -> Path:
    """Path of a stage's weights in `folder`."""
    return folder / f"{stage}.safetensors"


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
    header = {"model": type(model).__name__, "config": asdict(model.config)}
    write_atomic(path, safetensors.torch.save(tensors, metadata={HEADER: json.dumps(header)}))


def load_weights(kind: type[Model], config_type: type, path: Path, data: bytes | None = None) -> Model:
    """Build the model `kind(config_type(...))` and load its tensors from a file. Returns it in evaluation mode.

    The file must contain all tensors of the model but the frozen ones, and no other. data: the bytes of the file, if
    they are read already. Raises UserError if the file is missing, belongs to another class, or its tensors have other
    names or shapes.
    """
    data = read_file(path) if data is None else data
    header = read_header(data)
    if header.get("model") != kind.__name__:
        raise UserError(f"{path}: expected weights of {kind.__name__}, found {header.get('model', 'none')!r}")
    tensors = safetensors.torch.load(data)
    config = config_type(**{k: tuple(v) if isinstance(v, list) else v for k, v in header["config"].items()})
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


def read_file(path: Path) -> bytes:
    """The bytes of a file of weights. Raises Unavailable if it does not exist."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise Unavailable(
            f"{path} cannot be read ({error.strerror}); install the package again, or in a checkout restore the file "
            "or train it with `dvc repro`"
        ) from None


def read_header(data: bytes) -> dict:
    """Class and config of the model in a file of weights."""
    metadata = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")]).get("__metadata__", {})
    if HEADER in metadata:
        return json.loads(metadata[HEADER])
    # Files of older versions hold two entries, whose order changes from save to save.
    return {"model": metadata.get("model"), "config": json.loads(metadata.get("config", "{}"))}


def _is_frozen(model: nn.Module, name: str) -> bool:
    """Whether a tensor is a public weight inside the model, which is loaded from its own source and not saved.

    `model.frozen` lists the beginnings of their names. Adapters (LoRA) on public weights are ours and are saved.
    """
    return name.startswith(getattr(model, "frozen", ()) or ("\0",)) and "lora_" not in name
