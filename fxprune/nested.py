"""One walk over nested values: tensors in tuples, lists, dicts, dataclasses, slices and objects of plain classes.

What a model takes and returns, and the arguments of graph nodes, are nested values. Whatever is no container is a leaf,
None included. A class is a container if it is a sequence or mapping of Python, a dataclass, registered with
torch.utils._pytree, or a plain class of somebody's own, whose objects hold their values in attributes.
"""

from __future__ import annotations

import copy
import enum
import math
import sys
import types
from collections import UserDict, defaultdict
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.fx.immutable_collections import immutable_dict
from torch.utils._pytree import SUPPORTED_NODES

__all__ = ["entries", "form_of", "home_of", "instances", "leaves", "map", "plain", "rebuilt", "tensors"]

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
    container there, all of it). Objects are made anew without running the code of their classes.

    >>> map(lambda a, b: a + b, [1, (2, 3)], [10, (20, 30)])
    [11, (22, 33)]
    """
    form = form_of(value)
    if form == "leaf":
        return function(value, *others)
    if form == "mapping":
        return rebuilt(value, {k: map(function, v, *(o[k] for o in others)) for k, v in value.items()})
    if form == "sequence":
        columns = zip(value, *others, strict=True)
        return rebuilt(value, dict(enumerate(map(function, *column) for column in columns)))
    mine, rest = entries(value), [entries(other) for other in others]
    return rebuilt(value, {k: map(function, v, *(other[k] for other in rest)) for k, v in mine.items()})


def form_of(value: Any) -> str:
    """How a value holds others: as a ``"sequence"``, ``"mapping"``, ``"slice"``, ``"object"`` or ``"registered"``; or
    ``"leaf"``."""
    kind = type(value)
    if kind in _ATOMS:  # nearly always
        return "leaf"
    form = _FORMS.get(kind)
    if form is None:
        form = _FORMS[kind] = _form(kind)
    return form


def home_of(kind: type) -> str:
    """The name of the module that a class is from; empty where its ``__module__`` is no text, as of functions that some
    versions of Cython made (those of numpy 2.2).

    >>> home_of(dict), home_of(type("Own", (), {"__module__": 3}))
    ('builtins', '')
    """
    home: Any = kind.__module__
    return home if isinstance(home, str) else ""


def entries(value: Any) -> dict[Any, Any]:
    """What a container holds: by position, key or attribute.

    >>> entries([1, 2]), entries({"a": 3})
    ({0: 1, 1: 2}, {'a': 3})
    """
    form = form_of(value)
    if form == "mapping":
        return dict(value.items())
    if form == "slice":
        return {"start": value.start, "stop": value.stop, "step": value.step}
    if form == "registered":
        return dict(enumerate(SUPPORTED_NODES[type(value)].flatten_fn(value)[0]))
    if form == "object":
        return {name: getattr(value, name) for name in _attributes(value)}
    return dict(enumerate(value))


def rebuilt(value: Any, parts: Mapping[Any, Any]) -> Any:
    """A container like `value` that holds `parts`, which are as `entries` gives them."""
    kind, form = type(value), form_of(value)
    if form == "mapping":
        return _rebuilt_mapping(value, dict(parts))
    if form == "slice":
        return slice(*parts.values())
    if form == "registered":
        node = SUPPORTED_NODES[kind]
        return node.unflatten_fn(list(parts.values()), node.flatten_fn(value)[1])
    if form == "object":
        result: Any = types.SimpleNamespace() if kind is types.SimpleNamespace else object.__new__(kind)
        for name, part in parts.items():
            object.__setattr__(result, name, part)
        return result
    return kind(*parts.values()) if hasattr(kind, "_fields") else kind(parts.values())


_ATOMS = frozenset((int, float, bool, str, type(None), Tensor))
_FORMS: dict[type, str] = {}
# Of the standard library and torch, only classes that are made to hold a user's values.
_OTHERS = sys.stdlib_module_names | {"torch", "numpy", "fxprune", "networkx", "sympy", "tokenizers"}


def _form(kind: type) -> str:
    """`form_of` for all values of a class."""
    if issubclass(kind, (list, tuple)):
        return "sequence"
    if issubclass(kind, Mapping):
        return "mapping"
    if issubclass(kind, slice):
        return "slice"
    if issubclass(kind, (Tensor, torch.nn.Module, type, enum.Enum, BaseException, str, Sequence, set, frozenset)):
        return "leaf"
    if hasattr(kind, "__dataclass_fields__") or kind is types.SimpleNamespace:
        return "object"
    if kind in SUPPORTED_NODES:
        return "object" if _plain(kind) else "registered"
    return "object" if _plain(kind) else "leaf"


def _plain(kind: type) -> bool:
    """Whether a class is somebody's own, written in Python, with objects that are neither called nor iterators."""
    if home_of(kind).partition(".")[0] in _OTHERS or not kind.__flags__ & (1 << 9):  # made by a class statement
        return False
    special = ("__call__", "__next__", "__enter__", "__torch_function__")
    return not any(name in c.__dict__ for c in kind.__mro__ for name in special)


def _attributes(value: Any) -> list[str]:
    """Names of what an object holds; of a dataclass its fields come first, in their order."""
    kind = type(value)
    names = list(getattr(kind, "__dataclass_fields__", ()))
    names += [n for c in kind.__mro__ for n in _slots(c)]
    names += getattr(value, "__dict__", ())
    return [name for name in dict.fromkeys(names) if _has(value, name)]


def _slots(kind: type) -> tuple[str, ...]:
    slots = kind.__dict__.get("__slots__", ())
    names = (slots,) if isinstance(slots, str) else tuple(slots)
    return tuple(n for n in names if n not in ("__dict__", "__weakref__"))


def _has(value: Any, name: str) -> bool:
    try:
        object.__getattribute__(value, name)
    except AttributeError:  # a field without a value, a slot that is empty
        return False
    return True


def _rebuilt_mapping(value: Any, made: dict[Any, Any]) -> Any:
    """An OrderedDict, a defaultdict, a dict with attributes: not by methods of its class, which may refuse or do more."""
    kind = type(value)
    if kind in (dict, immutable_dict) or not isinstance(value, MutableMapping):
        return made
    attributes = dict(getattr(value, "__dict__", ()))
    for key, part in made.items():
        if key in attributes and key in value and attributes[key] is value[key]:  # an entry that is an attribute, too
            attributes[key] = part
    if isinstance(value, dict):
        base = next(c for c in kind.__mro__ if c.__module__ in ("builtins", "collections"))
        result = base.__new__(kind)  # type: ignore[call-overload]
        for key, part in made.items():
            base.__setitem__(result, key, part)  # type: ignore[index]
        if isinstance(value, defaultdict):
            result.default_factory = value.default_factory
    elif isinstance(value, UserDict):
        result, attributes["data"] = object.__new__(kind), made
    else:
        result = copy.copy(value)
        result.update(made)
        return result
    if attributes:
        result.__dict__.update(attributes)
    return result


def plain(value: Any) -> Any:
    """What JSON can hold of nested values: keys as text, lists, and None for numbers that are not finite."""
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _parts(value: Any) -> Any:
    """What a container holds; None of a leaf."""
    form = form_of(value)
    if form == "leaf":
        return None
    if form == "sequence":
        return value
    return value.values() if form == "mapping" else entries(value).values()
