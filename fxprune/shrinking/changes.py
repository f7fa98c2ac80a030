"""What a rewrite changed: each argument that names a size, where the model's code has it, and in which of its modules."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor, fx

from fxprune import nested
from fxprune.labels.store import axes_in
from fxprune.labels.table import key_of, known
from fxprune.rewrite import Rewritten

__all__ = ["Change", "calls_of", "changed", "numbers_of", "sizes_at"]


@dataclass(frozen=True, eq=False)
class Change:
    """A node whose arguments may be others than before.

    Attributes:
        old: the traced node.
        new: that of the slim graph.
        scope: name of the module whose code calls it.
    """

    old: fx.Node
    new: fx.Node
    scope: str


def calls_of(rewritten: Rewritten) -> list[Change]:
    """The functions and methods that a graph calls with sizes, in the order of the graph."""
    pairs = ((new, old) for new, old in rewritten.context.origin.items() if new.op in ("call_function", "call_method"))
    return [
        Change(old, new, str(old.meta.get("scope", ""))) for new, old in pairs if _takes_sizes(old) or _form(new) != _form(old)
    ]


def changed(calls: list[Change]) -> list[Change]:
    """Those whose arguments are others than before."""
    return [call for call in calls if _form(call.new) != _form(call.old)]


def _takes_sizes(node: fx.Node) -> bool:
    operator = known(key_of(node.op, node.target))
    return operator is not None and operator.repair is not None


def _form(node: fx.Node) -> Any:
    """Target and arguments, in which nodes stand by name."""
    args, kwargs = nested.map(lambda v: f"%{v.name}" if isinstance(v, fx.Node) else v, (tuple(node.args), dict(node.kwargs)))
    return node.target, _plain(args), _plain(kwargs)


def _plain(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    return (value.start, value.stop, value.step) if isinstance(value, slice) else value


def numbers_of(changes: list[Change]) -> dict[str, dict[int, list[int]]]:
    """``{scope: {number before: numbers after}}`` of the arguments that changed, the commonest first."""
    counts: dict[str, dict[int, dict[int, int]]] = defaultdict(lambda: defaultdict(lambda: defaultdict(int)))
    for change in changes:
        for old, new in _pairs((change.old.args, dict(change.old.kwargs)), (change.new.args, dict(change.new.kwargs))):
            counts[change.scope][old][new] += 1
    return {
        scope: {old: sorted(news, key=lambda n: -news[n]) for old, news in found.items()} for scope, found in counts.items()
    }


def _pairs(old: Any, new: Any) -> Iterator[tuple[int, int]]:
    """Numbers at the same place of two nested values that differ."""
    if isinstance(old, slice) and isinstance(new, slice):
        old, new = (old.start, old.stop), (new.start, new.stop)
    if isinstance(old, (list, tuple)) and isinstance(new, (list, tuple)):
        for a, b in zip(old, new, strict=False):
            yield from _pairs(a, b)
    elif isinstance(old, dict) and isinstance(new, dict):
        for key in old.keys() & new.keys():
            yield from _pairs(old[key], new[key])
    elif type(old) is int and type(new) is int and old != new:
        yield old, new
    elif type(old) is int and isinstance(new, (list, tuple)) and new and all(type(v) is int for v in new):  # chunk -> split
        yield from ((old, v) for v in dict.fromkeys(new) if v != old)


def sizes_at(rewritten: Rewritten, value: Any) -> dict[int, list[int]]:
    """``{size before: sizes after}`` of the axes of a nested value, traced nodes in the place of tensors."""
    traced, cut = rewritten.cut.analysis.traced, rewritten.cut
    found: dict[int, dict[int, None]] = {}
    for node in nested.instances(fx.Node, value):
        axes = traced.axes.get(node)
        for axis in axes_in([axes]) if axes is not None else ():
            if axis.labels is not None and cut.kept(axis) is not None:
                found.setdefault(axis.size, {})[cut.size(axis)] = None
    return {old: list(new) for old, new in found.items()}


def tensors_cut(rewritten: Rewritten) -> dict[str, tuple[tuple[int, ...], tuple[int, ...]]]:
    """``{tensor: (shape before, shape after)}`` of those that lose entries."""
    known: dict[str, Tensor] = rewritten.cut.analysis.traced.tensors
    found = {}
    for name, axes in rewritten.cut.tensors.items():
        before = tuple(known[name].shape)
        found[name] = before, tuple(len(axes[d]) if d in axes else n for d, n in enumerate(before))
    return found
