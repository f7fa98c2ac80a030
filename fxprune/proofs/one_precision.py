"""A proof in one precision, of a model whose code names others (``h.half()``, ``torch.autocast``)."""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch import fx

from fxprune import nested
from fxprune.tracing.dispatch_mode import DispatchMode

__all__ = ["in_one_precision"]

_FLOATS = frozenset({torch.float16, torch.bfloat16, torch.float32, torch.float64})
_CASTS = frozenset("float half bfloat16 double type type_as".split())


def in_one_precision(graph: fx.Graph, dtype: torch.dtype) -> contextlib.AbstractContextManager[Any]:
    """Inside, every floating-point tensor that an operator makes is in `dtype`: what a model rounds on its way would hide how
    far two models are apart.

    Args:
        graph: of the model; nothing is done for one whose code names no dtype.
    """
    return _OnePrecision(dtype) if any(_names_one(n) for n in graph.nodes) else contextlib.nullcontext()


def _names_one(node: fx.Node) -> bool:
    if "region" in node.meta or (node.op == "call_method" and node.target in _CASTS):
        return True
    return any(isinstance(a, torch.dtype) and a in _FLOATS for a in nested.leaves((node.args, node.kwargs)))


class _OnePrecision(DispatchMode):
    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if kwargs.get("dtype") in _FLOATS:
            kwargs["dtype"] = self.dtype
        return func(*args, **kwargs)
