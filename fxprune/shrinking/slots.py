"""Places where a module holds whole numbers: its attributes, and what is in them."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

__all__ = ["Field", "Setting", "Slot", "combinations", "named_slots_of", "settings", "slots_of"]

_INTERNAL = frozenset(nn.Module().__dict__)
_MOST = 400  # combinations that are tried of one module


class Field(str):
    """An attribute of an object on the way to a number, where others are keys."""


@dataclass(frozen=True)
class Slot:
    """One number.

    Attributes:
        part: name of a module below the one that is fitted; empty for itself.
        attribute: its attribute.
        path: where in that: keys and positions, and fields of objects.
    """

    part: str
    attribute: str
    path: tuple[Any, ...] = ()

    def get(self, module: nn.Module) -> Any:
        """What stands there."""
        value = module.get_submodule(self.part).__dict__[self.attribute]
        for key in self.path:
            value = getattr(value, key) if isinstance(key, Field) else value[key]
        return value

    def put(self, module: nn.Module, number: Any) -> None:
        """Set it; containers are made anew, since others may hold them."""
        table = module.get_submodule(self.part).__dict__
        table[self.attribute] = _with(table[self.attribute], self.path, number)

    def __str__(self) -> str:
        steps = (f".{key}" if isinstance(key, Field) else f"[{key!r}]" for key in self.path)
        return f"{self.part}.{self.attribute}".lstrip(".") + "".join(steps)


@dataclass(frozen=True)
class Setting:
    """A number that is set.

    Attributes:
        old, new: what stood there, and what stands there now.
    """

    slot: Slot
    old: Any
    new: Any


def _with(value: Any, path: tuple[Any, ...], number: Any) -> Any:
    if not path:
        return number
    key, *rest = path
    if isinstance(key, Field):
        thing = copy.copy(value)
        setattr(thing, key, _with(getattr(value, key), tuple(rest), number))
        return thing
    if isinstance(value, Mapping):
        made: Any = value.copy()  # type: ignore[attr-defined]
        made[key] = _with(value[key], tuple(rest), number)
        return made
    items = list(value)
    items[key] = _with(items[key], tuple(rest), number)
    if isinstance(value, list):
        return items
    return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)


def slots_of(module: nn.Module, part: str = "") -> Iterator[tuple[Slot, int]]:
    """Every whole number among the attributes of a module, with its place."""
    for attribute, value in module.get_submodule(part).__dict__.items():
        if attribute not in _INTERNAL:
            for path, number in _numbers(value):
                yield Slot(part, attribute, path), number


def named_slots_of(module: nn.Module) -> Iterator[tuple[Slot, int]]:
    """Whole numbers in dicts, in lists of the objects among the attributes of a module: what a description of its maps has."""
    for attribute, value in module.__dict__.items():
        if attribute in _INTERNAL or isinstance(value, (nn.Module, torch.Tensor, type)) or callable(value):
            continue
        for field, inner in getattr(value, "__dict__", {}).items():
            if isinstance(inner, (list, dict)):
                for path, number in _numbers(inner):
                    if isinstance(path[-1], str):
                        yield Slot("", attribute, (Field(field), *path)), number


def _numbers(value: Any, depth: int = 3) -> Iterator[tuple[tuple[Any, ...], int]]:
    if type(value) is int:
        yield (), value
    elif depth and isinstance(value, (list, tuple, torch.Size)) and len(value) <= 64:
        for position, item in enumerate(value):
            yield from (((position, *path), n) for path, n in _numbers(item, depth - 1))
    elif depth and type(value) is dict and len(value) <= 64:
        for key, item in value.items():
            yield from (((key, *path), n) for path, n in _numbers(item, depth - 1))


def settings(module: nn.Module, numbers: Mapping[int, Sequence[int]], part: str = "") -> list[Setting]:
    """The numbers of a module that may have to be others."""
    return [Setting(slot, n, new) for slot, n in slots_of(module, part) for new in numbers.get(n, ()) if new != n]


def combinations(found: Sequence[Setting]) -> Iterator[tuple[Setting, ...]]:
    """Some of the settings together, the fewest first, each slot once."""
    tried = 0
    for count in range(1, len(found) + 1):
        for chosen in itertools.combinations(found, count):
            if len({s.slot for s in chosen}) == count:
                yield chosen
                tried += 1
                if tried == _MOST:
                    return
