"""One walk over nested values: tensors in tuples, named tuples, lists, dicts, dataclasses and slices.

What a model takes and returns, and the arguments of graph nodes, are nested values. Whatever is no container is a leaf,
None included.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from typing import Any, TypeVar

from torch import Tensor
from torch.fx.immutable_collections import immutable_dict

__all__ = ["instances", "leaves", "map", "tensors"]

Kind = TypeVar("Kind")


def leaves(value: Any) -> Iterator[Any]:
    """Everything in a nested value that is no container, in order.

    >>> list(leaves({"a": [1, (2, None)], "b": slice(3)}))
    [1, 2, None, None, 3, None]
    """
    parts = _parts(value)
    if parts is None:
        yield value
        return
    for part in parts:
        yield from leaves(part)


def instances(kind: type[Kind], value: Any) -> list[Kind]:
    """The objects of a class in a nested value, in order; what they hold themselves is not looked at."""
    if isinstance(value, kind):
        return [value]
    parts = _parts(value)
    return [] if parts is None else [found for part in parts for found in instances(kind, part)]


def tensors(value: Any) -> list[Tensor]:
    """The tensors of a nested value, in order."""
    return instances(Tensor, value)


def map(function: Callable[..., Any], value: Any, *others: Any) -> Any:
    """The nested value with each leaf replaced by what `function` makes of it; containers keep their types.

    `others` are nested values of the same form, walked along: `function` gets one leaf of each (of an other that has no
    container there, all of it).

    >>> map(lambda a, b: a + b, [1, (2, 3)], [10, (20, 30)])
    [11, (22, 33)]
    """
    kind = type(value)
    if isinstance(value, Mapping):
        made = {k: map(function, v, *(o[k] for o in others)) for k, v in value.items()}
        if kind in (dict, immutable_dict) or not isinstance(value, MutableMapping):
            return made
        result = copy.copy(value)  # an OrderedDict, a defaultdict, a dict with attributes
        result.update(made)
        return result
    if isinstance(value, (list, tuple)):
        columns = zip(value, *others, strict=True)
        items = [map(function, *column) for column in columns]
        return kind(*items) if hasattr(kind, "_fields") else kind(items)
    if isinstance(value, slice):
        return slice(*(map(function, *column) for column in zip(*(_ends(v) for v in (value, *others)), strict=True)))
    if hasattr(kind, "__dataclass_fields__"):
        result = copy.copy(value)
        for name in kind.__dataclass_fields__:
            object.__setattr__(result, name, map(function, getattr(value, name), *(getattr(o, name) for o in others)))
        return result
    return function(value, *others)


_ATOMS = frozenset((int, float, bool, str, type(None), Tensor))


def _parts(value: Any) -> Any:
    """What a container holds; None of a leaf."""
    if type(value) in _ATOMS:  # nearly always, and asking whether it is a Mapping takes long
        return None
    if isinstance(value, (list, tuple)):
        return value
    if isinstance(value, Mapping):
        return value.values()
    if isinstance(value, slice):
        return _ends(value)
    fields = getattr(type(value), "__dataclass_fields__", None)
    return None if fields is None else [getattr(value, name) for name in fields]


def _ends(value: slice) -> tuple[Any, Any, Any]:
    return value.start, value.stop, value.step
