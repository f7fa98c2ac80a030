"""Merge the graphs of the two modes of a model that branches on ``self.training``."""

from __future__ import annotations

import difflib
from typing import Any

from torch import fx
from torch.fx.node import map_arg

__all__ = ["merge_modes", "select_mode"]


def select_mode(training: bool, when_training: Any, otherwise: Any) -> Any:
    """One of two values, by the mode of a module; generated code says ``a if self.training else b``."""
    return when_training if training else otherwise


def merge_modes(evaluation: fx.Graph, training: fx.Graph) -> fx.Graph:
    """One graph for both modes: nodes of both in their order, `select_mode` where an argument or the output differs.

    Nodes are aligned by operation and place in the model. A node that only one mode has runs in both (its result is
    then not used), unless generated code can put it under an ``if``.
    """
    left, right = list(evaluation.nodes), list(training.nodes)
    matcher = difflib.SequenceMatcher(None, [_key(n) for n in left], [_key(n) for n in right], autojunk=False)
    merged = fx.Graph(tracer_cls=fx.Tracer)
    from_left: dict[fx.Node, fx.Node] = {}
    from_right: dict[fx.Node, fx.Node] = {}
    flag: list[fx.Node] = []

    def choose(a: Any, b: Any) -> Any:
        """`a` in eval, `b` in train (arguments over merged nodes)."""
        if _same(a, b):
            return a
        if isinstance(a, (list, tuple)) and type(a) is type(b) and len(a) == len(b) and not hasattr(a, "_fields"):
            return type(a)(choose(x, y) for x, y in zip(a, b, strict=True))
        if not flag:
            flag.append(merged.get_attr("training"))
            flag[0].meta.update(scope="", source="")
        node = merged.call_function(select_mode, (flag[0], b, a))
        node.meta.update(scope="", source="")
        return node

    def copy(node: fx.Node, table: dict[fx.Node, fx.Node]) -> None:
        args, kwargs = map_arg((node.args, node.kwargs), table.__getitem__)
        table[node] = merged.create_node(node.op, node.target, args, kwargs, node.name)
        table[node].meta = dict(node.meta)

    for kind, i0, i1, j0, j1 in matcher.get_opcodes():
        if kind != "equal":
            for node in left[i0:i1]:
                copy(node, from_left)
            for node in right[j0:j1]:
                copy(node, from_right)
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


def _key(node: fx.Node) -> tuple[Any, ...]:
    return (node.op, node.target, node.meta.get("scope", ""), len(node.args), tuple(node.kwargs))


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, fx.Node) or isinstance(b, fx.Node):
        return a is b
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(_same(x, y) for x, y in zip(a, b, strict=True))
    return type(a) is type(b) and bool(a == b)
