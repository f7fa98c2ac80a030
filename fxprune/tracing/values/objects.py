"""Objects in a graph: a node that makes one of the user's classes, as its forward did, without running the class's code."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.fx.immutable_collections import immutable_dict

from fxprune import nested
from fxprune.errors import TraceError

__all__ = ["Make", "made", "made_by_node"]

_GIVEN = (bool, int, float, complex, str, type(None), torch.dtype, torch.device, torch.memory_format)


class Make:
    """The target of a node whose arguments become an object like `like`: ``Make(...)(*parts)``.

    Attributes:
        like: an object of the class, without tensors.
        keys: of the parts, as `fxprune.nested.entries` gives them.
    """

    def __init__(self, like: Any, keys: tuple[Any, ...]) -> None:
        self.like, self.keys = like, keys
        self.__name__ = self.__qualname__ = f"make_{type(like).__name__}"
        self.__module__ = __name__

    @property
    def kind(self) -> type:
        """The class of what is made."""
        return type(self.like)

    def __call__(self, *parts: Any) -> Any:
        entries = nested.entries(self.like)
        return nested.rebuilt(self.like, entries | dict(zip(self.keys, parts, strict=True)))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Make) or self.kind is not other.kind or self.keys != other.keys:
            return False
        mine, theirs = nested.entries(self.like), nested.entries(other.like)
        return mine.keys() == theirs.keys() and all(_same(part, theirs[key]) for key, part in mine.items())

    def __hash__(self) -> int:
        return hash((self.kind, self.keys))


def _same(one: Any, other: Any) -> bool:
    """Whether parts that stay with the target are alike, as far as they can tell."""
    if one is other:
        return True
    try:
        return type(one) is type(other) and bool(one == other)
    except Exception:  # an array's comparison is an array
        return False


def made_by_node(value: Any) -> bool:
    """Whether a container needs a node of its own in a graph, which holds tuples, lists, dicts and slices as they are.

    A named tuple needs one, as torch.fx writes its class's name in some places only.
    """
    form = nested.form_of(value)
    if form in ("object", "registered"):
        return True
    if form == "mapping":
        return type(value) not in (dict, immutable_dict)
    if hasattr(value, "_fields"):
        return True
    home = type(value).__module__.partition(".")[0]  # torch's sizes and ours are tuples
    return form == "sequence" and type(value) not in (tuple, list) and home not in ("torch", "fxprune")


def made(value: Any) -> tuple[Make, tuple[Any, ...]]:
    """The target and the arguments of the node that makes an object.

    Parts that a graph has no words for, and that hold nothing of the model, stay with the target as they are.

    Raises:
        TraceError: the object cannot be made anew, or holds tensors where they are not found.
    """
    parts = nested.entries(value)
    given = {key: part for key, part in parts.items() if _follows(part)}
    what = f"an object of {type(value).__module__}.{type(value).__qualname__}"
    try:
        like = nested.rebuilt(value, {key: None if key in given else part for key, part in parts.items()})
        hidden = nested.tensors([*nested.entries(like).values(), dict(getattr(like, "__dict__", ()))])
    except Exception as error:
        raise TraceError(
            f"{what} cannot be made anew from its parts ({type(error).__name__}: {error}): return its tensors in a dict or a "
            "tuple"
        ) from error
    if hidden:
        raise TraceError(f"{what} holds tensors in attributes beside its entries: return them in a dict or a tuple")
    return Make(like, tuple(given)), tuple(given.values())


def _follows(part: Any) -> bool:
    """Whether a part is an argument of the node: a tensor, a plain value, or a container of such."""
    if nested.form_of(part) == "leaf":
        return isinstance(part, _GIVEN) or _of_model(part)
    found = list(nested.leaves(part))
    plain = type(part) in (tuple, list, dict) and all(isinstance(leaf, _GIVEN) for leaf in found)
    return plain or any(map(_of_model, found))


def _of_model(part: Any) -> bool:
    return isinstance(part, Tensor) or hasattr(type(part), "__torch_function__")
