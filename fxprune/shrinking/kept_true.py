"""Numbers of channels among the attributes of modules that no code of theirs needs, but others read: ``num_features``,
``in_channels``, ``embed_dim``, ``feature_info``.

A number that a name calls so, and that is the size of what the module takes or gives, of a tensor of its own, or of what its
parts take and give, in that order, becomes the size that this has now; where axes of one size now have several, it stays.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from torch import fx, nn

from fxprune import nested
from fxprune.labels.store import Axis, axes_in
from fxprune.rewrite import Rewritten
from fxprune.shrinking.slots import Setting, Slot, slots_of

__all__ = ["numbers_of_channels"]

_CHANNELS = re.compile(r"(features|dims?|channels|chs|chans|width|hidden|planes|embed|size|heads)(_?\d+)?$|^(in|out|c)$")
_OTHERS = re.compile(r"(kernel|patch|window|img|image|input|grid|vocab|pool|batch|stride|crop)")

Sizes = dict[int, set[int]]


def numbers_of_channels(model: nn.Module, made: nn.Module, rewritten: Rewritten) -> dict[str, list[Setting]]:
    """Module -> the numbers of a copy that are to be set, of those that are still what they are in the model."""
    seen, found, copies = _Evidence(rewritten), {}, dict(made.named_modules())
    for name, part in model.named_modules():
        chosen = []
        there = dict(slots_of(copies[name]))
        for slot, number in slots_of(part):
            if there.get(slot) != number:
                continue
            key = next((k for k in reversed((slot.attribute, *slot.path)) if isinstance(k, str)), "")
            if number < 2 or not _CHANNELS.search(key) or _OTHERS.search(key):
                continue
            new = seen.size(name, number, _names_part(part, slot), "head" in key)
            if new is not None and new != number:
                chosen.append(Setting(slot, number, new))
        if chosen:
            found[name] = chosen
    return found


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
                self.children.setdefault(name.rpartition(".")[0], []).append(name)

    def size(self, name: str, number: int, named: str | None, heads: bool) -> int | None:
        """What a number of a module became; None where nothing says so, or not clearly."""
        if named is not None:
            full = f"{name}.{named}".lstrip(".")
            return self._decided([out for _, out in self.calls.get(full, [])], number)
        for sizes in self._places(name, heads):
            news = sizes.get(number)
            if news:
                return next(iter(news)) if len(news) == 1 else None
        return None

    def _places(self, name: str, heads: bool) -> Iterator[Sizes]:
        calls = self.calls.get(name, [])
        if heads:
            yield self._sizes(self.scopes.get(name, []))
        yield self._sizes([out for _, out in calls])
        yield self._sizes([given for given, _ in calls])
        yield self._of_tensors(name)
        yield self._sizes(self.scopes.get(name, []))
        for child in reversed(self.children.get(name, [])):
            sizes = self._of_tensors(child)
            for part in self.calls.get(child, []):
                for old, news in self._sizes(part).items():
                    sizes.setdefault(old, set()).update(news)
            yield sizes

    def _decided(self, value: Any, number: int) -> int | None:
        news = self._sizes(value).get(number, set())
        return next(iter(news)) if len(news) == 1 else None

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
