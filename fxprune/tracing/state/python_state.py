"""What forward writes into Python objects: attributes, lists, dicts, globals, closures; all of it is put back.

A graph does none of that (see `fxprune.tracing.state.carried`); buffers are another matter
(`fxprune.tracing.state.assigned_buffers`).
"""

from __future__ import annotations

import copy
import random
from collections import deque
from collections.abc import Mapping
from types import CellType, FunctionType
from typing import Any

import torch
from torch import Tensor, nn

from fxprune import nested

__all__ = ["MISSING", "State", "put", "put_back"]

_INTERNAL = frozenset(nn.Module().__dict__) - {"_buffers", "_parameters"}
_ATOMS = (int, float, complex, str, bytes, bool, type(None), type, FunctionType, torch.dtype, torch.device)
MISSING: Any = object()
_DEEPEST = 6  # containers within containers that are looked into
_LARGEST = 4096  # entries of a container that are looked into: vocabularies and data sets are no state


class State:
    """What the Python objects around a model held at one time; at the end of a ``with`` block all of it is put back.

    Attributes:
        held: for each object, its name and a copy of what it holds by key.
    """

    def __init__(self, modules: Mapping[str, nn.Module]) -> None:
        self.held: list[tuple[str, Any, dict[Any, Any]]] = []
        self._seen: set[int] = set()
        self._depth = 0
        self._generators: list[tuple[Any, Any]] = []
        kinds: dict[type, None] = {}
        for name, module in modules.items():
            kinds.update(dict.fromkeys(c for c in type(module).__mro__ if not c.__module__.startswith(("torch.", "builtins"))))
            self._note(name, module.__dict__, _INTERNAL)
        for kind in kinds:
            if kind not in (nn.Module, object) and not kind.__module__.startswith("fxprune."):
                self._note_class(kind)

    def __enter__(self) -> State:
        return self

    def __exit__(self, *error: object) -> None:
        self.restore()

    def changes(self) -> list[tuple[str, Any, Any, Any, Any]]:
        """``(name, holder, key, before, now)`` of everything that is another object, or another plain value, now."""
        found = []
        for name, holder, before in self.held:
            now = _held(holder)
            if len(now) == len(before) and all(map(_is, now.values(), before.values())) and now.keys() == before.keys():
                continue
            for key in dict.fromkeys((*before, *now)):
                old, new = before.get(key, MISSING), now.get(key, MISSING)
                if not _alike(old, new):
                    found.append((_shown(name, key), holder, key, old, new))
        return found

    def restore(self) -> None:
        """Put everything back."""
        for _, holder, before in self.held:
            now = _held(holder)
            if len(now) != len(before) or now.keys() != before.keys() or not all(map(_is, now.values(), before.values())):
                _refill(holder, before)

        for generator, before in self._generators:
            if isinstance(generator, random.Random):
                generator.setstate(before.getstate())
            elif hasattr(generator, "bit_generator"):
                generator.bit_generator.state = before.bit_generator.state
            else:
                generator.set_state(before.get_state())

    def _note(self, name: str, holder: Any, without: frozenset[str] = frozenset()) -> None:
        if id(holder) in self._seen:
            return
        self._seen.add(id(holder))
        held = {k: v for k, v in _held(holder).items() if k not in without} if without else _held(holder)
        self.held.append((name, _Part(holder, without) if without else holder, held))
        if self._depth == _DEEPEST or len(held) > _LARGEST:
            return
        self._depth += 1
        for key, value in held.items():
            if not isinstance(value, (*_ATOMS, Tensor, nn.Module)):
                self._note_value(f"{name}.{key}" if name else str(key), value)
            elif type(value) is FunctionType:
                self._note_function(value)
        self._depth -= 1

    def _note_value(self, name: str, value: Any) -> None:
        if nested.home_of(type(value)).startswith("fxprune."):
            return  # what a recording tells those who asked for it
        if type(value) in (list, set, deque) or isinstance(value, dict):
            self._note(name, value)
        elif _is_generator(value):
            self._note(name, value)
            self._generators.append((value, copy.deepcopy(value)))
        elif nested.form_of(value) == "object" and hasattr(value, "__dict__"):
            self._note(name, value.__dict__)

    def _note_class(self, kind: type) -> None:
        values = {k: v for k, v in vars(kind).items() if not k.startswith("__")}
        self.held.append((kind.__name__, kind, {k: v for k, v in values.items() if _is_state(v)}))
        for key, value in values.items():
            if type(value) is FunctionType:
                self._note_function(value)
            elif type(value) in (list, dict, set, deque):
                self._note(f"{kind.__name__}.{key}", value)

    def _note_function(self, function: FunctionType) -> None:
        spaces = function.__globals__
        if id(spaces) not in self._seen and not str(spaces.get("__name__", "")).startswith(("torch.", "fxprune.")):
            self._seen.add(id(spaces))
            held = {k: v for k, v in spaces.items() if _is_state(v) and not k.startswith("__")}
            self.held.append((str(spaces.get("__name__", "")), _Part(spaces, frozenset(spaces.keys() - held.keys())), held))
            for key, value in held.items():
                if type(value) in (list, dict, set, deque):
                    self._note(key, value)
        for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=False):
            if id(cell) not in self._seen:
                self._note(f"{function.__name__}.{name}", cell)


