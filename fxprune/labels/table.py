"""One table of operators and layers: how labels flow through each, and what else the package needs to know of it.

A key is ``namespace::name``: ``aten::relu`` for PyTorch's own operators (methods and functions of torch that run one
share its key), ``python::getitem`` for those of Python, ``mylib::swish`` for a user's, made by ``torch.library``, and
``nn::Conv2d`` for the classes of torch.nn. A name without a namespace is one of ``aten``. Each room writes its own column
of the table (`register`), in the file that uses it.
"""

from __future__ import annotations

import importlib
import operator as python
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

from fxprune.errors import InputError
from fxprune.labels.call import Rule

__all__ = ["FAMILIES", "Operator", "find", "key_of", "keys_of_layer", "known", "names", "of_layer", "register", "rule"]

FAMILIES = tuple(
    """
    contraction convolution create elementwise join normalization recurrent reduction selection shape spatial
    """.split()
)  # files of fxprune/rules
Made = TypeVar("Made", bound=Callable[..., Any])


@dataclass(slots=True)
class Operator:
    """What is known of an operator.

    Attributes:
        rule: how labels flow through it (`fxprune.rules`); an operator without one freezes what touches it.
        shape: what it returns for meta tensors, without running it (`fxprune.tracing.labelling.quick_shapes`, `quick_leaves`).
        repair: how its arguments name channel sizes, if they do (`fxprune.passes.arguments`).
        resize: what a layer remembers of its sizes (`fxprune.passes.resize_leaves`).
        kind: ``"layer"``, ``"norm"``, ``"pointwise"`` or ``"layout"``, for those who look for places in a graph
            (`fxprune.statistics.kinds`).
    """

    key: str
    rule: Rule | None = None
    shape: Callable[..., Any] | None = None
    repair: Callable[..., int] | None = None
    resize: Callable[..., None] | None = None
    kind: str | None = None


_OPERATORS: dict[str, Operator] = {}
_FOUND: dict[Any, Rule | None] = {}  # by overload, which a run asks for thousands of times
_LAYERS: dict[type, tuple[str, ...]] = {}


def register(facet: str, texts: Iterable[str], value: Any) -> None:
    """Set one attribute of some operators, named by keys in one text or several.

    A definition that is run again (in a notebook) replaces its former self.

    Raises:
        InputError: another definition stands there already, or a name is no key.
    """
    for key in map(_key, " ".join(texts).split()):
        entry = _OPERATORS.setdefault(key, Operator(key))
        old = getattr(entry, facet)
        if old is not None and _origin(old) != _origin(value):
            raise InputError(f"there are two definitions of the {facet} of {key!r}: {_origin(old)} and {_origin(value)}")
        setattr(entry, facet, value)
    _FOUND.clear()  # who asked before asks again


def rule(*names: str) -> Callable[[Made], Made]:
    """Register a function as the rule of these operators, their overloads and in-place forms included.

    Names may share one text: ``@rule("relu gelu")``. A rule for an operator of your own may come from any file, at any time.

    >>> @rule("mylib::swish")
    ... def swish(call):
    ...     "swish: [a, b] -> [a, b]"
    ...     call.set(call.axes(call["x"]))
    >>> "mylib::swish" in names()
    True

    Raises:
        InputError: one of them has a rule.
    """

    def keep(function: Made) -> Made:
        texts = " ".join(names).split()
        register("rule", tuple(form for name in texts for form in (name, name + "_")), function)
        return function

    return keep


def find(func: Any) -> Rule | None:
    """The rule of an operator overload, or None."""
    if func in _FOUND:
        return _FOUND[func]
    _load()
    entry = _OPERATORS.get(func._schema.name)
    found = None if entry is None else entry.rule
    if found is None and _is_pointwise(func):
        found = _OPERATORS["aten::pointwise"].rule
    _FOUND[func] = found
    return found


def known(key: str) -> Operator | None:
    """What is known of the operator of a key."""
    return _OPERATORS.get(key)


def names() -> list[str]:
    """All operators with a rule of their own, in-place forms left out; those of ``aten`` without their namespace."""
    _load()
    return sorted(k.removeprefix("aten::") for k, entry in _OPERATORS.items() if entry.rule and not k.endswith("_"))


def key_of(op: str, target: Any) -> str:
    """The key of what a node of an FX graph calls; an empty text for a module, an attribute, or a stranger's function.

    >>> key_of("call_method", "view"), key_of("call_function", torch.relu), key_of("call_function", python.getitem)
    ('aten::view', 'aten::relu', 'python::getitem')
    """
    if op == "call_method":
        return f"aten::{target}"
    if op != "call_function":
        return ""
    schema = getattr(target, "_schema", None)
    if schema is not None:  # an overload of torch.ops
        return str(schema.name)
    if isinstance(target, torch._ops.OpOverloadPacket):
        return str(target._qualified_op_name)
    name, module = getattr(target, "__name__", ""), str(getattr(target, "__module__", None) or "")
    if getattr(python, name, None) is target or module == "builtins":
        return f"python::{name}"
    # Functions in C have no module; those of torch.nn.functional and torch.functional stand for operators of their names.
    return f"aten::{name}" if not module or module.partition(".")[0] == "torch" else ""


def keys_of_layer(kind: type) -> tuple[str, ...]:
    """The keys of a class and its bases in torch.nn, its own first.

    >>> keys_of_layer(torch.nn.LSTM)
    ('nn::LSTM', 'nn::RNNBase', 'nn::Module')
    """
    found = _LAYERS.get(kind)
    if found is None:
        bases = [c for c in kind.__mro__ if c.__module__.startswith("torch.nn.")]
        found = _LAYERS[kind] = tuple(f"nn::{c.__name__}" for c in bases)
    return found


def of_layer(kind: type, facet: str) -> Any:
    """An attribute of a class of torch.nn, or of the nearest base that has it; None if none has."""
    entries = (_OPERATORS.get(key) for key in keys_of_layer(kind))
    return next((value for entry in entries if entry is not None and (value := getattr(entry, facet)) is not None), None)


def _key(name: str) -> str:
    namespace, colons, rest = name.partition("::")
    if colons and not (namespace and rest):
        raise InputError(f"an operator is named namespace::name, not {name!r}")
    return name if colons else f"aten::{name}"


def _origin(function: Any) -> Any:
    return f"{function.__module__}.{function.__qualname__}" if callable(function) else function


def _is_pointwise(func: Any) -> bool:
    """PyTorch tags pointwise operators, though not every overload of each."""
    packet = func.overloadpacket
    return any(torch.Tag.pointwise in getattr(packet, name).tags for name in packet.overloads())


def _load() -> None:
    for family in FAMILIES:
        importlib.import_module(f"fxprune.rules.{family}")
