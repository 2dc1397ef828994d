"""Checkpoint: everything that a run needs to continue, in one safetensors file with JSON in its header."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from twotower.core.errors import InputError
from twotower.core.files import replacing_file

FORMAT = 1


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write a nested dict or list of tensors, numbers, texts and None, beside ``path``, then rename."""
    tensors: dict[str, Tensor] = {}
    plain = _split(state, "", tensors)
    with replacing_file(path) as partial:
        save_file(tensors, partial, metadata={"format": str(FORMAT), "state": json.dumps(plain)})


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read what `save_checkpoint` wrote; tensors come back on the CPU.

    Raises:
        InputError: if the file is missing, damaged or of a newer format.
    """
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            if int(header["format"]) > FORMAT:
                raise InputError(f"{path}: checkpoint format {header['format']}, this version reads up to {FORMAT}")
            return _join(json.loads(header["state"]), {name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
    except FileNotFoundError:
        raise InputError(f"{path}: no checkpoint to resume from; train without --resume") from None
    except (SafetensorError, KeyError, json.JSONDecodeError) as error:
        raise InputError(f"{path}: damaged checkpoint ({error}); train again without --resume") from None


def _split(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, Tensor):
        # A clone: safetensors refuses tensors that share memory, and keeps a clean copy of views.
        tensors[name] = value.detach().cpu().clone(memory_format=torch.contiguous_format)
        return {"tensor": name}
    if isinstance(value, dict):
        return {"dict": [[key, _split(part, f"{name}/{key}", tensors)] for key, part in value.items()]}
    if isinstance(value, (list, tuple)):
        return {"list": [_split(part, f"{name}/{place}", tensors) for place, part in enumerate(value)]}
    return {"value": value}


def _join(value: Any, tensors: dict[str, Tensor]) -> Any:
    if "tensor" in value:
        return tensors[value["tensor"]]
    if "dict" in value:
        return {key: _join(part, tensors) for key, part in value["dict"]}
    if "list" in value:
        return [_join(part, tensors) for part in value["list"]]
    return value["value"]
