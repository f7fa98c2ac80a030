"""A dispatch mode that labels the axes of every tensor while a model runs on the meta device.

Under ``torch.inference_mode`` the mode sees operators before they decompose (``aten.linear``, ``aten.einsum``,
``aten.layer_norm``, ...), so one rule covers what a user wrote; a composite operator without a rule decomposes into
operators that have one. An operator that no rule knows freezes every channel that touches it.
"""

from __future__ import annotations

import math
import operator
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn

from fxprune import nested
from fxprune.errors import TraceError
from fxprune.labels.call import Call, MacTerm
from fxprune.labels.store import Axis, Cause, LabelStore, Role
from fxprune.labels.table import find
from fxprune.tracing.dispatch_mode import DispatchMode
from fxprune.tracing.labelling.quick_shapes import quick
from fxprune.tracing.state.effects import acts, overlap, skips_entries, written
from fxprune.tracing.values.constants import Constants

__all__ = ["LabelMode"]


@dataclass(eq=False)
class LabelMode(DispatchMode):
    """Labels every tensor of a meta run; see the module docstring.

    Attributes:
        store: the facts recorded so far.
        macs: one term a contraction.
        roles: label -> role, by the first use of each label.
        node, source: the graph node that runs now and its line of source, for causes.
        arguments: of that node, where they may name sizes as numbers (a layer's sizes follow its input).
        unknown: operators met that no rule knows.
        acted: since it was last set to False, an operator wrote into a tensor or drew random numbers.
    """

    store: LabelStore = field(default_factory=LabelStore)
    macs: list[MacTerm] = field(default_factory=list)
    node: str = ""
    source: str = ""
    arguments: Any = None

    def __post_init__(self) -> None:
        super().__init__()
        self._axes: dict[int, tuple[Tensor, tuple[Axis, ...]]] = {}
        self._constants = Constants()
        self.roles: dict[int, Role] = {}
        self.statistics_nodes: dict[str, list[Axis]] = {}
        self.unknown: dict[str, str] = {}
        self.acted = False
        self._parameters: set[int] = set()

    # -- what is known of a tensor ---------------------------------------------------------------------------------

    def axes(self, tensor: Tensor) -> tuple[Axis, ...]:
        entry = self._axes.get(id(tensor))
        if entry is None:
            # Made outside the graph: a constant, whose entries cannot be told apart.
            return tuple(Axis(int(size)) for size in tensor.shape)
        return entry[1]

    def label(self, tensor: Tensor, axes: Sequence[Axis]) -> None:
        # The one entry of an axis may be broadcast, squeezed or expanded: it stays.
        axes = tuple(
            a if a.size != 1 or a.labels is None else self.store.fix(a, self.cause("a single channel stands for many"))
            for a in axes
        )
        assert len(axes) == tensor.dim() and all(a.size == s for a, s in zip(axes, tensor.shape, strict=True)), (
            f"labels of sizes {[a.size for a in axes]} for a tensor of shape {tuple(tensor.shape)} at {self.node}"
        )
        # The tensor is kept with its labels, so that its id stays its own.
        self._axes[id(tensor)] = (tensor, axes)

    def known(self, tensor: Tensor) -> Tensor | None:
        """The real values of a constant tensor, or None."""
        return self._constants.get(tensor)

    def set_known(self, tensor: Tensor, value: Tensor) -> None:
        """Say what the real values of a constant tensor are."""
        self._constants.lend(tensor, value)

    def role(self, axis: Axis, role: Role) -> None:
        if axis.labels is not None and len(axis.labels):
            self.roles.setdefault(int(axis.labels[0]), role)

    def cause(self, text: str) -> int:
        return self.store.cause(Cause(text, self.node, self.source))

    # -- sizes that a tensor gets from arguments ---------------------------------------------------------------------

    @property
    def literal_sizes(self) -> frozenset[int] | None:
        """The numbers that the graph node names which runs now; None of a layer."""
        return None if self.arguments is None else frozenset(n for n in nested.leaves(self.arguments) if type(n) is int)

    def names_sizes(self) -> bool:
        """Whether the node that runs now has arguments that could name sizes: a layer has none."""
        return self.arguments is not None

    def is_literal(self, size: int) -> bool:
        """Whether the graph node that runs now names this size as a number (else it follows the model's input)."""
        sizes = self.literal_sizes
        return sizes is not None and size in sizes

    def computed(self, *numbers: int | None) -> bool:
        """Whether one of these numbers is an argument of the graph node that runs now, and computed from sizes there."""
        if self.arguments is None:
            return False
        args, kwargs = self.arguments
        given = [*nested.leaves(args[1:]), *nested.leaves(kwargs)]
        if not any(isinstance(n, fx.Node) for n in given):
            return False
        return not all(n in (None, 0, sys.maxsize) or any(type(g) is int and g == n for g in given) for n in numbers)

    def asked_sizes(self, shape: Sequence[int]) -> list[tuple[bool, int, int]]:
        """Of each size of a tensor, as the graph node asks for it that runs now: whether it may follow the model's input, the
        number in its product (itself, if it is a number), and how many computed factors the product has besides."""
        unknown = [(True, 1, 0)] * len(shape)
        if self.arguments is None:
            return unknown
        args, kwargs = self.arguments
        given = args[1:] or tuple(kwargs.get(key) for key in ("shape", "size") if key in kwargs)
        if len(given) == 1 and isinstance(given[0], (tuple, list)):
            given = given[0]
        if len(given) != len(shape):
            return unknown
        literal = [type(n) is int and n == size for n, size in zip(given, shape, strict=True)]
        return [(False, n, 0) if known else (True, *_product(n)) for n, known in zip(given, literal, strict=True)]

    def sized(self, store: LabelStore, shape: Sequence[int], position: int) -> Axis:
        """An axis of equal entries, of a tensor of this shape: free where its size is a number in the graph, which a rewrite
        can change."""
        size = int(shape[position])
        asked = self._asked(len(shape))
        if self.is_literal(size) if asked is None else type(asked[position]) is int:
            return store.fresh(size)
        return Axis(size, None, size > 1)

    def _asked(self, rank: int) -> Sequence[Any] | None:
        """What the graph node names as the sizes of a tensor, one for each axis; None if it names none.

        By place: another size that follows the input may be the same number.
        """
        if self.arguments is None:
            return None
        args, kwargs = self.arguments
        lists = [v for v in (*args, kwargs.get("size"), kwargs.get("shape")) if isinstance(v, (tuple, list))]
        for given in (*lists, args[1:], args):
            if len(given) == rank and all(type(n) is int or isinstance(n, fx.Node) for n in given):
                return given
        return None

    # -- running an operator ---------------------------------------------------------------------------------------

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _NUMBERS:
            return self._number(args[0])
        rule = find(func)
        if rule is None and func.has_kernel_for_dispatch_key(torch._C.DispatchKey.CompositeImplicitAutograd):
            with self:
                result = func.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
        if acts(func):
            self.acted = True
            for tensor in written(func, args, kwargs):
                self._written(tensor, func)
        out = self._run(func, args, kwargs)
        call = Call(self, func._schema.name.removeprefix("aten::"), _bind(func, args, kwargs), out)
        if rule is None:
            self._freeze(call, func)
        else:
            rule(call)
        return out

    def _run(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """What an operator returns, and whether that is a constant."""
        value = self._constants.compute(func, args, kwargs)
        out = quick(func._schema.name, args, kwargs)
        if out is None:
            out = func(*args, **kwargs)
        if value is not None:
            self._constants.keep(out, value)
        return out

    def _number(self, tensor: Tensor) -> Any:
        """The number in a tensor of one entry.

        Raises:
            TraceError: it depends on data.
        """
        known = self.known(tensor)
        if known is None:
            where = f" ({self.source})" if self.source else ""
            raise TraceError(
                f"the operation {self.node!r} takes a number from the values of a tensor{where}, which only sizes may decide: "
                "make it of sizes, or prune the other parts with submodules=[...]"
            )
        return known.item()

    def _written(self, tensor: Tensor, func: Any) -> None:
        """A write through a view must reach the tensor that it is a view of, and one into a parameter stays in the model."""
        storage = tensor.untyped_storage()
        if not self._parameters:
            self._parameters = {t.untyped_storage()._cdata for t, _ in self._axes.values() if isinstance(t, nn.Parameter)}
        if storage._cdata in self._parameters:
            for axis in self.axes(tensor):
                self.store.fix(axis, self.cause("forward writes into a parameter"))
            return
        if tensor.numel() * tensor.element_size() >= storage.nbytes():
            return
        same = [axes for t, axes in self._axes.values() if t is not tensor and t.untyped_storage()._cdata == storage._cdata]
        larger = [axes for axes in same if len(axes) and math.prod(a.size for a in axes) > tensor.numel()]
        wholes = [a for axes in larger for a in axes]
        for axis in self.axes(tensor):
            if func._schema.name in _FILLS and any(a.size > axis.size and overlap(axis, a) for a in wholes):
                self.store.fix(axis, self.cause("some entries are filled"))  # which tells them from the others
            if skips_entries(axis, wholes):
                for one in (axis, *(whole for whole in wholes if overlap(axis, whole))):
                    self.store.fix(one, self.cause("written through a view of some entries"))

    def _freeze(self, call: Call, func: Any) -> None:
        inputs = call.inputs
        outputs = call.outputs
        if not outputs and not inputs:
            return
        self.unknown[str(func)] = self.node
        why = self.cause(f"no rule knows the operator {func}")
        for tensor in inputs:
            for axis in self.axes(tensor):
                self.store.fix(axis, why)
        dynamic = any(axis.dynamic for tensor in inputs for axis in self.axes(tensor))
        for tensor in outputs:
            self.label(tensor, [Axis(int(s), None, dynamic and s > 1, why) for s in tensor.shape])


def _product(size: Any) -> tuple[int, int]:
    """The number in a product of sizes, and how many other factors there are: 4 and 2 of ``(n * 4) * m``."""
    if type(size) is int:
        return max(size, 1), 0
    if isinstance(size, fx.Node) and size.target is operator.mul:
        (left, some), (right, others) = _product(size.args[0]), _product(size.args[1])
        return left * right, some + others
    return 1, 1


_FILLS = frozenset(f"aten::{n}_" for n in "fill zero normal uniform bernoulli random exponential".split())
_NUMBERS = (torch.ops.aten.item.default, torch.ops.aten._local_scalar_dense.default)  # of tensors, which code in C asks for
_SIGNATURES: dict[Any, tuple[list[str], dict[str, Any]]] = {}


def _bind(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    signature = _SIGNATURES.get(func)
    if signature is None:
        arguments = func._schema.arguments
        defaults = {a.name: a.default_value if a.has_default_value() else None for a in arguments}
        signature = _SIGNATURES[func] = ([a.name for a in arguments], defaults)
    names, defaults = signature
    return {**defaults, **dict(zip(names, args, strict=False)), **kwargs}
