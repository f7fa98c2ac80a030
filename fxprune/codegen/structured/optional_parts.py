"""Parts that only some modules of a class have.

with downsample                        without                        both
y = self.conv(x)                       y = self.conv(x)               y = self.conv(x)
x = self.downsample(x)                                                x = self.downsample(x)     # nn.Identity in the second
return y + x                           return y + x                   return y + x
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import fx, nn

from fxprune.codegen.leaves import Written

__all__ = ["ABSENT", "complete_parts"]

ABSENT = "_absent"  # what is called to make a part that is not there


def complete_parts(found: Sequence[tuple[fx.Graph, nn.Module]]) -> None:
    """Have graphs call what fuller ones of their class call, so that one text serves for both."""
    full: list[fx.Graph] = []
    for graph, module in sorted(found, key=lambda pair: -len(pair[0].nodes)):
        if not any(_completed(graph, module, other) for other in full):
            full.append(graph)


def _completed(graph: fx.Graph, module: nn.Module, full: fx.Graph) -> bool:
    """Whether a graph is as a fuller one but for parts that it lacks; then it gets these."""
    if len(graph.nodes) >= len(full.nodes):
        return False
    own = iter([*graph.nodes, None])
    node = next(own)
    twin: dict[fx.Node, Any] = {}
    missing: list[tuple[fx.Node, fx.Node]] = []  # a call of the fuller graph, and the node before which it belongs
    for other in full.nodes:
        if node is not None and _alike(other, node, twin):
            twin[other] = node
            node = next(own)
        elif node is not None and _optional(other, graph, module):
            twin[other] = twin[other.args[0]]
            missing.append((other, node))
        else:
            return False
    if node is not None or not missing:
        return False
    for call, before in missing:
        with graph.inserting_before(before):
            twin[call] = new = graph.call_module(str(call.target), ())
        new.meta = dict(call.meta)
    for call, _ in missing:
        twin[call].args = (twin[call.args[0]],)  # type: ignore[index]
        module._modules[str(call.target)] = Written(f"{ABSENT}()", nn.Identity())
    for other in full.nodes:
        if other not in dict(missing):
            twin[other].args = _like(other.args, twin[other].args, twin)
            twin[other].kwargs = _like(dict(other.kwargs), dict(twin[other].kwargs), twin)
    return True


def _optional(node: fx.Node, graph: fx.Graph, module: nn.Module) -> bool:
    """Whether a call of the fuller graph is of a part that the module lacks."""
    name = str(node.target)
    plain = node.op == "call_module" and len(node.args) == 1 and isinstance(node.args[0], fx.Node) and not node.kwargs
    return plain and bool(name) and "." not in name and module._modules.get(name) is None and not node.meta["needed"]


def _alike(other: fx.Node, node: fx.Node, twin: dict[fx.Node, Any]) -> bool:
    """Whether two nodes do the same with values that correspond; numbers may differ."""
    if (other.op, other.target) != (node.op, node.target) or other.meta["needed"] != node.meta["needed"]:
        return False
    if other.meta.get("region") != node.meta.get("region"):
        return False
    return _fits(other.args, node.args, twin) and _fits(dict(other.kwargs), dict(node.kwargs), twin)


def _fits(other: Any, own: Any, twin: dict[fx.Node, Any]) -> bool:
    if isinstance(other, fx.Node):
        return twin.get(other) is own
    if isinstance(own, fx.Node) or isinstance(other, (list, tuple)) != isinstance(own, (list, tuple)):
        return False
    if isinstance(other, (list, tuple)):
        return len(other) == len(own) and all(_fits(a, b, twin) for a, b in zip(other, own, strict=True))
    if isinstance(other, dict):
        return isinstance(own, dict) and [*other] == [*own] and all(_fits(a, own[key], twin) for key, a in other.items())
    if isinstance(other, slice):
        return isinstance(own, slice) and all(
            _fits(getattr(other, n), getattr(own, n), twin) for n in ("start", "stop", "step")
        )
    return True


def _like(other: Any, own: Any, twin: dict[fx.Node, Any]) -> Any:
    """`own`, in which nodes are those that correspond to the ones of `other`."""
    if isinstance(other, fx.Node):
        return twin[other]
    if isinstance(other, tuple):
        return tuple(_like(a, b, twin) for a, b in zip(other, own, strict=True))
    if isinstance(other, list):
        return [_like(a, b, twin) for a, b in zip(other, own, strict=True)]
    if isinstance(other, dict):
        return {key: _like(a, own[key], twin) for key, a in other.items()}
    if isinstance(other, slice):
        return slice(*_like(_bounds(other), _bounds(own), twin))
    return own


def _bounds(part: slice) -> tuple[Any, Any, Any]:
    return part.start, part.stop, part.step
