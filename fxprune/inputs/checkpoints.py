"""Checkpoints: named tensors from a file, and into a model. Nothing is unpickled."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from fxprune.errors import InputError

__all__ = ["load_into", "read_state_dict"]

_WRAPPERS = ("state_dict", "model_state_dict", "model", "net")  # how training scripts file a state_dict
_SHOWN = 3  # offending keys that a message names


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """Read the tensors of a checkpoint by name. Pickled code is refused, never run.

    A state_dict filed under ``state_dict``, ``model`` and the like is unwrapped; the ``module.`` that
    DataParallel puts before every name is dropped.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"there is no checkpoint file {str(path)!r}")
    state = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    if state and all(name.startswith("module.") for name in state):
        state = {name.removeprefix("module."): value for name, value in state.items()}
    return state


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        state: dict[str, Tensor] = load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(f"{str(path)!r} is not a readable safetensors file: {error}") from error
    return state


def _read_torch(path: Path) -> dict[str, Tensor]:
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{str(path)!r} holds more than tensors (pickled code is refused) or is damaged: "
            "save it again with torch.save(model.state_dict(), path)"
        ) from error
    except (RuntimeError, OSError, EOFError, ValueError, KeyError, AttributeError) as error:
        first_line = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"{str(path)!r} is not a readable checkpoint: {first_line}") from error
    for key in _WRAPPERS:
        if isinstance(loaded, Mapping) and isinstance(loaded.get(key), Mapping):
            loaded = loaded[key]
            break
    if not isinstance(loaded, Mapping):
        raise InputError(f"{str(path)!r} holds a {type(loaded).__name__}, not a state_dict")
    strange = [
        f"{key!r} is a {type(value).__name__}"
        for key, value in loaded.items()
        if not (isinstance(key, str) and isinstance(value, torch.Tensor))
    ]
    if strange:
        raise InputError(f"{str(path)!r} is not a state_dict of named tensors: {_some(strange)}")
    return dict(loaded)


def load_into(model: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Copy `state` into `model`; every name and shape must match, else nothing is copied.

    Checkpoints from before PyTorch 0.4.1 have no count of the batches that a norm has seen: it stays as it is.
    """
    own = model.state_dict()
    missing = [name for name in own if name not in state and not name.endswith(".num_batches_tracked")]
    unexpected = [name for name in state if name not in own]
    wrong = [
        f"{name} is {tuple(value.shape)}, the model's is {tuple(own[name].shape)}"
        for name, value in state.items()
        if name in own and value.shape != own[name].shape
    ]
    told = [("missing", missing), ("not in the model", unexpected), ("of another shape", wrong)]
    complaints = [f"{len(keys)} {what}: {_some(keys)}" for what, keys in told if keys]
    if complaints:
        raise InputError(
            f"{source} is of another model ({'; '.join(complaints)}); if that was built with other options, "
            "such as a number of classes, build it the same way in a factory of your own: file.py:factory"
        )
    model.load_state_dict({name: state.get(name, value) for name, value in own.items()})


def _some(items: list[str]) -> str:
    return ", ".join(items[:_SHOWN]) + (", ..." if len(items) > _SHOWN else "")
