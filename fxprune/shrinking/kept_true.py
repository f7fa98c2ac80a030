"""Numbers of channels among the attributes of modules that no code of theirs needs, but others read: ``num_features``,
``in_channels``, ``embed_dim``, ``feature_info``.

A number that code of the module makes a layer from becomes the size of that layer (`fxprune.shrinking.remade`). Else one that
a name calls so, and that is the size of what the module takes or gives, of a tensor of its own, or of what its parts take and
give, in that order, becomes the size that this has now; where axes of one size now have several, it stays.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import fx, nn

from fxprune import nested
from fxprune.labels.store import Axis, axes_in
from fxprune.rewrite import Rewritten
from fxprune.shrinking.remade import numbers_of_layers
from fxprune.shrinking.slots import Field, Setting, Slot, named_slots_of, slots_of

__all__ = ["by_attribute", "numbers_of_channels"]

_CHANNELS = re.compile(r"(features|dims?|channels|chs|chans|width|hidden|planes|embed|size|heads)s?(_?\d+)?$|^(in|out|c)$")
_OTHERS = re.compile(r"(kernel|patch|window|img|image|input|grid|vocab|pool|batch|stride|crop)")

Sizes = dict[int, set[int]]


def numbers_of_channels(model: nn.Module, made: nn.Module, rewritten: Rewritten) -> dict[str, list[Setting]]:
    """Module -> the numbers of a copy that are to be set, of those that are still what they are in the model."""
    seen, found, copies = _Evidence(rewritten), {}, dict(made.named_modules())
    for name, part in model.named_modules():
        if type(part).__module__.startswith("torch.nn.") and not part._modules:
            continue  # a layer, which has its sizes
        chosen = []
        there, layers = dict(_slots(copies[name])), numbers_of_layers(part, copies[name])
        for slot, number in _slots(part):
            key = next((k for k in reversed((slot.attribute, *slot.path)) if isinstance(k, str)), "")
            if there.get(slot) != number or number < 2:
                continue
            named, new = _names_part(part, slot), layers.get(slot)
            if isinstance(slot.path[0] if slot.path else None, Field) and named is None:
                continue
            if new is None and _CHANNELS.search(key) and not _OTHERS.search(key):
                new = seen.size(name, number, named, key)
                if named is None and slot.path and _twice(slot, number, part) and seen.several(name, number):
                    continue  # which of them is which is not known
            if new is not None and new != number:
                chosen.append(Setting(slot, number, new))
        if chosen:
            found[name] = chosen
    return found


def by_attribute(chosen: Mapping[str, Sequence[Setting]]) -> dict[str, dict[str, list[Setting]]]:
    """The same numbers, attribute by attribute: code that reads one for something else does so in all modules of its class."""
    found: dict[str, dict[str, list[Setting]]] = {}
    for name, settings in chosen.items():
        for one in settings:
            found.setdefault(one.slot.attribute, {}).setdefault(name, []).append(one)
    return found


def _slots(module: nn.Module) -> Iterator[tuple[Slot, int]]:
    yield from slots_of(module)
    yield from named_slots_of(module)


def _twice(slot: Slot, number: int, module: nn.Module) -> bool:
    """Whether what holds a number holds it at another place, too."""
    holder = Slot(slot.part, slot.attribute, slot.path[:-1]).get(module)
    return list(holder.values() if isinstance(holder, Mapping) else holder).count(number) > 1


def _names_part(module: nn.Module, slot: Slot) -> str | None:
    """The module that an entry names beside a number: ``{"num_chs": 64, "module": "layer1"}``."""
    if not slot.path:
        return None
    holder = Slot(slot.part, slot.attribute, slot.path[:-1]).get(module)
    name = holder.get("module") if isinstance(holder, Mapping) else None
    return name if isinstance(name, str) else None


class _Evidence:
    """Sizes before -> after, by where they are."""

    def __init__(self, rewritten: Rewritten) -> None:
        self.cut, self.traced = rewritten.cut, rewritten.cut.analysis.traced
        self.calls: dict[str, list[tuple[Any, Any]]] = {}
        for call in self.traced.calls:
            self.calls.setdefault(call.name, []).append(((call.args, call.kwargs), call.output))
        self.scopes: dict[str, list[fx.Node]] = {}
        for node in self.traced.graph.nodes:
            self.scopes.setdefault(str(node.meta.get("scope", "")), []).append(node)
            if node.op == "call_module":
                self.calls.setdefault(str(node.target), []).append((node.args, node))
        self.tensors: dict[str, list[str]] = {}
        for name in self.traced.tensors:
            self.tensors.setdefault(name.rpartition(".")[0], []).append(name)
        self.children: dict[str, list[str]] = {}
        for name in self.calls:  # in the order in which calls end
            if name:
                self.children.setdefault(self._caller(name), []).append(name)

    def _caller(self, name: str) -> str:
        """The module around it that is called: not a list of modules."""
        while name := name.rpartition(".")[0]:
            if name in self.calls:
                break
        return name

    def size(self, name: str, number: int, named: str | None, key: str) -> int | None:
        """What a number of a module became; None where nothing says so, or not clearly."""
        if named is not None:
            return self._decided(self._calls_of(name, named), number)
        for sizes in self._places(name, key):
            news = sizes.get(number)
            if news:
                return next(iter(news)) if len(news) == 1 else None
        return None

    def several(self, name: str, number: int) -> bool:
        """Whether axes of this size in a module have several sizes now."""
        return len({new for sizes in self._places(name, "") for new in sizes.get(number, ())}) > 1

    def _places(self, name: str, key: str) -> Iterator[Sizes]:
        calls = self.calls.get(name, [])
        if "head" in key:
            yield self._sizes(self.scopes.get(name, []))
        ways = [given for given, _ in calls], [out for _, out in calls]
        for values in ways if re.match(r"in(_|$)", key) else reversed(ways):
            yield self._sizes(values)
        yield self._of_tensors(name)
        yield self._sizes(self.scopes.get(name, []))
        pending = list(self.children.get(name, []))
        while pending:  # the last first, what is in it after it
            child = pending.pop()
            sizes = self._of_tensors(child)
            for part in self.calls.get(child, []):
                for old, news in self._sizes(part).items():
                    sizes.setdefault(old, set()).update(news)
            yield sizes
            pending += self.children.get(child, [])

    def _calls_of(self, name: str, named: str) -> list[tuple[Any, Any]]:
        """The calls of a module that an entry of another one names, by the name that it has there, or had before it was put
        into a holder, or out of one (``body.layer1``, ``layers_0``).
        """
        full, prefix = f"{name}.{named}".lstrip("."), f"{name}." if name else ""
        for found in (
            [full],
            [n for n in self.calls if n.replace(".", "_") == full.replace(".", "_")],
            [n for n in self.calls if n.startswith(prefix) and n.endswith(f".{named}")],
        ):
            if len(found) == 1 and found[0] in self.calls:
                return self.calls[found[0]]
        return []

    def _decided(self, calls: list[tuple[Any, Any]], number: int) -> int | None:
        """What became of a size of one map: that it puts out, else that it takes."""
        for value in ([out for _, out in calls], [given for given, _ in calls]):
            news = self._sizes(value).get(number, set())
            news = news - {number} or news  # an axis of its places may have that size, too
            if news:
                return next(iter(news)) if len(news) == 1 else None
        return None

    def _sizes(self, value: Any) -> Sizes:
        axes = [self.traced.axes.get(n) for n in nested.instances(fx.Node, value)]
        return self._of_axes(list(axes_in([x for x in axes if x is not None])))

    def _of_tensors(self, name: str) -> Sizes:
        return self._of_axes([a for n in self.tensors.get(name, []) for a in self.traced.mode.axes(self.traced.tensors[n])])

    def _of_axes(self, axes: list[Axis]) -> Sizes:
        sizes: Sizes = {}
        for axis in axes:
            if axis.labels is not None and not axis.dynamic:
                sizes.setdefault(axis.size, set()).add(self.cut.size(axis))
        return sizes
