"""A dispatch mode that labels the axes of every tensor while a model runs on the meta device.

Under ``torch.inference_mode`` the mode sees operators before they decompose (``aten.linear``, ``aten.einsum``,
``aten.layer_norm``, ...), so one rule covers what a user wrote; a composite operator without a rule decomposes into
operators that have one. An operator that no rule knows freezes every channel that touches it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from fxprune import nested
from fxprune.labels.call import Call, MacTerm
from fxprune.labels.store import Axis, Cause, LabelStore, Role
from fxprune.labels.table import find
from fxprune.tracing.quick_shapes import quick

__all__ = ["LabelMode"]

# Tensors that are constants of the model are also computed for real while they are at most this large: indices and
# masks have to be known to say which channel goes where.
_KNOWN_INTEGERS = 1 << 22
_KNOWN_FLOATS = 1 << 14


@dataclass(eq=False)
class LabelMode(TorchDispatchMode):
    """Labels every tensor of a meta run; see the module docstring.

    Attributes:
        store: the facts recorded so far.
        macs: one term a contraction.
        roles: label -> role, by the first use of each label.
        node, source: the graph node that runs now and its line of source, for causes.
        arguments: of that node, where they may name sizes as numbers (a layer's sizes follow its input).
        unknown: operators met that no rule knows.
    """

    store: LabelStore = field(default_factory=LabelStore)
    macs: list[MacTerm] = field(default_factory=list)
    node: str = ""
    source: str = ""
    arguments: Any = None

    def __post_init__(self) -> None:
        super().__init__()
        self._axes: dict[int, tuple[Tensor, tuple[Axis, ...]]] = {}
        self._known: dict[int, tuple[Tensor, Tensor]] = {}
        self.roles: dict[int, Role] = {}
        self.statistics_nodes: set[str] = set()
        self.unknown: dict[str, str] = {}

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
        if tensor.device.type != "meta":
            return tensor
        entry = self._known.get(id(tensor))
        return None if entry is None else entry[1]

    def set_known(self, tensor: Tensor, value: Tensor) -> None:
        self._known[id(tensor)] = (tensor, value)

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

    def sized(self, store: LabelStore, size: int) -> Axis:
        """An axis of equal entries: free where its size is a number in the graph, which a rewrite can change."""
        if self.is_literal(size):
            return store.fresh(size)
        return Axis(size, None, size > 1)

    # -- running an operator ---------------------------------------------------------------------------------------

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        rule = find(func)
        if rule is None and func.has_kernel_for_dispatch_key(torch._C.DispatchKey.CompositeImplicitAutograd):
            with self:
                result = func.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
        bound = _bind(func, args, kwargs)
        value = self._constant(func, args, kwargs)
        name = func._schema.name.removeprefix("aten::")
        out = quick(name, args, kwargs)
        if out is None:
            out = func(*args, **kwargs)
        if value is not None:
            self._keep_constant(out, value)
        call = Call(self, name, bound, out)
        if rule is None:
            self._freeze(call, func)
        else:
            rule(call)
        return out

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

    def _constant(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The operator's result on real values, where all its tensors are constants; else None."""
        inputs = nested.tensors((args, kwargs))
        values = [self.known(t) for t in inputs]
        if any(v is None for v in values):
            self._poison(func, inputs)
            return None
        if not inputs and not _is_factory(func):
            return None
        if torch.Tag.nondeterministic_seeded in func.tags:
            return None
        swap = {id(t): v for t, v in zip(inputs, values, strict=True)}

        def real(value: Any) -> Any:
            if isinstance(value, Tensor):
                return swap[id(value)]
            return torch.device("cpu") if isinstance(value, torch.device) else value

        if not inputs and not self._small(args, kwargs):
            return None
        args, kwargs = nested.map(real, (args, kwargs))
        return func(*args, **kwargs)

    @staticmethod
    def _small(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        size = 1
        for n in nested.leaves((args, kwargs.get("size", ()))):
            if type(n) is int:
                size *= max(abs(n), 1)
        return size <= _KNOWN_INTEGERS

    def _poison(self, func: Any, inputs: list[Tensor]) -> None:
        """An unknown value is written into a constant: forget that it, and what shares its memory, is known."""
        if not func._schema.is_mutable:
            return
        for tensor in inputs:
            entry = self._known.get(id(tensor))
            if entry is None:
                continue
            storage = entry[1].untyped_storage().data_ptr()
            shared = [k for k, (_, v) in self._known.items() if v.untyped_storage().data_ptr() == storage]
            for key in shared:
                del self._known[key]

    def _keep_constant(self, out: Any, value: Any) -> None:
        for tensor, real in zip(nested.tensors(out), nested.tensors(value), strict=True):
            if tensor.device.type != "meta":
                continue
            limit = _KNOWN_FLOATS if real.is_floating_point() or real.is_complex() else _KNOWN_INTEGERS
            if real.numel() <= limit and tensor.shape == real.shape:
                self.set_known(tensor, real)
            else:
                self._known.pop(id(tensor), None)


_SIGNATURES: dict[Any, tuple[list[str], dict[str, Any]]] = {}


def _bind(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    signature = _SIGNATURES.get(func)
    if signature is None:
        arguments = func._schema.arguments
        defaults = {a.name: a.default_value if a.has_default_value() else None for a in arguments}
        signature = _SIGNATURES[func] = ([a.name for a in arguments], defaults)
    names, defaults = signature
    return {**defaults, **dict(zip(names, args, strict=False)), **kwargs}


def _is_factory(func: Any) -> bool:
    return func._schema.name in {
        "aten::arange",
        "aten::zeros",
        "aten::ones",
        "aten::full",
        "aten::linspace",
        "aten::eye",
        "aten::scalar_tensor",
        "aten::tril_indices",
        "aten::triu_indices",
    }
