"""Calls by keyword as calls by place: ``h.view(size=(2, 8))`` is recorded as ``h.view((2, 8))``.

What reads a graph finds the tensor of a call, and the sizes that it names, at one place.
"""

from __future__ import annotations

from types import BuiltinFunctionType
from typing import Any

__all__ = ["by_place"]

# The first argument, as functions in C call it.
_FIRST = ("input", "self", "tensors", "query")
# Arguments after the first, of operators that name sizes, axes or entries.
_NEXT: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("view", "expand", "broadcast_to", "new_zeros", "new_ones", "new_empty"), ("size",)),
    "new_full": ("size", "fill_value"),
    "reshape": ("shape",),
    **dict.fromkeys(("permute", "tile"), ("dims",)),
    "repeat": ("repeats",),
    "unflatten": ("dim", "sizes"),
    "flatten": ("start_dim", "end_dim"),
    "chunk": ("chunks", "dim"),
    "unsafe_chunk": ("chunks", "dim"),
    "tensor_split": ("indices_or_sections", "dim"),
    "split_with_sizes": ("split_sizes", "dim"),
    "narrow": ("dim", "start", "length"),
    "select": ("dim", "index"),
    "index_select": ("dim", "index"),
    "transpose": ("dim0", "dim1"),
    "unsqueeze": ("dim",),
    "scaled_dot_product_attention": ("key", "value"),
}


def by_place(kind: str, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of a call, those by place first that could stand there.

    Functions of Python get their first argument by place whenever they are recorded (`torch.overrides`).
    """
    left = dict(kwargs)
    if not args and isinstance(target, BuiltinFunctionType):
        first = next((name for name in _FIRST if name in left), None)
        if first is None:
            return args, kwargs
        args = (left.pop(first),)
    name = target if kind == "call_method" else getattr(target, "__name__", "")
    for named in _NEXT.get(name, ())[len(args) - 1 :]:
        if named not in left:
            break
        args = (*args, left.pop(named))
    return args, left
