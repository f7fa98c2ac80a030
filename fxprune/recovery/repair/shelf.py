"""Keeps values of a walk between two looks at them, in memory up to a limit, beyond it in temporary files."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Container
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx

from fxprune import nested

__all__ = ["Shelf"]

Env = dict[fx.Node, Any]


@dataclass(frozen=True)
class _View:
    """A tensor of a stored environment: which memory it is a view of, and how."""

    storage: int
    dtype: torch.dtype
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


@dataclass
class _Stored:
    """An environment whose memory lies in files; in it, empty tensors on the meta device stand for those of `views`, by id."""

    env: Env
    views: dict[int, _View]
    memory: list[tuple[Tensor, torch.device]]


class Shelf:
    """Environments of any number of walks.

    Tensors that share memory share it afterwards, too: operators that write in place go on as if nothing had happened.

    Args:
        limit: bytes that may stay in memory.
    """

    def __init__(self, limit: float = math.inf) -> None:
        self.limit, self.held = limit, 0.0
        self.stored = 0  # environments that went to files
        self._of: dict[tuple[Any, int], tuple[Env | _Stored, int]] = {}

    def put(self, key: tuple[Any, int], env: Env, own: Container[int] = ()) -> None:
        """Keep an environment; `own`: addresses of the model's tensors, which stay what they are."""
        memory: dict[int, Any] = {}
        for tensor in nested.tensors(list(env.values())):
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in own:
                memory[storage.data_ptr()] = storage
        size = sum(storage.nbytes() for storage in memory.values())
        if self.held + size <= self.limit:
            self.held += size
            self._of[key] = (env, size)
        else:
            self._of[key] = (_store(env, memory), 0)
            self.stored += 1

    def take(self, key: tuple[Any, int]) -> Env:
        """Give an environment back, and keep it no longer."""
        kept, size = self._of.pop(key)
        self.held -= size
        return _load(kept) if isinstance(kept, _Stored) else kept

    def drop(self, walk: Any) -> None:
        """Forget all environments of a walk."""
        for key in [key for key in self._of if key[0] is walk]:
            self.take(key)


def _store(env: Env, memory: dict[int, Any]) -> _Stored:
    place = {address: number for number, address in enumerate(memory)}
    files = [(_in_a_file(storage), storage.device) for storage in memory.values()]

    def viewed(value: Any) -> Any:
        if not isinstance(value, Tensor) or value.untyped_storage().data_ptr() not in place:
            return value
        storage = place[value.untyped_storage().data_ptr()]
        stands = torch.empty(0, device="meta")
        views[id(stands)] = _View(storage, value.dtype, int(value.storage_offset()), tuple(value.shape), value.stride())
        return stands

    views: dict[int, _View] = {}
    return _Stored({node: nested.map(viewed, value) for node, value in env.items()}, views, files)


def _in_a_file(storage: Any) -> Tensor:
    """A copy of memory as bytes in a file that is gone with the tensor."""
    flat = torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage)
    if not flat.numel():
        return flat.cpu()
    with tempfile.TemporaryDirectory(prefix="fxprune-", ignore_cleanup_errors=True) as folder:
        file = torch.from_file(str(Path(folder, "values")), shared=True, size=flat.numel(), dtype=torch.uint8)
        return file.copy_(flat)


def _load(stored: _Stored) -> Env:
    memory = [file.to(device, copy=True).untyped_storage() for file, device in stored.memory]

    def tensor(value: Any) -> Any:
        view = stored.views.get(id(value))
        if view is None:
            return value
        made = torch.empty(0, dtype=view.dtype, device=memory[view.storage].device)
        return made.set_(memory[view.storage], view.offset, view.size, view.stride)

    return {node: nested.map(tensor, value) for node, value in stored.env.items()}
