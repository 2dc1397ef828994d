"""Checkpoint: everything that a run needs to continue, in one safetensors file with JSON in its header."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from twotower.core.errors import InputError, cut, shown
from twotower.core.files import replacing_file

FORMAT = 2
"""2: the header holds a hash of all the rest; 1: none."""


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write a nested dict or list of tensors, numbers, texts and None, beside ``path``, then rename."""
    tensors: dict[str, Tensor] = {}
    plain = json.dumps(_split(state, "", tensors))
    header = {"format": str(FORMAT), "state": plain, "digest": _digest(str(FORMAT), plain, tensors)}
    with replacing_file(path) as partial:
        save_file(tensors, partial, metadata=header)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read what `save_checkpoint` wrote; tensors come back on the CPU.

    Raises:
        InputError: if the file is missing, damaged (down to a byte) or of a newer format.
    """
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            form, plain = header["format"], header["state"]
            if int(form) > FORMAT:
                raise InputError(f"{path}: checkpoint format {shown(form)[1:-1]}, this version reads up to {FORMAT}")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if (form != "1" or "digest" in header) and header["digest"] != _digest(form, plain, tensors):
            raise ValueError("a byte was changed after it was written")
        # Copies, since what is read is mapped, and Windows replaces no file that is.
        return _join(json.loads(plain), {name: tensor.clone() for name, tensor in tensors.items()})
    except FileNotFoundError:
        raise InputError(f"{path}: no checkpoint to resume from; train without --resume") from None
    except InputError:
        raise
    except Exception as error:  # what is read from a changed header raises what it likes
        why = cut(str(error), 160)
        raise InputError(f"{path}: damaged checkpoint ({why}); train again without --resume") from None


def _digest(form: str, plain: str, tensors: dict[str, Tensor]) -> str:
    """The SHA-256 of format, state and every tensor's name, type, shape and bytes."""
    summed = hashlib.sha256(json.dumps([form, plain]).encode())
    for name, tensor in sorted(tensors.items()):
        summed.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        summed.update(tensor.contiguous().flatten().view(torch.uint8).numpy().data)
    return summed.hexdigest()


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
