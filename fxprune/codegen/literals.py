"""Python source for constants, and public names for functions and classes."""

from __future__ import annotations

import builtins
import enum
import functools
import importlib
import math
import operator
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from fxprune.codegen.names import Names, is_name
from fxprune.errors import PruneError

__all__ = ["keywords", "literal", "public_path", "quoted"]

Render = Callable[[Any], "str | None"]


@functools.cache
def _index() -> dict[int, tuple[str, Any]]:
    """Return id of every public function and class -> its path and itself; the earlier namespace wins."""
    spaces = [
        ("F", F),
        ("torch", torch),
        ("nn", torch.nn),
        ("torch.linalg", torch.linalg),
        ("torch.fft", torch.fft),
        ("torch.special", torch.special),
        ("math", math),
        ("operator", operator),
        ("", builtins),
        ("torch.Tensor", torch._C.TensorBase),
        ("torch._C._nn", torch._C._nn),
        ("torch._VF", torch._VF),
    ]
    index: dict[int, tuple[str, Any]] = {}
    for prefix, space in spaces:
        for name, value in vars(space).items():
            public = callable(value) and not name.startswith("_")
            if public and not (prefix == "F" and isinstance(value, type)):
                index.setdefault(id(value), (f"{prefix}.{name}".lstrip("."), value))
    return index


def public_path(target: Any) -> str:
    """Return the dotted path under which the generated file finds exactly `target`.

    It starts at an import of the file, or is the name of a builtin.

    Raises:
        PruneError: torch and the standard library's math, operator and builtins have no such object.
    """
    if id(target) in _index():
        return _index()[id(target)][0]
    if isinstance(target, (torch._ops.OpOverload, torch._ops.OpOverloadPacket)):
        if str(target).partition(".")[0] in ("aten", "prims"):
            return f"torch.ops.{target}"
    else:
        own = getattr(target, "__name__", "")
        if own and vars(torch).get(own) is target:  # an operator that torch does not show, as torch._grouped_mm
            return f"torch.{own}"
        module, name = getattr(target, "__module__", None), getattr(target, "__qualname__", None)
        if module and name and module.partition(".")[0] == "torch":
            try:
                if operator.attrgetter(name)(importlib.import_module(module)) is target:
                    return f"{module}.{name}"
            except (ImportError, AttributeError):
                pass  # a local function or a C function whose module is not its home: reported below
    raise PruneError(
        f"the generated file needs torch alone, which has no {_describe(target)}: "
        "replace that call by torch functions and trace the model again"
    )


def _describe(target: Any) -> str:
    name = getattr(target, "__qualname__", None) or str(target)
    module = getattr(target, "__module__", None)
    return f"{module}.{name}" if module and not isinstance(target, torch._ops.OpOverload) else name


def quoted(text: str) -> str:
    """Return a string literal, in double quotes where that needs no more escapes."""
    plain = repr(text)
    return plain if '"' in plain or "\\" in plain else f'"{text}"'


def literal(value: Any, names: Names, render: Render = lambda _: None) -> str:
    """Return an expression that evaluates to `value`.

    Args:
        value: any constant that a torch call takes, nested in tuples, lists, dicts, slices and ranges.
        names: collects the imports that the expression needs.
        render: asked first for every value; returns its expression, or None to leave it to this function.

    Raises:
        PruneError: `value` has no expression that needs torch alone.
    """
    if (text := render(value)) is not None:
        return text
    if isinstance(value, enum.Enum) and isinstance(value, (int, str)):
        value = value.value
    if value is None or value is Ellipsis:
        return "None" if value is None else "..."
    if isinstance(value, str):
        return quoted(value)
    if isinstance(value, (bool, bytes)):
        return repr(value)
    if isinstance(value, (int, float, complex)):
        return _number(value, names)
    if isinstance(value, (torch.dtype, torch.memory_format, torch.layout)):
        return names.path(str(value))
    if isinstance(value, torch.device):
        return f"{names.use('torch')}.device({quoted(str(value))})"
    return _container(value, names, lambda part: literal(part, names, render))


def _number(value: complex, names: Names) -> str:
    if isinstance(value, int):
        return repr(int(value))
    if isinstance(value, float):
        if math.isfinite(value):
            return repr(float(value))
        text = f"{names.use('math')}.{'nan' if math.isnan(value) else 'inf'}"
        return f"-{text}" if value == -math.inf else text
    return f"{names.use('complex')}({_number(value.real, names)}, {_number(value.imag, names)})"


def _container(value: Any, names: Names, part: Callable[[Any], str]) -> str:
    if isinstance(value, torch.Size):
        return f"{names.use('torch')}.Size([{', '.join(map(part, value))}])"
    if isinstance(value, tuple):
        return f"({part(value[0])},)" if len(value) == 1 else f"({', '.join(map(part, value))})"
    if isinstance(value, list):
        return f"[{', '.join(map(part, value))}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{part(key)}: {part(item)}" for key, item in value.items()) + "}"
    if isinstance(value, slice):
        return f"{names.use('slice')}({part(value.start)}, {part(value.stop)}, {part(value.step)})"
    if isinstance(value, range):
        return f"{names.use('range')}({value.start}, {value.stop}, {value.step})"
    if isinstance(value, (set, frozenset)):
        return f"{names.use(type(value).__name__)}([{', '.join(sorted(map(part, value)))}])"
    if callable(value):
        return names.path(public_path(value))
    raise PruneError(
        f"a value of type {type(value).__module__}.{type(value).__qualname__} cannot be written as source "
        "that needs torch alone: pass numbers, strings, torch constants, or tuples, lists and dicts of these"
    )


def keywords(parts: dict[str, str]) -> list[str]:
    """Return keyword arguments of a call; one ``**`` dict, which keeps their order, if Python refuses a name.

    >>> keywords({"conv": "nn.Identity()", "relu": "nn.ReLU()"})
    ['conv=nn.Identity()', 'relu=nn.ReLU()']
    >>> keywords({"conv": "nn.Identity()", "0": "nn.ReLU()"})
    ['**{"conv": nn.Identity(), "0": nn.ReLU()}']
    """
    if all(map(is_name, parts)):
        return [f"{name}={text}" for name, text in parts.items()]
    return ["**{" + ", ".join(f"{quoted(name)}: {text}" for name, text in parts.items()) + "}"]
