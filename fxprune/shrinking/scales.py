"""Attention whose code names no scale: `F.scaled_dot_product_attention` divides by the root of the head's width, of which
there is less in the slim model.

The slim graph says ``scale=old_width ** -0.5``; code that cannot say so gets queries that are ``(new / old) ** 0.5`` times as
large, which comes to the same: the factor goes into the rows of the weights that make the queries, and of these alone.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.node import map_arg

from fxprune import nested
from fxprune.inputs.examples import own_copy
from fxprune.labels.table import key_of
from fxprune.proofs.errors import relative_error
from fxprune.rewrite import Rewritten
from fxprune.shrinking.expected import values_of
from fxprune.state import deep_copy, named_tensors

__all__ = ["Scaling", "as_folded", "fold", "scalings"]

_MADE_BY = (nn.Linear, nn.modules.conv._ConvNd, nn.LayerNorm, nn.RMSNorm, nn.GroupNorm, nn.modules.batchnorm._BatchNorm)
_SAME = 1e-4  # relative: the whole is proved apart
_FUNCTIONS = frozenset({"aten::linear", "aten::conv1d", "aten::conv2d", "aten::layer_norm", "aten::rms_norm"})


@dataclass(frozen=True, eq=False)
class Scaling:
    """A factor for some entries of tensors.

    Attributes:
        scope: name of the module whose code calls the attention.
        factor: what they are multiplied by.
        old, new: widths of a head before and after.
        masks: tensor -> which of its entries, a bool tensor of the slim shape.
    """

    scope: str
    factor: float
    old: int
    new: int
    masks: Mapping[str, Tensor]


def scalings(
    rewritten: Rewritten, slim: fx.GraphModule, inputs: Any, queries: Mapping[fx.Node, fx.Node] | None = None
) -> dict[fx.Node, Scaling]:
    """Traced node of an attention whose scale the rewrite wrote down -> what comes to the same, where that can be found.

    Args:
        slim: filled with weights on which nothing vanishes.
        inputs: of the model.
        queries: the attentions that are to be scaled, if others: node of the slim graph -> its queries there.
    """
    traced, found = rewritten.cut.analysis.traced, {}
    origin = rewritten.context.origin
    tensors = {new for new, old in origin.items() if nested.tensors(traced.values.get(old))}
    paths: dict[fx.Node, _Path] = {}
    given = queries is not None
    if queries is None:
        queries = {new: new.all_input_nodes[0] for new, old in origin.items() if _unnamed(new, old)}
    for new, query in queries.items():
        path = _Path.to(query, slim, tensors)
        if path.makers:
            paths[origin[new]] = path
    if not paths:
        return {}
    wanted = {n.name for path in paths.values() for n in (*path.reads, *path.makers, path.end)}
    known = values_of(slim, inputs, wanted)
    for old, path in paths.items():
        masks = path.masks(slim, known)
        if masks:
            width, now = int(traced.axes[origin[path.end]][-1].size), int(known[path.end.name].shape[-1])
            found[old] = Scaling(str(old.meta.get("scope", "")), (now / width) ** 0.5, width, now, masks)
    names = {old: new.name for new, old in origin.items()}
    return found if given else _alone(slim, names, found, inputs)


def _alone(
    slim: fx.GraphModule, names: Mapping[fx.Node, str], found: dict[fx.Node, Scaling], inputs: Any
) -> dict[fx.Node, Scaling]:
    """Those whose queries are nothing but queries: with the factors the graph computes what it did."""

    def error(some: Mapping[fx.Node, Scaling]) -> float:
        args, named = own_copy(inputs)
        return relative_error(as_folded(slim, names, some)(*args, **named), slim(*args, **named))

    with torch.no_grad():
        if not found or error(found) <= _SAME:
            return found
        return {old: one for old, one in found.items() if error({old: one}) <= _SAME / 10}


def _unnamed(new: fx.Node, old: fx.Node) -> bool:
    """Whether a node is attention whose code names no scale, and the rewrite did."""
    written = "scale" in new.kwargs and old.kwargs.get("scale") is None and len(old.args) < 7
    return written and key_of(new.op, new.target) == "aten::scaled_dot_product_attention"


def fold(module: nn.Module, found: Mapping[fx.Node, Scaling], *, undo: bool = False) -> None:
    """Multiply the entries in place, or divide them; those that several attentions share, once."""
    tensors, done = named_tensors(module), set()
    with torch.no_grad():
        for one in found.values():
            for name, mask in one.masks.items():
                key = name, one.factor, mask.cpu().numpy().tobytes()
                if key not in done:
                    done.add(key)
                    factor = 1 / one.factor if undo else one.factor
                    tensors[name].mul_(torch.where(mask.to(tensors[name].device), factor, 1.0).to(tensors[name]))


def as_folded(slim: fx.GraphModule, names: Mapping[fx.Node, str], found: Mapping[fx.Node, Scaling]) -> fx.GraphModule:
    """A copy of a slim graph that computes what code with the factors in its weights does, at each step.

    Args:
        names: traced node -> its name in the slim graph.
    """
    if not found:
        return slim
    made: Any = deep_copy(slim)  # a twin would have the very graph, and the class with its code, which are the user's
    scales = {names[old]: one.new**-0.5 for old, one in found.items()}
    fold(made, found)
    for node in made.graph.nodes:
        if node.name in scales:
            node.update_kwarg("scale", scales[node.name])
    made.recompile()
    return made


@dataclass(frozen=True, eq=False)
class _Path:
    """From the layers that make a value to the value.

    Attributes:
        end: the value's node.
        makers: nodes of the nearest layers with weights.
        between: nodes in between, in their order; the end is the last.
        reads: what they read beside.
    """

    end: fx.Node
    makers: frozenset[fx.Node]
    between: list[fx.Node]
    reads: frozenset[fx.Node]

    @classmethod
    def to(cls, end: fx.Node, slim: fx.GraphModule, tensors: Collection[fx.Node]) -> _Path:
        makers: set[fx.Node] = set()
        between: set[fx.Node] = set()
        reads: set[fx.Node] = set()
        pending, fed = [end], _fed(end.graph, slim, tensors)
        while pending:
            node = pending.pop()
            if node in makers or node in between:
                continue
            if _makes(node, slim):
                makers.add(node)
            elif node in fed:
                between.add(node)
                pending += [n for n in node.all_input_nodes if n in fed]
                reads |= {n for n in node.all_input_nodes if n not in fed}
            else:
                reads.add(node)
        return cls(end, frozenset(makers), [n for n in end.graph.nodes if n in between], frozenset(reads))

    def masks(self, slim: fx.GraphModule, known: Mapping[str, Any]) -> dict[str, Tensor]:
        """Which entries of which tensors are to be scaled so that the value is; none where it does not follow them."""
        if any(n.name not in known for n in (*self.makers, *self.reads, self.end)):
            return {}
        leaves = {n: known[n.name].detach().clone().requires_grad_() for n in self.makers}
        try:
            with torch.enable_grad():
                value = self._run(slim, known, leaves)
                twice = self._run(slim, known, {n: 2 * v for n, v in leaves.items()})
                if not relative_error(twice, 2 * value) <= 1e-5:
                    return {}
                weights = torch.rand(value.shape, generator=torch.Generator().manual_seed(0)).to(value) + 0.5
                gradients = torch.autograd.grad((value * weights).sum(), list(leaves.values()), allow_unused=True)
        except Exception:  # an operation that a lone run cannot make
            return {}
        found: dict[str, Tensor] = {}
        for maker, gradient in zip(leaves, gradients, strict=True):
            if gradient is None:
                continue
            rows = _rows(slim, maker, gradient)
            if rows is None:
                return {}
            found |= rows
        return found

    def _run(self, slim: fx.GraphModule, known: Mapping[str, Any], leaves: Mapping[fx.Node, Tensor]) -> Tensor:
        interpreter = fx.Interpreter(slim)
        values: dict[fx.Node, Any] = dict(leaves)
        for node in self.between:
            args, kwargs = map_arg((node.args, node.kwargs), lambda n: values[n] if n in values else known[n.name])
            values[node] = getattr(interpreter, node.op)(node.target, args, kwargs)
        result: Tensor = values[self.end]
        return result


def _fed(graph: fx.Graph, slim: fx.GraphModule, tensors: Collection[fx.Node]) -> set[fx.Node]:
    """Nodes of tensors that layers feed, and these."""
    found: set[fx.Node] = set()
    for node in graph.nodes:
        if node in tensors and (_makes(node, slim) or any(n in found for n in node.all_input_nodes)):
            found.add(node)
    return found


def _makes(node: fx.Node, slim: fx.GraphModule) -> bool:
    if node.op == "call_module":
        layer = slim.get_submodule(str(node.target))
        return isinstance(layer, _MADE_BY) and getattr(layer, "weight", None) is not None
    return node.op == "call_function" and key_of(node.op, node.target) in _FUNCTIONS


def _rows(slim: fx.GraphModule, maker: fx.Node, gradient: Tensor) -> dict[str, Tensor] | None:
    """The entries of a layer's tensors that make what has a gradient; None where that is not in its own hands."""
    axis = -1
    if maker.op == "call_module":
        layer = slim.get_submodule(str(maker.target))
        if isinstance(layer, (nn.modules.conv._ConvNd, nn.GroupNorm, nn.modules.batchnorm._BatchNorm)):
            axis = 1
        tensors = {f"{maker.target}.{key}": t for key, t in layer.named_parameters(recurse=False)}
        touched = _touched(gradient, axis)
        if any(t.shape[0] != len(touched) for t in tensors.values()):
            return None
        return {name: touched.reshape(-1, *[1] * (t.dim() - 1)).expand(t.shape).clone() for name, t in tensors.items()}
    if "conv" in str(getattr(maker.target, "__name__", "")):
        axis = 1
    touched = _touched(gradient, axis)
    found: dict[str, Tensor] = {}
    norm = "norm" in str(getattr(maker.target, "__name__", ""))
    given = (*maker.args[2 if norm else 1 : 4 if norm else 3], maker.kwargs.get("weight"), maker.kwargs.get("bias"))
    for argument in given:
        if isinstance(argument, fx.Node):
            part = _through(slim, argument, touched)
            if part is None:
                return None
            found |= part
    return found


