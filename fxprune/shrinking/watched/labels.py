"""The labels of a plain run on real tensors: no proxies, so that code may do with values what it likes."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fxprune import nested
from fxprune.labels.store import Axis, LabelStore
from fxprune.labels.table import keys_of_layer
from fxprune.shrinking.watched.operators import Decisions, Scopes, decomposes, is_silent, name_of, number_of, takes_number
from fxprune.state import named_parts
from fxprune.tracing.labelling.interpret import label_input, label_outputs
from fxprune.tracing.labelling.label_mode import LabelMode
from fxprune.tracing.skeleton import Names
from fxprune.tracing.values.constants import Constants, is_small_factory

__all__ = ["Diverged", "Heard", "Seen", "Watching", "axes_of", "label_calls"]


@dataclass(frozen=True, eq=False)
class Seen:
    """An operator of a labelled run.

    Attributes:
        node: its name, with its number.
        scope: the module in whose code it ran.
        inputs, axes: of each tensor among its arguments and its results, the axes, in the order of `nested.tensors`.
    """

    func: Any
    node: str
    scope: str
    inputs: list[tuple[Axis, ...]]
    axes: list[tuple[Axis, ...]]


@dataclass(frozen=True, eq=False)
class Heard:
    """An operator of another run, whose path is taken.

    Attributes:
        args: its positional and keyword arguments, with an empty tensor for each tensor.
        out: its results: copies; views are None, and what has no tensor is as it was.
        calm: of one that draws by a probability, what it returns where that is zero; else None.
    """

    func: Any
    scope: str
    args: Any
    out: Any
    calm: Any = None


class Diverged(Exception):
    """A run left the path of another at an operator.

    Attributes:
        number: of the operator.
    """

    def __init__(self, number: int, what: str) -> None:
        super().__init__(what)
        self.number = number


class Watching(LabelMode):
    """Labels the tensors of a real run.

    Attributes:
        seen: the operators so far.
        layers: layer of torch.nn -> axes of its first input and of its output, at its first call.
        decisions: truth values that code asked for.
    """

    def __init__(self, model: nn.Module, path: Sequence[Heard] | None = None, decisions: Decisions | None = None) -> None:
        super().__init__()
        self._axes: Any = _Live()
        self._constants = _Own()
        self.names = Names(model)
        self.seen: list[Seen] = []
        self.layers: dict[str, tuple[Any, Any]] = {}
        self.path = path
        self.decisions = decisions or Decisions()
        self.order: dict[str, None] = {}  # the tensors of the model that were read
        self.inputs: list[tuple[Axis, ...]] = []  # of the operator that runs, or was to run
        for tensor in self.names.tensors.values():
            if tensor.is_floating_point() or tensor.is_complex():
                self.label(tensor, [self.store.fresh(int(size)) for size in tensor.shape])
            elif tensor.dim():
                self.set_known(tensor, tensor)
        self.scopes = Scopes(model)
        for name, part in named_parts(model, once=True):
            if keys_of_layer(type(part)) and not part._modules:
                part.register_forward_hook(self._noting(name))

    def _noting(self, name: str) -> Any:
        def note(module: nn.Module, args: Any, output: Any) -> None:
            if name not in self.layers and args and isinstance(args[0], Tensor) and isinstance(output, Tensor):
                self.layers[name] = (self.axes(args[0]), self.axes(output))

        return note

    def sized(self, store: LabelStore, shape: Sequence[int], position: int) -> Axis:
        """A fill follows what it meets: whether code asks for the size that is right then, a comparison says."""
        return store.fresh(int(shape[position]))

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if decomposes(func) or is_silent(func):
            return super().__torch_dispatch__(func, types, args, kwargs)
        number = len(self.seen)
        self.inputs = inputs = axes_of(self, (args, kwargs))
        if self.path is not None and (number >= len(self.path) or self.path[number].func is not func):
            there = self.path[number].func if number < len(self.path) else "nothing more"
            raise Diverged(number, f"the dense model runs {func}, the slim one {there}")
        self.node, self.source = f"{name_of(func)}_{number}", f"in {self.scopes.now or 'the model itself'}"
        for tensor in nested.tensors((args, kwargs)):
            name = self.names.tensor_names.get(id(tensor))
            if name is not None:
                self.order.setdefault(name)
        out = super().__torch_dispatch__(func, types, args, kwargs)
        self.seen.append(Seen(func, self.node, self.scopes.now, inputs, axes_of(self, out)))
        return out

    def _run(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if takes_number(func):
            return self._given(func, args, kwargs)
        constant = self._constants.compute(func, args, kwargs)
        out = func(*args, **kwargs)
        if constant is not None:
            self._constants.keep(out, out)
        if self.path is not None and not is_silent(func):
            _follow(out, self.path[len(self.seen)].out)
        return out

    def _number(self, tensor: Tensor) -> Any:
        return self._given(torch.ops.aten._local_scalar_dense.default, (tensor,), {})

    def _given(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A number that code asks for: that of the path, if one is taken."""
        return self.decisions(number_of(func, args, kwargs)) if self.path is None else self.path[len(self.seen)].out

    def inputs_at(self, number: int) -> list[tuple[Axis, ...]]:
        """Of an operator that ran, or of the one that was to run next."""
        return self.seen[number].inputs if number < len(self.seen) else self.inputs

    def axes_before(self, number: int) -> list[tuple[Axis, ...]]:
        """Of what the operator before returned."""
        return self.seen[number - 1].axes if 0 < number <= len(self.seen) else []

    def leaves(self, tensor: Tensor) -> None:
        """What happens to values outside of PyTorch's operators is not seen: nothing of them can go."""
        for axis in self.axes(tensor):
            self.store.fix(axis, self.cause("its values leave PyTorch, as numbers of Python or NumPy"))


