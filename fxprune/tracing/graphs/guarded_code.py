"""Generated code that runs a node in one mode only (``aux = self.aux(x) if training else None``), or in a ``with`` block."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from torch import fx
from torch.fx.graph import CodeGen, PythonCode

from fxprune.tracing.contexts.regions import OUTSIDE, Region, region_of
from fxprune.tracing.graphs.part_names import check_names, is_plain, with_names

__all__ = ["GuardedCode", "guard_modes"]

_TESTS = {"training": "", "evaluation": "not "}


class GuardedCode(CodeGen):
    """Code in which a node with ``node.meta["mode"]`` is computed in that mode, and None in the other; and in which nodes with
    ``node.meta["region"]`` are in ``with`` blocks.

    torch.fx has no hook for the code of one node; the text of a whole graph is handed out as a list, in which each node has
    an item ``name = expression``. Invariant: every node with a mode has exactly one such item.
    """

    def _gen_python_code(self, nodes: Any, root_module: str, *args: Any, **kwargs: Any) -> PythonCode:
        nodes, other = list(nodes), self._body_transformer

        def transform(body: list[str]) -> list[str]:
            body = _in_blocks(_guarded(with_names(body, nodes, root_module), nodes), nodes)
            return body if other is None else other(body)

        self._body_transformer = transform
        try:
            return super()._gen_python_code(nodes, root_module, *args, **kwargs)
        finally:
            self._body_transformer = other


def guard_modes(graph: fx.Graph) -> None:
    """Have the graph's generated code run the nodes of one mode in that mode only, those of a region in its contexts, and reach
    parts of any name.

    Raises:
        TraceError: a name that no code may hold.
    """
    check_names(graph)
    for node in graph.nodes:
        if not node.name.strip("_"):  # Python's shell has a builtin of that name, which torch.fx does not shadow
            node._rename("part")
    parts = (str(n.target) for n in graph.nodes if n.op in ("call_module", "get_attr"))
    if any("mode" in n.meta or "region" in n.meta for n in graph.nodes) or not all(map(is_plain, parts)):
        graph.set_codegen(GuardedCode())


def _guarded(body: list[str], nodes: Iterable[fx.Node]) -> list[str]:
    tests = {n.name: _TESTS[n.meta["mode"]] for n in nodes if "mode" in n.meta}
    nodes = list(nodes)
    flags = {str(n.target): n.name for n in reversed(nodes) if n.op == "get_attr"}  # by the first node, which comes before all
    owners = {n.name: flags.get(n.meta.get("flag", "training")) for n in nodes if "mode" in n.meta}
    tests = {name: test for name, test in tests.items() if owners[name] is not None}  # else nothing depends on the mode
    kept, items = set(owners.values()), []
    for item in body:
        if item.startswith(";  ") and item.endswith(" = None\n"):  # of names that no node needs any more
            gone = [name for name in item[3:-1].split(" = ")[:-1] if name not in kept]
            items.append(f";  {' = '.join([*gone, 'None'])}\n" if gone else "\n")
            continue
        head, equals, expression = item.partition(" = ")
        name = head.partition(":")[0].strip()  # print_readable names a type, too
        statement, _, last = item.rpartition(";  ")  # ``x[0] = y;  setitem = x``
        written = last.partition(" = ")[0]
        if statement and written in tests:
            item = f"if {tests.pop(written)}{owners[written]}: {item}"
        elif equals and name in tests:
            item = f"{head} = {expression} if {tests.pop(name)}{owners[name]} else None"
        items.append(item)
    if tests:
        raise AssertionError(f"torch.fx writes no line for {', '.join(tests)}")
    return items


def _in_blocks(body: list[str], nodes: Sequence[fx.Node]) -> list[str]:
    """Items of a body with runs of nodes of one region under its contexts.

    Before what it writes for node `i`, torch.fx puts the item ``# COUNTER: i``, which it takes out again.
    """
    if not any("region" in n.meta for n in nodes):
        return body
    items: list[str] = []
    block: list[str] = []
    current = OUTSIDE
    for item in body:
        if item.startswith(_COUNTER):
            node = nodes[int(item[len(_COUNTER) :])]
            region = current if node.op == "get_attr" else region_of(node)
            if region != current:
                items += _block(block, current)
                block, current = [], region
        block.append(item)
    return items + _block(block, current)


_COUNTER = "# COUNTER: "


def _block(items: list[str], region: Region) -> list[str]:
    if region == OUTSIDE:
        return items
    lines = "".join(items).rstrip("\n").split("\n")
    headers = [f"{'    ' * depth}with {context}:" for depth, context in enumerate(region.headers())]
    margin = "    " * len(headers)
    return ["\n".join([*headers, *(margin + line if line else "" for line in lines)]) + "\n"]
