"""Merge the graphs of the two modes of a model that branches on ``self.training``.

A node that only one mode has carries ``node.meta["mode"]`` and runs in that mode alone: generated code reads
``aux = self.aux(x) if training else None``, and `select_mode` picks what each mode returns.
"""

from __future__ import annotations

import difflib
import operator
import re
from collections.abc import Callable
from typing import Any

from torch import fx
from torch.fx.node import map_arg

from fxprune.errors import TraceError

__all__ = ["guard_modes", "in_evaluation", "merge_modes", "select_mode"]


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
    merged = fx.Graph()
    from_left: dict[fx.Node, fx.Node] = {}
    from_right: dict[fx.Node, fx.Node] = {}
    flag: list[fx.Node] = []

    def training_flag() -> fx.Node:
        if not flag:
            # Before all else, since any node may ask for it.
            first = next((n for n in merged.nodes if n.op != "placeholder"), None)
            with merged.inserting_before(first):
                flag.append(merged.get_attr("training"))
            flag[0].meta.update(scope="", source="")
        return flag[0]

    def choose(a: Any, b: Any) -> Any:
        """`a` in eval, `b` in train (arguments over merged nodes)."""
        if _same(a, b):
            return a
        if isinstance(a, (list, tuple)) and type(a) is type(b) and len(a) == len(b) and not hasattr(a, "_fields"):
            return type(a)(choose(x, y) for x, y in zip(a, b, strict=True))
        node = merged.call_function(select_mode, (training_flag(), b, a))
        node.meta.update(scope="", source="")
        return node

    def copy(node: fx.Node, table: dict[fx.Node, fx.Node], mode: str) -> None:
        node.meta["mode"] = mode
        if writes(node) and not _guardable(node, mode):
            raise TraceError(
                f"the model writes into a tensor in {mode} mode alone ({node.format_node()}, {node.meta.get('source')}): "
                "write it in both modes, or prune the other parts with submodules=[...]"
            )
        args, kwargs = map_arg((node.args, node.kwargs), table.__getitem__)
        table[node] = merged.create_node(node.op, node.target, args, kwargs, node.name)
        table[node].meta = dict(node.meta)
        training_flag()

    for kind, i0, i1, j0, j1 in matcher.get_opcodes():
        if kind != "equal":
            for node in left[i0:i1]:
                copy(node, from_left, "evaluation")
            for node in right[j0:j1]:
                copy(node, from_right, "training")
            continue
        for a, b in zip(left[i0:i1], right[j0:j1], strict=True):
            a_args, a_kwargs = map_arg((a.args, a.kwargs), from_left.__getitem__)
            b_args, b_kwargs = map_arg((b.args, b.kwargs), from_right.__getitem__)
            if a.op == "output":
                args: tuple[Any, ...] = (choose(a_args[0], b_args[0]),)
            else:
                args = tuple(choose(x, y) for x, y in zip(a_args, b_args, strict=True))
            kwargs = {k: choose(v, b_kwargs[k]) for k, v in a_kwargs.items()}
            node = merged.create_node(a.op, a.target, args, kwargs, a.name)
            node.meta = dict(a.meta)
            from_left[a] = from_right[b] = node
    return merged


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


def guard_modes(graph: fx.Graph) -> None:
    """Have the graph's generated code run the nodes of one mode in that mode only."""
    tests = {n.name: _TESTS[n.meta["mode"]] for n in graph.nodes if "mode" in n.meta}
    flag = next((n.name for n in graph.nodes if n.op == "get_attr" and n.target == "training"), None)
    if not tests or flag is None:
        return

    def guarded(line: str) -> str:
        match = _ASSIGNMENT.match(line)
        if match is None or match["name"] not in tests:
            return line
        return f"{match['head']}{match['value']} if {tests[match['name']]}{flag} else None{match['tail']}"

    def transform(_: Callable[..., Any] | None) -> Callable[[list[str]], list[str]]:
        return lambda body: [guarded(line) for line in body]

    graph.on_generate_code(transform)


# One line a node: ``name = expression;  finished = None`` (the names that are used for the last time).
_ASSIGNMENT = re.compile(r"(?P<head>(?P<name>\w+) = )(?P<value>.*?)(?P<tail>(;  [\w\s=]*= None)?\n?)$", re.DOTALL)
_TESTS = {"training": "", "evaluation": "not "}


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
