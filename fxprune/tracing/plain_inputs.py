"""The inputs of a model as nodes: tensors and the numbers that go with them; what else a forward takes is asserted.

Containers of tensors become containers of proxies, of the same classes. A number, a text or None that is no part of the
arithmetic was a constant to the model's code: the graph asserts that it is what it was.
"""

from __future__ import annotations

import inspect
import operator
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx, nn

from fxprune import nested
from fxprune.errors import InputError
from fxprune.tracing.labelling.interpret import label_input
from fxprune.tracing.modules.hooks import hooked

if TYPE_CHECKING:
    from fxprune.tracing.recorder import Recorder

__all__ = ["in_order", "placeholders"]

_PLAIN = (bool, int, float, complex, str, type(None))
_LEN = len  # while a model is recorded, the name stands for the recorder's own


def in_order(model: nn.Module, count: int, named: Mapping[str, Any]) -> dict[str, Any]:
    """Keyword inputs in the order in which forward names them, with the defaults of parameters that stand between them.

    Args:
        count: how many inputs are given by position.
    """
    try:
        parameters = list(inspect.signature(model.forward).parameters.values())
    except (TypeError, ValueError):  # a forward without a signature
        return dict(named)
    places = {p.name: i for i, p in enumerate(parameters) if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    found = {name: named[name] for name in places if name in named}
    last = max((places[n] for n in found if parameters[places[n]].kind is inspect.Parameter.POSITIONAL_OR_KEYWORD), default=0)
    between = [p for p in parameters[count:last] if p.name not in named and type(p.default) in _PLAIN]
    if hooked(model):
        between = []
    found |= {p.name: p.default for p in between}
    return {n: found[n] for n in sorted(found, key=places.__getitem__)} | {n: v for n, v in named.items() if n not in found}


def placeholders(recorder: Recorder) -> tuple[list[Any], dict[str, Any]]:
    """Record the inputs of the skeleton: what its forward is called with.

    Raises:
        InputError: there are more by position than forward takes.
    """
    skeleton = recorder.skeleton
    given = [*zip(_names(skeleton.module, len(skeleton.args)), skeleton.args, strict=False), *skeleton.named.items()]
    defaults = _defaults(skeleton.module, given)
    nodes = [recorder.graph.create_node("placeholder", name, defaults.get(name, ())) for name, _ in given]
    made = []
    for node, (name, value) in zip(nodes, given, strict=True):
        node.meta.update(scope="", source="")
        label_input(recorder.mode, value)
        proxy = recorder.wrap(node, value)
        if isinstance(value, Tensor) and node.args:
            _assert(recorder, operator.is_not, node, None, f"recorded with {name}: record the model again without it")
        made.append(proxy if isinstance(value, (Tensor, float)) else _part(recorder, node, value, name))
    count = len(skeleton.args)
    return made[:count], dict(zip(skeleton.named, made[count:], strict=True))


def _part(recorder: Recorder, node: fx.Node, value: Any, name: str) -> Any:
    """What model code gets for a value that a node has: proxies in containers, constants that are asserted."""
    form = nested.form_of(value)
    if form == "leaf":
        if isinstance(value, Tensor):
            return recorder.wrap(node, value)
        if type(value) in _PLAIN:
            test = operator.is_ if value is None else operator.eq
            _assert(recorder, test, node, value, f"recorded with {name}={value!r}: record the model again for another value")
        return value
    if form in ("slice", "registered"):
        return recorder.wrap(node, value)
    entries = nested.entries(value)
    if form == "mapping" or (form == "sequence" and not hasattr(value, "_fields")):
        length = _add(recorder, _LEN, (node,), len(value))
        _assert(recorder, operator.eq, length, len(value), f"recorded with {len(value)} entries of {name}")
    parts = {}
    for key, part in entries.items():
        get = getattr if form == "object" else operator.getitem
        where = f"{name}.{key}" if form == "object" else f"{name}[{key!r}]"
        parts[key] = _part(recorder, _add(recorder, get, (node, key), part), part, where)
    return nested.rebuilt(value, parts)


def _assert(recorder: Recorder, test: Any, node: fx.Node, value: Any, message: str) -> None:
    held = _add(recorder, test, (node, value), True)
    _add(recorder, torch._assert, (held, message), None)


def _add(recorder: Recorder, function: Any, args: tuple[Any, ...], value: Any) -> fx.Node:
    node = recorder.graph.create_node("call_function", function, args)
    node.meta.update(scope="", source="")
    recorder.values[node] = value
    return node


def _names(model: nn.Module, count: int) -> list[str]:
    """Names of the positional inputs: of the parameters of forward that they fill."""
    parameters = inspect.signature(model.forward).parameters.values()
    names = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    rest = next((p.name for p in parameters if p.kind is p.VAR_POSITIONAL), None)
    if rest is not None:
        names += [f"{rest}_{i}" for i in range(count)]
    elif hooked(model) or type(model).__call__ is not nn.Module.__call__:  # which may make of the inputs what forward takes
        names += [f"input_{i}" for i in range(len(names), count)]
    if count > len(names):
        raise InputError(f"forward takes {len(names)} positional inputs ({', '.join(names)}), but {count} are given")
    return names[:count]


def _defaults(model: nn.Module, given: list[tuple[str, Any]]) -> dict[str, tuple[Any]]:
    """Defaults of the inputs: those of forward, where no input without one comes after and it is no tensor's.

    A tensor has one only where an input before it has: Python asks for it.
    """
    parameters = inspect.signature(model.forward).parameters
    known = {n: (parameters[n].default,) for n, _ in given if n in parameters and type(parameters[n].default) in _PLAIN}
    last_without = max((i for i, (name, _) in enumerate(given) if name not in known), default=-1)
    found: dict[str, tuple[Any]] = {}
    for name, value in given[last_without + 1 :]:
        if found or not nested.tensors(value):
            found[name] = known[name]
    return found
