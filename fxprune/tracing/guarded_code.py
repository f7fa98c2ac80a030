"""Generated code that runs a node in one mode only: ``aux = self.aux(x) if training else None``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import fx
from torch.fx.graph import CodeGen, PythonCode

__all__ = ["GuardedCode", "guard_modes"]

_TESTS = {"training": "", "evaluation": "not "}


class GuardedCode(CodeGen):
    """Code in which a node with ``node.meta["mode"]`` is computed in that mode, and None in the other.

    torch.fx has no hook for the code of one node; the text of a whole graph is handed out as a list, in which each node has
    an item ``name = expression``. Invariant: every node with a mode has exactly one such item.
    """

    def _gen_python_code(self, nodes: Any, *args: Any, **kwargs: Any) -> PythonCode:
        nodes, other = list(nodes), self._body_transformer

        def transform(body: list[str]) -> list[str]:
            body = _guarded(body, nodes)
            return body if other is None else other(body)

        self._body_transformer = transform
        try:
            return super()._gen_python_code(nodes, *args, **kwargs)
        finally:
            self._body_transformer = other


def guard_modes(graph: fx.Graph) -> None:
    """Have the graph's generated code run the nodes of one mode in that mode only."""
    if any("mode" in node.meta for node in graph.nodes):
        graph.set_codegen(GuardedCode())


def _guarded(body: list[str], nodes: Iterable[fx.Node]) -> list[str]:
    tests = {n.name: _TESTS[n.meta["mode"]] for n in nodes if "mode" in n.meta}
    flag = next((n.name for n in nodes if n.op == "get_attr" and n.target == "training"), None)
    if flag is None:
        return body  # nothing depends on the mode
    items = []
    for item in body:
        head, equals, expression = item.partition(" = ")
        name = head.partition(":")[0].strip()  # print_readable names a type, too
        if equals and name in tests:
            item = f"{head} = {expression} if {tests.pop(name)}{flag} else None"
        items.append(item)
    if tests:
        raise AssertionError(f"torch.fx writes no line for {', '.join(tests)}")
    return items
