"""The dense model beside the slim one, operator by operator: the same sequence, the same settings, and of what each operator of
the dense model returns, the removed entries masked, the rest is what the slim model has there.

The slim model runs first, plainly. The dense one takes its path: where code asks a tensor for a number it gets that of the slim
model, and each result that has lost nothing has its values, so that no rounding can send the two different ways. What
remains to be shown is that each operator makes equal results of equal inputs; that is compared at every one.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fxprune import nested
from fxprune.analysis.cut import Cut
from fxprune.labels.store import Axis, axes_in
from fxprune.proofs.errors import relative_error
from fxprune.proofs.precision import tolerance_of
from fxprune.proofs.references import Whole, reference_of
from fxprune.shrinking.watched.labels import Diverged, Heard, Watching
from fxprune.shrinking.watched.operators import (
    Decisions,
    Operators,
    Scopes,
    is_by_chance,
    name_of,
    number_of,
    numbers_apart,
    takes_number,
    without_chance,
)
from fxprune.tracing.state.effects import written

__all__ = ["Compared", "Fault", "Hearing", "Masking", "close", "kept_of", "masked", "picked", "same_results"]


class Hearing(Operators):
    """Keeps what each operator of a run returns.

    Attributes:
        heard: the operators so far.
        trying: the one that runs, or the last that did: name of its module, and the shapes of its inputs.
    """

    def __init__(self, model: nn.Module, decisions: Decisions) -> None:
        super().__init__()
        self.scopes, self.decisions = Scopes(model), decisions
        self.heard: list[Heard] = []
        self.trying: tuple[Any, str] = (None, "")

    def operator(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self.trying = func, self.scopes.now
        plain = nested.map(lambda v: _NO_TENSOR if isinstance(v, Tensor) else v, (args, kwargs))
        calm = without_chance(func, args, kwargs)
        out = self.decisions(number_of(func, args, kwargs)) if takes_number(func) else func(*args, **kwargs)
        kept = None if is_view(func) else nested.map(lambda v: v.clone() if isinstance(v, Tensor) else v, out)
        self.heard.append(Heard(func, self.scopes.now, plain, kept, calm))
        return out


_NO_TENSOR = torch.empty(0)


def is_view(func: Any) -> bool:
    """Whether what an operator returns is another look at the memory of its input, which was compared there."""
    returns = func._schema.returns
    return bool(returns) and all(r.alias_info is not None and not r.alias_info.is_write for r in returns)


@dataclass(frozen=True)
class Fault:
    """An operator at which the two are not alike.

    Attributes:
        number: of the operator.
        axes: the labels of what it reads and returns.
        places: axes of tensors of the model that are wrong themselves: name and number.
        rounding: it may be no more than that.
    """

    number: int
    scope: str
    what: str
    axes: list[Axis] = field(default_factory=list)
    places: list[tuple[str, int]] = field(default_factory=list)
    rounding: bool = False


def kept_of(cut: Cut, axes: Any) -> dict[int, np.ndarray]:
    """``{axis: entries that remain}`` of a tensor with these labels, of the axes that lose some."""
    return {d: kept for d, a in enumerate(axes) if (kept := cut.kept(a)) is not None}


@dataclass
class Compared:
    """What a comparison found.

    Attributes:
        error: the largest relative difference of a result.
        statistics, unreferenced: operators that take a statistic over channels that go; those that have no reference.
    """

    faults: list[Fault] = field(default_factory=list)
    error: float = 0.0
    operators: int = 0
    statistics: int = 0
    unreferenced: list[str] = field(default_factory=list)


class Masking(Operators):
    """Runs the dense model on the path of the slim one, with removed entries masked in what each operator returns."""

    def __init__(self, heard: list[Heard], labels: Watching, cut: Cut, dtype: torch.dtype) -> None:
        super().__init__()
        self.heard, self.labels, self.cut = heard, labels, cut
        self.tolerance = tolerance_of(dtype)
        self.number = 0
        self.found = Compared()

    def operator(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        number, self.number = self.number, self.number + 1
        if number >= len(self.heard) or self.heard[number].func is not func:
            raise Diverged(number, f"the masked model runs {func} where the slim one does not")
        heard, seen = self.heard[number], self.labels.seen[number]
        if takes_number(func):
            own = number_of(func, args, kwargs)
            if type(own) is not bool and not close(torch.tensor(own), torch.tensor(heard.out), self.tolerance):
                self._fault(number, f"the number {own:.6g} became {heard.out:.6g}")
            return heard.out
        out: Any = NotImplemented
        if any(self.cut.kept(axis) is not None for axis in self.labels.statistics_nodes.get(seen.node, ())):
            out = self._statistic(func, args, kwargs, number)
        if out is NotImplemented:
            out = func(*args, **kwargs)
        calm = without_chance(func, args, kwargs)
        if calm is not None and self.heard[number].calm is not None:
            self._compare(number, func, calm, self.heard[number].calm)
        drawn = is_by_chance(func, args, kwargs)
        if drawn and numbers_apart((args, kwargs), heard.args):
            self._fault(number, f"{name_of(func)} draws by other numbers")
        self._compare(number, func, out, heard.out, drawn)
        by_id = dict(zip(map(id, nested.tensors((args, kwargs))), seen.inputs, strict=True))
        for tensor in written(func, args, kwargs):
            masked(tensor, kept_of(self.cut, by_id[id(tensor)]))
        return out

    def _fault(self, number: int, what: str, rounding: bool = False) -> None:
        seen = self.labels.seen[number]
        self.found.faults.append(Fault(number, seen.scope, what, axes_in([seen.inputs, seen.axes]), rounding=rounding))

    def _compare(self, number: int, func: Any, out: Any, other: Any, drawn: bool = False) -> None:
        """Compare what remains of the results, and give them the very values of the slim model; the rest becomes zero."""
        self.found.operators += 1
        if other is None:  # a view: its memory was compared
            return
        for mine, its, axes in zip(nested.tensors(out), nested.tensors(other), self.labels.seen[number].axes, strict=True):
            kept = kept_of(self.cut, axes)
            shape = [len(kept[d]) if d in kept else n for d, n in enumerate(mine.shape)]
            if shape != list(its.shape) or mine.dtype is not its.dtype:
                raise Diverged(number, f"{name_of(func)} returns {list(its.shape)}, where {shape} of {list(mine.shape)} remain")
            if not drawn:
                found = picked(mine, kept)
                apart = relative_error(its, found) if its.is_floating_point() or its.is_complex() else 0.0
                if not close(its, found, self.tolerance):
                    self._fault(number, f"{name_of(func)} computes something else (off by {apart:.1e})", 0 < apart < 1e-2)
                else:
                    self.found.error = max(self.found.error, apart)
            if 0 not in mine.stride() and mine.numel():
                mine.copy_(spread(its, kept, list(mine.shape)))

    def _statistic(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], number: int) -> Any:
        """What a statistic over channels is over those that remain: by its reference, or else by the operator itself."""
        heard, seen = self.heard[number], self.labels.seen[number]
        self.found.statistics += 1
        axes = iter(seen.inputs)
        rest = nested.map(
            lambda v: picked(v, kept_of(self.cut, next(axes))) if isinstance(v, Tensor) else v, (args, dict(kwargs))
        )
        result = self._reference(func, args, kwargs, rest)
        if result is NotImplemented:
            self.found.unreferenced.append(seen.node)
            if numbers_apart((args, kwargs), heard.args) or written(func, args, kwargs):
                self._fault(number, f"{name_of(func)} has other settings")
                return NotImplemented
            own = nested.map(lambda mine, its: mine if isinstance(mine, Tensor) else its, rest, heard.args)
            result = func(*own[0], **own[1])
        wide = iter(seen.axes)

        def whole(v: Any) -> Any:
            if not isinstance(v, Tensor):
                return v
            labels = next(wide)
            return spread(v, kept_of(self.cut, labels), [a.size for a in labels])

        return nested.map(whole, result)

    def _reference(self, func: Any, args: Any, kwargs: Any, rest: tuple[Any, Any]) -> Any:
        function, seen = reference_of(name_of(func)), self.labels.seen[self.number - 1]
        tensors = nested.tensors((args, kwargs))
        if function is None or not tensors or func._schema.is_mutable:
            return NotImplemented
        sizes = tuple(tensors[0].shape)
        names = [a.name for a in func._schema.arguments]
        count = next((i for i, name in enumerate(names) if name.startswith("cudnn")), len(names))  # which says how, not what
        try:
            whole = function(Whole(sizes, (None,) * len(sizes)), *args[:count], **kwargs)
            if whole is NotImplemented or not relative_error(whole, func(*args, **kwargs)) <= self.tolerance:
                return NotImplemented
            kept = tuple(self.cut.kept(a) for a in seen.inputs[0])
            return function(Whole(sizes, kept), *rest[0][:count], **rest[1])
        except (TypeError, RuntimeError, ValueError, IndexError, KeyError, AttributeError):  # other arguments than it knows
            return NotImplemented


def same_results(own: Any, slim: Any) -> str:
    """What differs beside tensors in what two calls return; empty if nothing does."""
    mine, others = list(nested.leaves(own)), list(nested.leaves(slim))
    if len(mine) != len(others):
        return f"it returns {len(others)} values, and not {len(mine)}"
    for a, b in zip(mine, others, strict=True):
        if isinstance(a, Tensor) and isinstance(b, Tensor):
            if not close(b, a, tolerance_of(torch.float32)):
                return f"it returns another tensor ({list(b.shape)} for {list(a.shape)})"
        elif isinstance(a, Tensor) or isinstance(b, Tensor) or type(a) is not type(b):
            return f"it returns a {type(b).__name__} and not a {type(a).__name__}"
        elif isinstance(a, (bool, int, float, str)) and a != b and not (a != a and b != b):
            return f"it returns {b!r} and not {a!r}"
    return ""


def _index(kept: np.ndarray, device: torch.device) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(kept)).to(device)


def picked(tensor: Tensor, kept: dict[int, np.ndarray]) -> Tensor:
    """The entries that remain."""
    for dim, ids in kept.items():
        tensor = tensor.index_select(dim, _index(ids, tensor.device))
    return tensor


def spread(tensor: Tensor, kept: dict[int, np.ndarray], shape: Any) -> Tensor:
    """The entries in their places of the original, among zeros."""
    for dim, ids in kept.items():
        wide = tensor.new_zeros([shape[dim] if d == dim else n for d, n in enumerate(tensor.shape)])
        tensor = wide.index_copy_(dim, _index(ids, tensor.device), tensor)
    return tensor


def masked(tensor: Tensor, kept: dict[int, np.ndarray]) -> None:
    """Zero the others, in place."""
    for dim, ids in kept.items():
        gone = np.setdiff1d(np.arange(tensor.shape[dim]), ids)
        tensor.index_fill_(dim, _index(gone, tensor.device), 0)


def close(found: Tensor, expected: Tensor, tolerance: float) -> bool:
    """Whether two tensors are equal up to rounding; whole numbers and truth values, equal."""
    if found.shape != expected.shape:
        return False
    if not (found.is_floating_point() or found.is_complex()):
        return bool(torch.equal(found, expected))
    return relative_error(found, expected) <= tolerance
