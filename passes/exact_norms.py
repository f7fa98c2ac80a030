"""Norms that lost channels go on as if these were there and zero: the statistics of the masked original, exactly.

Opt-in (``exact_norms=True``), since it costs: a layer norm or group norm runs on as many channels as before. With ``C`` entries
of which ``k`` are kept, and zeros where the others were, mean and variance are functions of those that are kept and of ``C``
alone (arXiv 2606.14346 compensates layer norms in this sense; the forms are our own)::

    LayerNorm, GroupNorm    norm(pad(x, C), pad(weight, C), pad(bias, C))[:k]
    RMSNorm                 rms_norm(x, k, weight * sqrt(C / k), eps * C / k)

since ``sum(x^2) / C + eps = (k / C) (sum(x^2) / k + eps C / k)``. Padding leaves the sums to the operator that the model calls,
with the precision that this takes in autocast or half precision.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import fx, nn
from torch.nn import functional as F

from fxprune.labels.table import key_of
from fxprune.passes.base import Context, Pass, PassResult
from fxprune.state import named_parts

__all__ = ["ExactNorms"]

_ARGUMENTS = {
    "layer_norm": ("input", "normalized_shape", "weight", "bias", "eps"),
    "rms_norm": ("input", "normalized_shape", "weight", "eps"),
    "group_norm": ("input", "num_groups", "weight", "bias", "eps"),
}
_LAYERS: dict[type[nn.Module], str] = {nn.LayerNorm: "layer_norm", nn.RMSNorm: "rms_norm", nn.GroupNorm: "group_norm"}
_EPS = {"layer_norm": 1e-5, "rms_norm": None, "group_norm": 1e-5}


class _Left(Exception):
    """A norm that lost entries stays as it is, because."""


@dataclass(frozen=True)
class ExactNorms(Pass):
    """``norm(x) -> layer_norm(pad(x, (0, 8)), (24,), pad(weight, (0, 8)), pad(bias, (0, 8)))[..., :16].contiguous()``."""

    name: ClassVar[str] = "exact-norms"
    optional: ClassVar[bool] = True

    def run(self, module: fx.GraphModule, context: Context) -> PassResult:
        changed = left = 0
        layers = dict(named_parts(module))
        for node in list(module.graph.nodes):
            found = _call_of(node, layers, context)
            if found is None:
                continue
            name = str(node.target) if node.op == "call_module" else node.name
            try:
                if not _Norm(node, *found, module.graph, context).rewritten():
                    continue
            except _Left as why:
                context.notes.append(f"the norm {name} takes its statistics over the channels that are left: {why}")
                left += 1
                continue
            changed += 1
            context.cut.exact_norms[context.origin[node].name] = name
        counters = PassResult.of(norms_made_exact=changed, norms_left=left).counters
        return PassResult(bool(changed), counters)


def _call_of(node: fx.Node, layers: dict[str, nn.Module], context: Context) -> tuple[str, dict[str, Any]] | None:
    """The norm that a node is, and its arguments by name, weights as texts where they are a layer's; None if it is none."""
    if node not in context.origin:
        return None
    if node.op == "call_module":
        layer: Any = layers[str(node.target)]
        kind = next((kind for base, kind in _LAYERS.items() if type(layer).forward is base.forward), "")
        if not kind:
            return None
        given = {name: getattr(layer, name) for name in _ARGUMENTS[kind][1:] if hasattr(layer, name)}
        given |= {name: f"{node.target}.{name}" for name in ("weight", "bias") if given.get(name) is not None}
        names = _ARGUMENTS[kind][:1]
    else:
        kind = key_of(node.op, node.target).removeprefix("aten::")
        if node.op != "call_function" or kind not in _ARGUMENTS:
            return None
        names, given = _ARGUMENTS[kind], {"eps": _EPS[kind]}
    return kind, given | dict(zip(names, node.args, strict=False)) | dict(node.kwargs)


