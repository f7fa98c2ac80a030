"""All of a run in one safetensors file: weights, optimizer, moving average, and as JSON where it stands. Nothing is pickled.

One file, so that a killed process leaves a whole checkpoint: the last one, or the one before it. Random generators have no
state in it: what is drawn follows from the seed and the step (`fxprune.recovery.finetune.chance`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from fxprune.errors import InputError, said, shown
from fxprune.inputs.acceptance import some
from fxprune.recovery.finetune.files import replaced
from fxprune.state import named_tensors

__all__ = ["digest", "fill", "load_optimizer", "optimizer_tensors", "read", "write"]

_KEY = "fxprune.finetune"
_VERSION = 1


def digest(model: nn.Module | None) -> str | None:
    """A few letters that stand for the names, shapes and values of a model's tensors."""
    if model is None:
        return None
    sums = hashlib.blake2b(digest_size=12)
    for name, tensor in named_tensors(model, once=True).items():
        sums.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        sums.update(flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b"")
    return sums.hexdigest()


def write(path: Path, tensors: Mapping[str, Mapping[str, Tensor]], document: Mapping[str, Any]) -> None:
    """Write a checkpoint; the one that is there stays until the new one is whole.

    Args:
        tensors: by part (``model``, ``ema``, ``optimizer``, ``sparsity``) and name.
        document: JSON.

    Raises:
        PruneError: the disk refuses.
    """
    flat = {f"{part}.{n}": t.detach().cpu().contiguous().clone() for part, named in tensors.items() for n, t in named.items()}
    text = json.dumps({"version": _VERSION, **document}, allow_nan=False)
    replaced(path, lambda where: save_file(flat, where, metadata={_KEY: text}))


def read(path: Path) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    """The tensors of a checkpoint by part and name, and its document.

    Raises:
        InputError: it is damaged, or something else.
    """
    parts: dict[str, dict[str, Tensor]] = {"model": {}, "ema": {}, "optimizer": {}, "sparsity": {}}
    try:
        with safe_open(path, "pt") as file:
            document = json.loads((file.metadata() or {})[_KEY])
            for name in file.keys():  # noqa: SIM118  # not a mapping
                part, _, rest = name.partition(".")
                parts[part][rest] = file.get_tensor(name).clone()  # where PyTorch would lay it
        if document["version"] != _VERSION:
            raise InputError(
                f"{str(path)!r} is a checkpoint of version {shown(document['version'])}, and this one reads {_VERSION}"
            )
    except InputError:
        raise
    except Exception as error:  # of SafetensorError, KeyError and more, by where the file is damaged
        raise InputError(
            f"{str(path)!r} is no readable checkpoint of finetune ({type(error).__name__}: {said(error)}): remove it to begin "
            "anew"
        ) from error
    return parts, document


def fill(model: nn.Module, tensors: Mapping[str, Tensor], source: str) -> None:
    """Give a model the values of tensors by name: parameters and all buffers, those that a state_dict leaves out included.

    Raises:
        InputError: they are of another model; nothing is changed.
    """
    own = named_tensors(model, once=True)
    wrong = [n for n in own.keys() | tensors.keys() if n not in own or n not in tensors or own[n].shape != tensors[n].shape]
    if wrong:
        raise InputError(f"{source} is of another model: {some(sorted(wrong))} differ")
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(tensors[name])


def optimizer_tensors(optimizer: torch.optim.Optimizer, names: Mapping[int, str]) -> dict[str, Tensor]:
    """The state of an optimizer by ``parameter name:key``. All that SGD and AdamW keep are tensors.

    Args:
        names: of parameters, by id.
    """
    found = {}
    for parameter, state in optimizer.state.items():
        for key, value in state.items():
            if isinstance(value, Tensor):
                found[f"{names[id(parameter)]}:{key}"] = value
    return found


def load_optimizer(optimizer: torch.optim.Optimizer, names: Mapping[int, str], stored: Mapping[str, Tensor]) -> None:
    """Give an optimizer the state that `optimizer_tensors` made.

    Raises:
        InputError: it is of another model.
    """
    states: dict[int, dict[str, Tensor]] = {}
    numbers = {names[id(p)]: i for i, p in enumerate(p for g in optimizer.param_groups for p in g["params"])}
    for name, tensor in stored.items():
        parameter, _, key = name.rpartition(":")
        if parameter not in numbers:
            raise InputError(f"the checkpoint has a state for {shown(parameter)}, which the model does not train")
        states.setdefault(numbers[parameter], {})[key] = tensor
    optimizer.load_state_dict({"state": states, "param_groups": optimizer.state_dict()["param_groups"]})