def _follow(out: Any, other: Any) -> None:
    """Give results the values of another run, where shapes are equal: what channels went of has another."""
    for mine, its in zip(nested.tensors(out), nested.tensors(other), strict=False):
        if mine.shape == its.shape and mine.dtype == its.dtype and 0 not in mine.stride():
            mine.copy_(its)


def axes_of(mode: LabelMode, value: Any) -> list[tuple[Axis, ...]]:
    """The axes of each tensor in a nested value."""
    return [mode.axes(tensor) for tensor in nested.tensors(value)]


def label_calls(mode: LabelMode, model: nn.Module) -> None:
    """Have each call of a copy of a model label its inputs, and fix its outputs."""

    def enter(module: nn.Module, args: Any, kwargs: Any) -> None:
        label_input(mode, (args, kwargs))

    def leave(module: nn.Module, args: Any, output: Any) -> None:
        label_outputs(mode, output)

    model.register_forward_pre_hook(enter, with_kwargs=True, prepend=True)
    model.register_forward_hook(leave)


class _Live:
    """Labels of the tensors that are alive: a real run would hold all of its memory otherwise.

    A tensor that another object of Python or C++ still holds keeps its Python object, and so its id.
    """

    def __init__(self) -> None:
        self._entries: dict[int, tuple[weakref.ref[Tensor], tuple[Axis, ...]]] = {}

    def get(self, key: int) -> tuple[Tensor | None, tuple[Axis, ...]] | None:
        entry = self._entries.get(key)
        return None if entry is None else (entry[0](), entry[1])

    def __setitem__(self, key: int, entry: tuple[Tensor, tuple[Axis, ...]]) -> None:
        entries = self._entries

        def dead(reference: weakref.ref[Tensor]) -> None:
            if key in entries and entries[key][0] is reference:
                del entries[key]

        entries[key] = (weakref.ref(entry[0], dead), entry[1])

    def values(self) -> Iterator[tuple[Tensor, tuple[Axis, ...]]]:
        for reference, axes in list(self._entries.values()):
            tensor = reference()
            if tensor is not None:
                yield tensor, axes


class _Own(Constants):
    """Constants of a real run are their own values: what is made of neither inputs nor weights."""

    def get(self, tensor: Tensor) -> Tensor | None:
        return tensor if id(tensor) in self._values else None

    def compute(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """True where the result is a constant, too."""
        inputs = nested.tensors((args, kwargs))
        known = all(self.get(tensor) is not None for tensor in inputs)
        if not known:
            self._forget(func, inputs)
        made = bool(inputs) or is_small_factory(func, args, kwargs)
        return True if known and made and torch.Tag.nondeterministic_seeded not in func.tags else None

    def keep(self, out: Any, value: Any) -> None:
        for tensor in nested.tensors(out):
            self.set(tensor, tensor)