@dataclass(eq=False)
class _Norm:
    """A norm of the slim graph, of one of the kinds of `_ARGUMENTS`."""

    node: fx.Node
    kind: str
    given: dict[str, Any]
    graph: fx.Graph
    context: Context
    _made: list[fx.Node] = field(default_factory=list)

    def rewritten(self) -> bool:
        """Put other nodes into the place of this one, if entries went of what it normalises.

        Raises:
            _Left: they did, and it has a form that is not known.
        """
        source = self.given["input"]
        self.sizes = [(axis.size, self.context.cut.size(axis)) for axis in self.context.axes(source)]
        if all(whole == kept for whole, kept in self.sizes):
            return False
        write = self._groups() if self.kind == "group_norm" else self._shape()
        if write is None:
            return False
        with self.graph.inserting_before(self.node):
            for name in ("weight", "bias"):
                if isinstance(self.given.get(name), str):
                    self.given[name] = self._keep(self.graph.get_attr(self.given[name]))
            result = write(source)
        self._take_over(result)
        return True

    # -- layer norm and RMS norm: the last axes ------------------------------------------------------------------------

    def _shape(self) -> Callable[[fx.Node], fx.Node] | None:
        shape = self.given["normalized_shape"]
        if isinstance(shape, fx.Node):
            raise _Left("the shape that it normalises is computed")
        self.shape = [shape] if isinstance(shape, int) else list(shape)
        self.last = self.sizes[len(self.sizes) - len(self.shape) :]
        if all(whole == kept for whole, kept in self.last):
            return None
        return self._rms if self.kind == "rms_norm" else self._layer

    def _layer(self, x: fx.Node) -> fx.Node:
        pad = [n for whole, kept in reversed(self.last) for n in (0, whole - kept)]
        while pad[-2:] == [0, 0]:
            del pad[-2:]
        shape = tuple(n if w == k else w for n, (w, k) in zip(self.shape, self.last, strict=True))
        weight, bias = (self._padded(self.given.get(name), pad) for name in ("weight", "bias"))
        whole = self._call(F.layer_norm, self._padded(x, pad), shape, weight, bias, self.given["eps"])
        cut = tuple(slice(None) if w == k else slice(None, k) for w, k in self.last)
        return self._contiguous(self._call(operator.getitem, whole, (..., *cut)))

    def _rms(self, x: fx.Node) -> fx.Node:
        share = math.prod(whole for whole, _ in self.last) / math.prod(kept for _, kept in self.last)
        weight, eps = self.given.get("weight"), self.given.get("eps")
        if eps is None:  # that of the dtype: it stays, and the input shrinks
            x = self._call(operator.mul, x, share**-0.5)
        if weight is not None:
            weight = self._call(operator.mul, weight, share**0.5)
        y = self._call(F.rms_norm, x, tuple(self.shape), weight, None if eps is None else eps * share)
        return y if weight is not None else self._call(operator.mul, y, share**0.5)

    # -- group norm: the channels of each group ------------------------------------------------------------------------

    def _groups(self) -> Callable[[fx.Node], fx.Node] | None:
        left, before = self.given["num_groups"], self._groups_before()
        if not isinstance(left, int) or not isinstance(before, int):
            raise _Left("its number of groups is computed")
        self.left, (whole, kept) = left, self.sizes[1]
        self.width, self.narrow = whole // before, kept // left
        return None if self.width == self.narrow else self._group

    def _groups_before(self) -> Any:
        old = self.context.origin[self.node]
        if old.op == "call_module":
            return self.context.traced.names.modules[str(old.target)].num_groups
        return old.args[1] if len(old.args) > 1 else old.kwargs["num_groups"]

    def _group(self, x: fx.Node) -> fx.Node:
        gone, space = self.width - self.narrow, len(self.sizes) - 2
        weight, bias = (self._spread(self.given.get(name), 0, [0, gone]) for name in ("weight", "bias"))
        wide = self._spread(x, 1, [0, 0] * space + [0, gone])
        y = self._call(F.group_norm, wide, self.left, weight, bias, self.given["eps"])
        if self.left == 1:
            return self._contiguous(self._call(operator.getitem, y, (slice(None), slice(None, self.narrow))))
        y = self._method("unflatten", y, 1, (self.left, self.width))
        y = self._call(operator.getitem, y, (slice(None), slice(None), slice(None, self.narrow)))
        return self._method("flatten", y, 1, 2)

    def _spread(self, x: Any, dim: int, pad: list[int]) -> Any:
        """A tensor with zeros behind the channels of each group."""
        if x is None or self.left == 1:
            return self._padded(x, pad)
        x = self._method("unflatten", x, dim, (self.left, self.narrow))
        return self._method("flatten", self._padded(x, pad), dim, dim + 1)

    # -- nodes ---------------------------------------------------------------------------------------------------------

    def _padded(self, x: Any, pad: list[int]) -> Any:
        return None if x is None else self._call(F.pad, x, tuple(pad))

    def _contiguous(self, x: fx.Node) -> fx.Node:
        """As the norm's own result is: views of it go on working."""
        return self._method("contiguous", x)

    def _call(self, function: Any, *args: Any) -> fx.Node:
        return self._keep(self.graph.call_function(function, args))

    def _method(self, name: str, *args: Any) -> fx.Node:
        return self._keep(self.graph.call_method(name, args))

    def _keep(self, node: fx.Node) -> fx.Node:
        """A new node runs where and when the norm does: in its mode, in its contexts."""
        node.meta = {key: value for key, value in self.node.meta.items() if key != "val"}
        self._made.append(node)
        return node

    def _take_over(self, result: fx.Node) -> None:
        """The result has the name and the labels of the norm, whose node goes."""
        name, node = self.node.name, self.node
        node.replace_all_uses_with(result)
        self.graph.erase_node(node)
        result.name = name
        self.context.origin[result] = self.context.origin[node]
