"""Example inputs: given by the user or inferred; only their shapes, dtypes and structure matter."""

from __future__ import annotations

from collections import OrderedDict, namedtuple
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from fxprune import nested
from fxprune.errors import InputError, PlanMismatch, shown
from fxprune.inputs.acceptance import check_model
from fxprune.inputs.sizes import infer_example_inputs

__all__ = ["describe", "example_of", "own_copy", "random_like", "settle_inputs"]

_DEPTH = 32  # levels of lists and dicts
_MOST_BYTES = 1 << 34  # of random inputs


def settle_inputs(model: nn.Module, example_inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and keyword inputs from what a user gave: a tensor, a sequence or a mapping; else inferred."""
    check_model(model)
    if example_inputs is None:
        found = infer_example_inputs(model)
        if found is None:
            raise InputError(
                f"example_inputs cannot be inferred for {type(model).__name__}: pass a tensor (or a tuple of inputs, or "
                "a dict of keyword inputs) of the shape that the model takes; in a shell, --input-size 3x224x224"
            )
        return tuple(found), {}
    if _deep(example_inputs):
        raise InputError("example_inputs are nested too deeply, or hold themselves: pass what the model's forward takes")
    if isinstance(example_inputs, Tensor):
        _check(example_inputs)
        return (example_inputs,), {}
    if isinstance(example_inputs, Mapping):
        _check(example_inputs)
        return (), dict(example_inputs)
    if isinstance(example_inputs, Sequence) and not isinstance(example_inputs, (str, bytes)):
        _check(example_inputs)
        return tuple(example_inputs), {}
    raise InputError(
        f"example_inputs must be a tensor, a tuple of inputs or a dict of keyword inputs, not {type(example_inputs).__name__}"
    )


def _deep(value: Any, left: int = _DEPTH) -> bool:
    """Whether lists and dicts are nested so deeply that walking over them could end in a RecursionError."""
    if isinstance(value, (list, tuple, Mapping)):
        parts = value.values() if isinstance(value, Mapping) else value
        return left == 0 or any(_deep(part, left - 1) for part in parts)
    return False


def _check(value: Any) -> None:
    tensors = nested.tensors(value)
    if not tensors:
        raise InputError("example_inputs holds no tensor: pass what the model's forward takes")
    if strange := [t for t in tensors if t.is_quantized or t.layout is not torch.strided]:
        kind = "quantized" if strange[0].is_quantized else "sparse"
        raise InputError(f"example_inputs hold a {kind} tensor: pass plain ones, of which only shape and dtype count")
    if not any(t.numel() for t in tensors):
        raise InputError("example_inputs hold no values, only tensors of size 0: pass a batch of one sample or more")


def random_like(value: Any, device: torch.device, dtype: torch.dtype | None, seed: int = 0) -> Any:
    """Nested inputs with every tensor replaced by random values of its shape (normal; small integers; bools)."""
    generator = torch.Generator().manual_seed(seed)
    needed = sum(v.numel() * max(v.itemsize, 0 if dtype is None else dtype.itemsize) for v in nested.tensors(value))
    if needed > _MOST_BYTES:
        raise InputError(f"the example inputs take {needed / 1e9:,.0f} GB, too much to run the model on: pass smaller ones")

    def make(v: Any) -> Any:
        if isinstance(v, Tensor):
            if v.is_floating_point():
                return torch.randn(v.shape, generator=generator).to(device, dtype or v.dtype)
            if v.dtype is torch.bool:
                return (torch.rand(v.shape, generator=generator) > 0.5).to(device)
            return torch.randint(0, 2, v.shape, generator=generator).to(device, v.dtype)
        return v

    return nested.map(make, value)


def own_copy(value: Any) -> Any:
    """Inputs that a model may write into."""
    return nested.map(lambda v: v.clone() if isinstance(v, Tensor) else v, value)


def describe(args: Sequence[Any], named: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Inputs as JSON: shape and dtype of each tensor, structure of the rest."""
    entries = [("", v) for v in args] + list(named.items())
    return [{"name": name, "value": _describe(value)} for name, value in entries]


def _describe(value: Any) -> Any:
    if isinstance(value, Tensor):
        return {"shape": list(value.shape), "dtype": str(value.dtype).removeprefix("torch.")}
    if isinstance(value, Mapping):
        kind = "dict" if type(value) in (dict, OrderedDict) else "named"
        return {kind: [[k, _describe(v)] for k, v in value.items()]}  # a list, since JSON documents sort their keys
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return {"record": [[k, _describe(v)] for k, v in zip(value._fields, value, strict=True)]}
    if isinstance(value, (list, tuple)):
        return {"list" if isinstance(value, list) else "tuple": [_describe(v) for v in value]}
    if nested.form_of(value) == "object":
        return {"fields": [[k, _describe(v)] for k, v in nested.entries(value).items()]}
    if value is None or isinstance(value, (bool, int, float, str)):
        return {"constant": value}
    raise InputError(
        f"an example input of type {type(value).__name__} cannot be stored in a plan: pass tensors, numbers and text, alone or "
        "in tuples, lists and dicts"
    )


def example_of(entries: Sequence[Mapping[str, Any]]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Inputs on the meta device from their description."""
    args: list[Any] = []
    named: dict[str, Any] = {}
    try:
        for entry in entries:
            value = _restore(entry["value"])
            if not isinstance(entry["name"], str):
                raise ValueError(f"{shown(entry['name'])} is no name")
            if entry["name"]:
                named[entry["name"]] = value
            else:
                args.append(value)
    except (KeyError, TypeError, AttributeError, RuntimeError, ValueError, ArithmeticError) as error:
        raise PlanMismatch(f"the plan's example inputs are damaged ({error!s:.200}): make the plan again") from error
    try:
        _check((args, named))
    except InputError as error:
        raise PlanMismatch(f"the plan is damaged: {error}") from error
    return tuple(args), named


class _Named(dict[Any, Any]):
    """A dict whose entries are attributes, and are counted: for one of a class that only the model's code knows."""

    def __getattr__(self, name: str) -> Any:
        if name in self:
            return self[name]
        raise AttributeError(name)

    def __getitem__(self, key: Any) -> Any:
        return list(self.values())[key] if isinstance(key, int) and key not in self else super().__getitem__(key)


def _restore(value: Mapping[str, Any], depth: int = 0) -> Any:
    if depth > _DEPTH:
        raise ValueError("they are nested too deeply")
    if "shape" in value:
        dtype = getattr(torch, str(value["dtype"]), None)
        if not isinstance(dtype, torch.dtype):
            raise ValueError(f"unknown dtype {shown(value['dtype'])}")
        if not all(type(size) is int for size in value["shape"]):
            raise ValueError(f"{shown(value['shape'])} is no shape")
        return torch.empty(value["shape"], dtype=dtype, device="meta")
    if "dict" in value:
        return {k: _restore(v, depth + 1) for k, v in value["dict"]}
    if "named" in value:
        return _Named((k, _restore(v)) for k, v in value["named"])
    if "fields" in value:
        return SimpleNamespace(**{k: _restore(v) for k, v in value["fields"]})
    if "record" in value:  # of a class that only the model's code knows: its fields are what counts
        return namedtuple("Record", [k for k, _ in value["record"]])(*(_restore(v, depth + 1) for _, v in value["record"]))
    if "list" in value:
        return [_restore(v, depth + 1) for v in value["list"]]
    if "tuple" in value:
        return tuple(_restore(v, depth + 1) for v in value["tuple"])
    constant = value["constant"]
    if constant is not None and not isinstance(constant, (bool, int, float, str)):
        raise ValueError(f"{shown(constant)} is no number and no text")
    return constant
