"""What a label rule sees of the operator that it is asked about, and what it may record."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from torch import Tensor

from fxprune import nested
from fxprune.labels.store import Axis, LabelStore, Role

__all__ = ["Call", "Labelled", "MacTerm", "Rule"]


@dataclass(frozen=True, slots=True, eq=False)
class MacTerm:
    """Multiply-accumulates of one contraction: ``constant * prod(kept entries of each axis)``."""

    node: str
    constant: int
    axes: tuple[np.ndarray, ...]


class Labelled(Protocol):
    """A run in which tensors have labels (`fxprune.tracing.labelling.label_mode.LabelMode`).

    Attributes:
        store: the facts recorded so far.
        macs: one term a contraction.
        node: the graph node that runs now.
        statistics_nodes: nodes that compute a statistic -> the axes that it runs over.
    """

    store: LabelStore
    macs: list[MacTerm]
    node: str
    statistics_nodes: dict[str, list[Axis]]

    def axes(self, tensor: Tensor) -> tuple[Axis, ...]: ...
    def label(self, tensor: Tensor, axes: Sequence[Axis]) -> None: ...
    def known(self, tensor: Tensor) -> Tensor | None: ...
    def role(self, axis: Axis, role: Role) -> None: ...
    def cause(self, text: str) -> int: ...
    def names_sizes(self) -> bool: ...
    def is_literal(self, size: int) -> bool: ...
    def computed(self, *numbers: int | None) -> bool: ...
    def asked_sizes(self, shape: Sequence[int]) -> list[tuple[bool, int, int]]: ...
    def sized(self, store: LabelStore, shape: Sequence[int], position: int) -> Axis: ...


@dataclass(eq=False)
class Call:
    """One call of an operator: ``call["dim"]`` is an argument by its name in the operator's schema, defaults included.

    A rule records what must go together (`unify`), what cannot go (`fix`), and labels the outputs (`set`).

    Attributes:
        mode: the run, for what the methods here do not offer: known values of constants, sizes that the graph names.
        name: of the operator, without its namespace.
        args: arguments by name.
        out: what the operator returned.
    """

    mode: Labelled
    name: str
    args: dict[str, Any]
    out: Any

    def __getitem__(self, name: str) -> Any:
        return self.args[name]

    def get(self, name: str, default: Any = None) -> Any:
        """An argument that not every operator of the rule has."""
        return self.args.get(name, default)

    @cached_property
    def inputs(self) -> list[Tensor]:
        """The tensors among the arguments."""
        return nested.tensors(self.args)

    @cached_property
    def outputs(self) -> list[Tensor]:
        """The tensors that the operator returned."""
        return nested.tensors(self.out)

    @property
    def store(self) -> LabelStore:
        return self.mode.store

    @property
    def cause(self) -> int:
        """The cause "this operator at this node"."""
        return self.mode.cause(self.name)

    def because(self, text: str) -> int:
        """The cause `text` at this node."""
        return self.mode.cause(text)

    def axes(self, tensor: Tensor) -> tuple[Axis, ...]:
        """The labels of a tensor, an axis each."""
        return self.mode.axes(tensor)

    def set(self, axes: Sequence[Axis], out: Tensor | None = None) -> None:
        """Label the output (the first one by default)."""
        self.mode.label(self.out if out is None else out, axes)

    def unify(self, a: Axis, b: Axis) -> Axis:
        """Equal indices of both axes are one channel; returns the axis that stands for both."""
        return self.store.unify(a, b, self.cause)

    def fix(self, axis: Axis, why: str | None = None) -> Axis:
        """No entry of the axis can go; returns the fixed axis."""
        return self.store.fix(axis, self.cause if why is None else self.because(why))

    def statistics(self, axis: Axis) -> None:
        """A statistic runs over the axis: where entries go, it is taken over fewer."""
        if axis.labels is not None:
            self.store.mark_statistics(axis)
            self.mode.statistics_nodes.setdefault(self.mode.node, []).append(axis)

    def role(self, axis: Axis, role: Role) -> None:
        """What a parameter's axis is to its layer."""
        self.mode.role(axis, role)

    def macs(self, *axes: Axis, times: int = 1) -> None:
        """The operator multiplies and accumulates ``times * prod(sizes of the axes)`` times."""
        constant, free = times, []
        for axis in axes:
            if axis.labels is None:
                constant *= axis.size
            else:
                free.append(axis.labels)
        self.mode.macs.append(MacTerm(self.mode.node, constant, tuple(free)))


Rule = Callable[[Call], None]
