"""Merge the graphs of the two modes of a model that branches on ``self.training``.

A node that only one mode has carries ``node.meta["mode"]`` and ``node.meta["flag"]``, the name of the ``training`` flag that
decides, and runs in that mode alone (`fxprune.tracing.graphs.guarded_code`); `select_mode` picks what each mode goes on with.
"""

from __future__ import annotations

import difflib
import operator
from collections.abc import Iterable
from typing import Any

import torch
from torch import fx
from torch.fx.node import map_arg

from fxprune.tracing.contexts.regions import region_of, same_region

__all__ = ["in_evaluation", "merge_modes", "select_mode", "writes"]


def select_mode(training: bool, when_training: Any, otherwise: Any) -> Any:
    """One of two values, by the mode of a module; generated code says ``a if self.training else b``."""
    return when_training if training else otherwise


def merge_modes(
    evaluation: fx.Graph,
    training: fx.Graph,
    flags: Iterable[str] = ("training",),
    made: dict[fx.Node, fx.Node] | None = None,
) -> fx.Graph:
    """One graph for both modes: nodes of both in their order, `select_mode` where an argument or the output differs.

    Nodes are aligned by operation and place in the model.

    Args:
        flags: names of the ``training`` flags that decided what was recorded. What differs inside a module that has one goes
            by that; where it is not clear whose flag decided, the graph asserts that all are equal.
        made: gets, for each node of either graph, the one that stands for it.
    """
    left, right = list(evaluation.nodes), list(training.nodes)
    matcher = difflib.SequenceMatcher(None, [_key(n) for n in left], [_key(n) for n in right], autojunk=False)
    merger = _Merger(sorted(flags) or ["training"])
    for kind, i0, i1, j0, j1 in matcher.get_opcodes():
        if kind == "equal":
            for a, b in zip(left[i0:i1], right[j0:j1], strict=True):
                merger.join(a, b)
        else:
            for node in left[i0:i1]:
                merger.copy(node, "evaluation")
            for node in right[j0:j1]:
                merger.copy(node, "training")
    merger.finish()
    if made is not None:
        made.update(merger.made)
    return merger.graph