def _through(slim: fx.GraphModule, node: fx.Node, touched: Tensor) -> dict[str, Tensor] | None:
    """The entries of parameters behind a weight or bias (itself, or some of them joined) that make the touched rows."""
    nodes: list[fx.Node] = []
    pending = [node]
    while pending:
        one = pending.pop()
        if one not in nodes:
            nodes.append(one)
            pending += one.all_input_nodes
    order = [n for n in node.graph.nodes if n in nodes]
    leaves: dict[str, Tensor] = {}
    values: dict[fx.Node, Any] = {}
    interpreter = fx.Interpreter(slim)
    try:
        with torch.enable_grad():
            for one in order:
                if one.op == "get_attr":
                    tensor = interpreter.fetch_attr(str(one.target)).detach().clone().requires_grad_()
                    leaves[str(one.target)] = values[one] = tensor
                else:
                    args, kwargs = map_arg((one.args, one.kwargs), values.__getitem__)
                    values[one] = getattr(interpreter, one.op)(one.target, args, kwargs)
            joined = values[node]
            if joined.shape[0] != len(touched):
                return None
            gradients = torch.autograd.grad(joined[touched].sum(), list(leaves.values()), allow_unused=True)
    except Exception:
        return None
    buffers = {name for name, _ in slim.named_buffers()}
    found = {n: g != 0 for n, g in zip(leaves, gradients, strict=True) if g is not None and bool((g != 0).any())}
    if any(n in buffers and bool(leaves[n][mask].any()) for n, mask in found.items()):
        return None  # a constant that does not vanish
    return {n: mask for n, mask in found.items() if n not in buffers}


def _touched(gradient: Tensor, axis: int) -> Tensor:
    other = [d for d in range(gradient.dim()) if d != axis % gradient.dim()]
    return (gradient != 0).any(dim=other) if other else gradient != 0
