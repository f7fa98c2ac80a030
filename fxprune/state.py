"""What is done to a module's tensors: names, ties, slices, copies, replacement."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from fxprune.rebinding import rebind

__all__ = [
    "clone_tensors",
    "copied",
    "deep_copy",
    "meta_copies",
    "named_parts",
    "named_tensors",
    "place_of",
    "replace_tensors",
    "set_modes",
    "shallow_copy",
    "sliced",
    "tensor_names",
    "ties",
]

Module = TypeVar("Module", bound=nn.Module)


def named_parts(module: nn.Module, once: bool = False) -> list[tuple[str, nn.Module]]:
    """What `nn.Module.named_modules` yields, several times as fast: it nests a generator for each level.

    Args:
        once: each module under its first name only.
    """
    found: list[tuple[str, nn.Module]] = []
    seen: set[int] = set()

    def visit(part: nn.Module, name: str) -> None:
        if once:
            if id(part) in seen:
                return
            seen.add(id(part))
        found.append((name, part))
        prefix = f"{name}." if name else ""
        for key, child in part._modules.items():
            if child is not None:
                visit(child, prefix + key)

    visit(module, "")
    return found


def named_tensors(module: nn.Module, once: bool = False) -> dict[str, Tensor]:
    """Parameters, then buffers, under every name that they have.

    Args:
        once: each under its first name only.
    """
    parts = named_parts(module, once)
    found: dict[str, Tensor] = {}
    for table in ("_parameters", "_buffers"):
        seen: set[int] = set()
        for name, part in parts:
            for key, tensor in part.__dict__[table].items():
                if tensor is None or (once and id(tensor) in seen):
                    continue
                seen.add(id(tensor))
                found[f"{name}.{key}" if name else key] = tensor
    return found


def set_modes(parts: Iterable[tuple[nn.Module, bool]]) -> None:
    """Put modules into training or evaluation one by one, past `nn.Module.__setattr__`, which takes its time."""
    for part, training in parts:
        part.__dict__["training"] = training


def tensor_names(module: nn.Module) -> dict[int, str]:
    """``id(tensor) -> name`` of parameters and buffers; a tied tensor has its first name."""
    names: dict[int, str] = {}
    for name, tensor in named_tensors(module).items():
        names.setdefault(id(tensor), name)
    return names


def ties(module: nn.Module) -> dict[str, str]:
    """Second names of tied tensors -> the first."""
    first: dict[int, str] = {}
    return {n: first[id(t)] for n, t in named_tensors(module).items() if first.setdefault(id(t), n) != n}


def place_of(module: nn.Module) -> tuple[torch.device, torch.dtype]:
    """Device and dtype of the first floating-point tensor; the CPU and float32 where there is none."""
    found = next((t for t in (*module.parameters(), *module.buffers()) if t.is_floating_point()), None)
    return (torch.device("cpu"), torch.float32) if found is None else (found.device, found.dtype)


def sliced(tensor: Tensor, kept: Mapping[int, np.ndarray]) -> Tensor:
    """A copy of a tensor with only the kept entries of some axes.

    >>> sliced(torch.arange(6).reshape(2, 3), {1: np.array([0, 2])})
    tensor([[0, 2],
            [3, 5]])
    """
    data = tensor.detach()
    # The axis that loses most goes first: the copies in between stay small.
    for axis, indices in sorted(kept.items(), key=lambda item: len(item[1]) / tensor.shape[item[0]]):
        data = data.index_select(axis, torch.from_numpy(np.ascontiguousarray(indices)).to(data.device))
    if not kept:
        return data.clone()
    last = tensor.dim() == 4 and not tensor.is_contiguous() and tensor.is_contiguous(memory_format=torch.channels_last)
    return data.contiguous(memory_format=torch.channels_last) if last else data


def copied(tensor: Tensor, data: Tensor) -> Tensor:
    """`data` as a tensor of the kind of `tensor`: a parameter stays a parameter, with its requires_grad."""
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(data, requires_grad=tensor.requires_grad)
    return data


def replace_tensors(module: nn.Module, new: Mapping[int, Tensor]) -> None:
    """Put ``new[id(tensor)]`` in the place of each parameter and buffer, ties included."""
    for _, part in named_parts(module, once=True):
        for table in (part._parameters, part._buffers):
            for name, tensor in table.items():
                if tensor is not None and id(tensor) in new:
                    table[name] = new[id(tensor)]  # type: ignore[assignment]


def clone_tensors(module: nn.Module) -> None:
    """Give a module tensors of its own."""
    tensors = {id(t): t for t in (*module.parameters(), *module.buffers())}
    with torch.no_grad():
        replace_tensors(module, {key: copied(t, t.detach().clone()) for key, t in tensors.items()})


@contextmanager
def meta_copies(module: nn.Module) -> Iterator[None]:
    """Inside, every tensor of the module is on the meta device; afterwards they are what they were."""
    tables = [table for part in module.modules() for table in (part._parameters, part._buffers)]
    before = [dict(table) for table in tables]
    copies = {id(t): copied(t, torch.empty_like(t, device="meta")) for t in (*module.parameters(), *module.buffers())}
    replace_tensors(module, copies)
    try:
        yield
    finally:
        for table, old in zip(tables, before, strict=True):
            table.update(old)  # type: ignore[arg-type]


def deep_copy(module: Module, memo: dict[int, Any] | None = None) -> Module:
    """`copy.deepcopy` of a module whose functions reach the copy (`fxprune.rebinding`), even where one of its attributes is
    a tensor that was computed (a masked weight), which PyTorch does not copy.
    """
    memo = {} if memo is None else memo
    for part in module.modules():
        for value in part.__dict__.values():
            if isinstance(value, Tensor) and not value.is_leaf:
                memo.setdefault(id(value), value.detach().clone())
    made = copy.deepcopy(module, memo)
    rebind(made.modules(), memo)
    return made


def shallow_copy(module: Module) -> Module:
    """A copy of the modules over the same tensors."""
    tensors = (*module.parameters(), *module.buffers())
    return deep_copy(module, {id(t): t for t in tensors})
