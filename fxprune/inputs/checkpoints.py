"""Checkpoints: named tensors from a file, and into a model. Nothing is unpickled."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from fxprune.errors import InputError, shown

__all__ = ["load_into", "read_state_dict"]

_WRAPPERS = ("state_dict", "model_state_dict", "model", "net")  # how training scripts file a state_dict
_SHOWN = 3  # offending keys that a message names


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """Read the tensors of a checkpoint by name. Pickled code is refused, never run.

    A state_dict filed under ``state_dict``, ``model`` and the like is unwrapped; the ``module.`` that
    DataParallel puts before every name is dropped.

    Raises:
        InputError: there is no such file, or it is no checkpoint, or damaged or hostile.
    """
    if not isinstance(path, (str, Path)):
        raise InputError(f"a checkpoint is named by text or a pathlib.Path, not {shown(path)}")
    path = Path(path)
    if len(str(path)) > 4000 or len(path.name.encode(errors="replace")) > 255:
        raise InputError(f"there is no checkpoint file {shown(str(path))}: the name is too long")
    if path.is_dir():
        raise InputError(f"the checkpoint {str(path)!r} is a folder: name the file in it that holds the weights")
    if not path.is_file():
        raise InputError(f"there is no checkpoint file {str(path)!r}")
    state = _read_safetensors(path) if path.suffix.lower() == ".safetensors" else _read_torch(path)
    if state and all(name.startswith("module.") for name in state):
        state = {name.removeprefix("module."): value for name, value in state.items()}
    return state


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        state: dict[str, Tensor] = load_file(path)
    except Exception as error:  # of SafetensorError, KeyError and more, by where the file is damaged
        raise InputError(
            f"{str(path)!r} is not a readable safetensors file ({_told(error)}): save the weights again with "
            "safetensors.torch.save_file(model.state_dict(), path)"
        ) from error
    return state


def _read_torch(path: Path) -> dict[str, Tensor]:
    again = "save the weights again with torch.save(model.state_dict(), path)"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about formats that are read all the same, or else refused below
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise InputError(f"{str(path)!r} holds more than tensors (pickled code is refused) or is damaged: {again}") from error
    except Exception as error:  # a damaged file can stop the reader at any step of it
        raise InputError(f"{str(path)!r} is not a readable checkpoint ({_told(error)}): {again}") from error
    for key in _WRAPPERS:
        if isinstance(loaded, Mapping) and isinstance(loaded.get(key), Mapping):
            loaded = loaded[key]
            break
    if not isinstance(loaded, Mapping):
        raise InputError(f"{str(path)!r} holds a {type(loaded).__name__}, not a state_dict")
    strange = [f"{key!r} is {_no_weight(key, value)}" for key, value in loaded.items() if _no_weight(key, value)]
    if strange:
        raise InputError(f"{str(path)!r} is not a state_dict of named tensors: {_some(strange)}")
    return dict(loaded)


def _no_weight(key: Any, value: Any) -> str:
    """What an entry of a checkpoint is instead of a named tensor with values; nothing if it is one."""
    if not isinstance(key, str) or not isinstance(value, Tensor):
        return f"a {type(value).__name__}"
    if value.is_meta:
        return "a tensor without values"
    return "" if value.layout is torch.strided else "a sparse tensor"


def _told(error: Exception) -> str:
    """The first line of what a reader says, which is all that a user can act upon."""
    said = (str(error).splitlines() or [""])[0]
    return said if isinstance(error, (RuntimeError, OSError)) and said else f"{type(error).__name__} {said}".rstrip()


def load_into(model: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Copy `state` into `model`; every name and shape must match, else nothing is copied.

    Checkpoints from before PyTorch 0.4.1 have no count of the batches that a norm has seen: it stays as it is.

    Raises:
        InputError: `state` is of another model; `source` names it.
    """
    whole = model.state_dict()  # with what a module keeps beside tensors
    own = {name: value for name, value in whole.items() if isinstance(value, Tensor)}
    missing = [name for name in own if name not in state and not name.endswith(".num_batches_tracked")]
    unexpected = [name for name in state if name not in own]
    wrong = [
        f"{name} is {tuple(value.shape)}, the model's is {tuple(own[name].shape)}"
        for name, value in state.items()
        if name in own and not is_lazy(own[name]) and value.shape != own[name].shape
    ]
    cut = [name for name, value in state.items() if name in own and value.is_complex() and not own[name].is_complex()]
    told = [("missing", missing), ("not in the model", unexpected), ("of another shape", wrong), ("complex, not real", cut)]
    complaints = [f"{len(keys)} {what}: {_some(keys)}" for what, keys in told if keys]
    if complaints:
        raise InputError(
            f"{source} is of another model ({'; '.join(complaints)}); if that was built with other options, "
            "such as a number of classes, build it the same way in a factory of your own: file.py:factory"
        )
    try:
        model.load_state_dict({name: state.get(name, value) for name, value in whole.items()})
    except RuntimeError as error:  # of a kind of tensor that cannot be copied, such as a quantized one
        raise InputError(f"{source} does not fit the model: {' '.join(str(error).split())}") from error


def _some(items: list[str]) -> str:
    return ", ".join(items[:_SHOWN]) + (", ..." if len(items) > _SHOWN else "")