class _Part:
    """A dict without some of its keys."""

    def __init__(self, whole: dict[Any, Any], without: frozenset[str]) -> None:
        self.whole, self.without = whole, without


def _shown(name: str, key: Any) -> str:
    """How a user calls what is held: a buffer is an attribute of its module."""
    return ".".join(p for p in (*name.split("."), str(key)) if p and p not in ("_buffers", "_parameters"))


def _is_generator(value: Any) -> bool:
    """Whether a value draws random numbers of its own: of Python or of numpy."""
    home = nested.home_of(type(value))
    return isinstance(value, random.Random) or (home.startswith("numpy.random") and hasattr(value, "standard_normal"))


def _is_state(value: Any) -> bool:
    return isinstance(value, (int, float, str, bool, type(None), list, dict, set, deque, Tensor)) and not isinstance(
        value, type
    )


def _is(a: Any, b: Any) -> bool:
    return a is b


def _alike(a: Any, b: Any) -> bool:
    plain = type(a) is type(b) and isinstance(a, (int, float, complex, str, bytes))
    return a is b or (plain and (a == b or a != a))


def _held(holder: Any) -> dict[Any, Any]:
    if isinstance(holder, _Part):
        return {k: v for k, v in holder.whole.items() if k not in holder.without}
    if isinstance(holder, type):
        return {k: v for k, v in vars(holder).items() if not k.startswith("__") and _is_state(v)}
    if isinstance(holder, CellType):
        try:
            return {"cell": holder.cell_contents}
        except ValueError:  # empty
            return {}
    if isinstance(holder, dict):
        return dict(holder)
    if isinstance(holder, random.Random):
        return {"state": str(holder.getstate())}
    if _is_generator(holder):
        return {"state": str(holder.bit_generator.state if hasattr(holder, "bit_generator") else holder.get_state())}
    return dict(enumerate(holder))


def put(holder: Any, key: Any, value: Any) -> None:
    if isinstance(holder, _Part):
        holder = holder.whole
    if isinstance(holder, type):
        setattr(holder, key, value)
    elif isinstance(holder, CellType):
        holder.cell_contents = value
    elif isinstance(holder, set):
        holder.add(value)
    elif isinstance(holder, (list, deque)) and key >= len(holder):
        holder.append(value)
    elif isinstance(holder, (dict, list, deque)):
        holder[key] = value
    elif _is_generator(holder):
        holder.random()  # it is not where it was


def _refill(holder: Any, before: dict[Any, Any]) -> None:
    if _is_generator(holder):
        return
    if isinstance(holder, (type, CellType, _Part)):
        for key in _held(holder).keys() - before.keys():
            delattr(holder, key) if isinstance(holder, type) else holder.whole.pop(key) if isinstance(holder, _Part) else None
        for key, value in before.items():
            put(holder, key, value)
        return
    holder.clear()
    if isinstance(holder, dict):
        dict.update(holder, before)
    else:
        holder.update(before.values()) if isinstance(holder, set) else holder.extend(before.values())


def put_back(holder: Any, key: Any, old: Any) -> None:
    if old is not MISSING:
        put(holder, key, old)
    elif isinstance(holder, _Part):
        holder.whole.pop(key, None)
    elif isinstance(holder, dict):
        holder.pop(key, None)
