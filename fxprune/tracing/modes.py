"""Merge the graphs of the two modes of a model that branches on ``self.training``.

A node that only one mode has carries ``node.meta["mode"]`` and runs in that mode alone (`fxprune.tracing.guarded_code`);
`select_mode` picks what each mode goes on with.
"""

from __future__ import annotations

import difflib
import operator
from typing import Any

from torch import fx
from torch.fx.node import map_arg

from fxprune.errors import TraceError

__all__ = ["in_evaluation", "merge_modes", "select_mode", "writes"]


def select_mode(training: bool, when_training: Any, otherwise: Any) -> Any:
    """One of two values, by the mode of a module; generated code says ``a if self.training else b``."""
    return when_training if training else otherwise


def merge_modes(evaluation: fx.Graph, training: fx.Graph) -> fx.Graph:
    """One graph for both modes: nodes of both in their order, `select_mode` where an argument or the output differs.

    Nodes are aligned by operation and place in the model.

    Raises:
        TraceError: one mode alone writes into a tensor that the other has too, which cannot be merged.
    """
    left, right = list(evaluation.nodes), list(training.nodes)
    matcher = difflib.SequenceMatcher(None, [_key(n) for n in left], [_key(n) for n in right], autojunk=False)
    merger = _Merger()
    for kind, i0, i1, j0, j1 in matcher.get_opcodes():
        if kind == "equal":
            for a, b in zip(left[i0:i1], right[j0:j1], strict=True):
                merger.join(a, b)
        else:
            for node in left[i0:i1]:
                merger.copy(node, "evaluation")
            for node in right[j0:j1]:
                merger.copy(node, "training")
    return merger.graph


class _Merger:
    """Builds a graph from the nodes of two, in the order in which they are given.

    Attributes:
        graph: what is there so far.
        made: node of the graph of either mode -> node of `graph` that stands for it.
    """

    def __init__(self) -> None:
        self.graph = fx.Graph()
        self.made: dict[fx.Node, fx.Node] = {}
        self._flag: fx.Node | None = None

    def copy(self, node: fx.Node, mode: str) -> None:
        """Add a node that one mode alone has."""
        node.meta["mode"] = mode
        if writes(node) and not _guardable(node, mode):
            raise TraceError(
                f"the model writes into a tensor in {mode} mode alone ({node.format_node()}, {node.meta.get('source')}): "
                "write it in both modes, or prune the other parts with submodules=[...]"
            )
        self._add(node, *self._moved(node))
        self._training()

    def join(self, evaluation: fx.Node, training: fx.Node) -> None:
        """Add a node that both modes have, with the arguments of each."""
        args, kwargs = self._moved(evaluation)
        other_args, other_kwargs = self._moved(training)
        args = tuple(self._choose(a, b) for a, b in zip(args, other_args, strict=True))
        kwargs = {k: self._choose(a, other_kwargs[k]) for k, a in kwargs.items()}
        self.made[training] = self._add(evaluation, args, kwargs)

    def _moved(self, node: fx.Node) -> tuple[Any, Any]:
        args, kwargs = map_arg((node.args, node.kwargs), self.made.__getitem__)
        return args, kwargs

    def _add(self, node: fx.Node, args: Any, kwargs: Any) -> fx.Node:
        new = self.made[node] = self.graph.create_node(node.op, node.target, args, kwargs, node.name)
        new.meta = dict(node.meta)
        return new

    def _choose(self, a: Any, b: Any) -> Any:
        """`a` in evaluation, `b` in training: arguments over nodes of the merged graph."""
        if _same(a, b):
            return a
        if isinstance(a, (list, tuple)) and type(a) is type(b) and len(a) == len(b) and not hasattr(a, "_fields"):
            return type(a)(self._choose(x, y) for x, y in zip(a, b, strict=True))
        node = self.graph.call_function(select_mode, (self._training(), b, a))
        node.meta.update(scope="", source="")
        return node

    def _training(self) -> fx.Node:
        """The node of ``self.training``, which comes before all else, since any node may ask for it."""
        if self._flag is None:
            first = next((n for n in self.graph.nodes if n.op != "placeholder"), None)
            with self.graph.inserting_before(first):
                self._flag = self.graph.get_attr("training")
            self._flag.meta.update(scope="", source="")
        return self._flag


def in_evaluation(graph: fx.Graph) -> set[str]:
    """Names of the nodes that the evaluation mode needs."""
    needed: set[fx.Node] = set()
    pending = [n for n in graph.nodes if n.op == "output" or (not n.users and n.meta.get("mode") != "training")]
    while pending:
        node = pending.pop()
        if node in needed:
            continue
        needed.add(node)
        if node.target is select_mode:
            pending.append(node.all_input_nodes[0])
            map_arg(node.args[2], pending.append)
        else:
            pending.extend(node.all_input_nodes)
    return {n.name for n in needed}


def writes(node: fx.Node) -> bool:
    """Whether a node changes a tensor that others may read."""
    if node.op == "call_module":
        return False
    name = str(node.target) if node.op == "call_method" else getattr(node.target, "__name__", "")
    if node.target is operator.setitem or node.kwargs.get("inplace"):
        return True
    in_operator = getattr(operator, name, None) is node.target
    return (name in _AUGMENTED and in_operator) or (name.endswith("_") and not in_operator and not name.startswith("_"))


def _guardable(node: fx.Node, mode: str) -> bool:
    """Whether a write of one mode touches only what that mode made, and is code that can be put under a condition."""
    written = node.all_input_nodes[0].meta.get("mode") if node.all_input_nodes else None
    return written == mode and node.target is not operator.setitem and getattr(node.target, "__name__", "") not in _AUGMENTED


_AUGMENTED = {"iadd", "isub", "imul", "itruediv", "ifloordiv", "imod", "ipow", "iand", "ior", "ixor", "imatmul"}


def _key(node: fx.Node) -> tuple[Any, ...]:
    return (node.op, node.target, node.meta.get("scope", ""), len(node.args), tuple(node.kwargs))


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, fx.Node) or isinstance(b, fx.Node):
        return a is b
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(_same(x, y) for x, y in zip(a, b, strict=True))
    return type(a) is type(b) and bool(a == b)