class _Merger:
    """Builds a graph from the nodes of two, in the order in which they are given.

    Attributes:
        graph: what is there so far.
        made: node of the graph of either mode -> node of `graph` that stands for it.
    """

    def __init__(self, flags: list[str]) -> None:
        self.graph = fx.Graph()
        self.made: dict[fx.Node, fx.Node] = {}
        self._flags = flags
        self._nodes: dict[str, fx.Node] = {}
        self._unclear = False
        self._views: dict[str, fx.Node] = {}  # tensors of the model and views of them -> the first node of each

    def copy(self, node: fx.Node, mode: str) -> None:
        """Add a node that one mode alone has."""
        args, kwargs = self._moved(node)
        known = self._views.get(f"{node.op} {node.target} {args} {kwargs}") if _is_view(node) else None
        if known is not None:  # the other mode asks for the same at another place
            self.made[node] = known
            _in_both(known)
            return
        new = self._add(node, args, kwargs)
        if node.op == "call_function" and getattr(node.target, "__name__", "") in _METHODS and writes(node):
            # torch.fx writes ``x += y`` as a statement, which no condition can be put around.
            new.op, new.target = "call_method", _METHODS[node.target.__name__]  # type: ignore[union-attr]
        if node.op in ("placeholder", "output", "get_attr"):
            return
        flag = self._decided(node.meta.get("scope", ""), ())
        self._unclear |= any(source.meta.get("flag", flag) != flag for source in new.all_input_nodes)
        new.meta["mode"], new.meta["flag"] = mode, flag
        self._training(flag)

    def join(self, evaluation: fx.Node, training: fx.Node) -> None:
        """Add a node that both modes have, with the arguments of each."""
        args, kwargs = self._moved(evaluation)
        other_args, other_kwargs = self._moved(training)
        scope = evaluation.meta.get("scope", "")
        args = tuple(self._choose(a, b, scope) for a, b in zip(args, other_args, strict=True))
        kwargs = {k: self._choose(a, other_kwargs[k], scope) for k, a in kwargs.items()}
        new = self.made[training] = self._add(evaluation, args, kwargs)
        if not same_region(evaluation, training):
            new.meta["region"] = region_of(evaluation).merged(region_of(training), self._decided(scope, ()))

    def _moved(self, node: fx.Node) -> tuple[Any, Any]:
        args, kwargs = map_arg((node.args, node.kwargs), self.made.__getitem__)
        return args, kwargs

    def _add(self, node: fx.Node, args: Any, kwargs: Any) -> fx.Node:
        new = self.made[node] = self.graph.create_node(node.op, node.target, args, kwargs, node.name)
        new.meta = dict(node.meta)
        if _is_view(node):
            self._views.setdefault(f"{node.op} {node.target} {args} {kwargs}", new)
        return new

    def _choose(self, a: Any, b: Any, scope: str) -> Any:
        """`a` in evaluation, `b` in training: arguments over nodes of the merged graph, of a node in the module `scope`."""
        if _same(a, b):
            return a
        if isinstance(a, (list, tuple)) and type(a) is type(b) and len(a) == len(b) and not hasattr(a, "_fields"):
            return type(a)(self._choose(x, y, scope) for x, y in zip(a, b, strict=True))
        inside: list[fx.Node] = []
        map_arg((a, b), inside.append)
        flag = self._decided(scope, inside)
        node = self.graph.call_function(select_mode, (self._training(flag), b, a))
        node.meta.update(scope="", source="")
        return node

    def _decided(self, scope: str, inputs: Iterable[fx.Node]) -> str:
        """The flag that decided what is recorded in the module `scope`, from nodes that may be of one mode themselves."""
        if len(self._flags) == 1:
            return self._flags[0]
        owners = [f for f in self._flags if f"{scope}.".startswith(f.removesuffix("training")) or f == "training"]
        found = {str(n.meta["flag"]) for n in inputs if "flag" in n.meta} or set(owners)
        if len(found) == 1:
            return found.pop()
        self._unclear = True
        return "training" if "training" in self._flags else self._flags[0]

    def _training(self, flag: str) -> fx.Node:
        """The node of a flag, which comes before all else, since any node may ask for it."""
        if flag not in self._nodes:
            first = next((n for n in self.graph.nodes if n.op != "placeholder"), None)
            with self.graph.inserting_before(first):
                self._nodes[flag] = self.graph.get_attr(flag)
            self._nodes[flag].meta.update(scope="", source="", decides=True)
        return self._nodes[flag]

    def finish(self) -> None:
        """Assert that all flags are equal where it is not clear which of them decided what."""
        if not self._unclear:
            return
        flags = [self._training(flag) for flag in self._flags]
        last = [node for node in self.graph.nodes if node in flags][-1]
        for flag in flags[1:]:
            message = f"{flags[0].target} and {flag.target} must be equal: the model's code asks for both"
            with self.graph.inserting_after(last):
                held = self.graph.call_function(operator.eq, (flags[0], flag))
            with self.graph.inserting_after(held):
                last = self.graph.call_function(torch._assert, (held, message))
            for node in (held, last):
                node.meta.update(scope="", source="")


def _is_view(node: fx.Node) -> bool:
    """Whether a node reads a tensor of the model, or is a view of one: the same whenever it is asked for."""
    if node.op == "get_attr":
        return True
    parts = node.op == "call_method" and node.target in ("chunk", "split", "unbind", "t", "transpose")
    return (parts or node.target is operator.getitem) and all(_is_view(n) for n in node.all_input_nodes)


def _in_both(node: fx.Node) -> None:
    """Have a node, and what it needs, run in both modes."""
    node.meta.pop("flag", None)
    if node.meta.pop("mode", None) is not None:
        for source in node.all_input_nodes:
            _in_both(source)


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
    return (name in _METHODS and in_operator) or (name.endswith("_") and not in_operator and not name.startswith("_"))


# Augmented operators -> the method that they are of tensors.
_METHODS = {
    "iadd": "add_",
    "isub": "sub_",
    "imul": "mul_",
    "itruediv": "div_",
    "ifloordiv": "floor_divide_",
    "imod": "remainder_",
    "ipow": "pow_",
    "iand": "bitwise_and_",
    "ior": "bitwise_or_",
    "ixor": "bitwise_xor_",
    "imatmul": "matmul",
}


def _key(node: fx.Node) -> tuple[Any, ...]:
    return (node.op, node.target, node.meta.get("scope", ""), len(node.args), tuple(node.kwargs), region_of(node).frame)


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, fx.Node) or isinstance(b, fx.Node):
        return a is b
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(_same(x, y) for x, y in zip(a, b, strict=True))
    return type(a) is type(b) and bool(a == b)
