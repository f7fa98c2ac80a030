"""Calls that follow one another: a module whose forward is that of nn.Sequential, and loops over a container.

y = self.blocks[0](x, mask)
y = self.blocks[1](y, mask)      ->      for block in self.blocks:
y = self.blocks[2](y, mask)                  x = block(x, mask)
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from torch import fx, nn

from fxprune.codegen.values import is_metadata
from fxprune.tracing.contexts.regions import region_of

__all__ = ["Loop", "find_loops", "is_sequence"]


@dataclass(frozen=True)
class Loop:
    """What a node does that calls all parts of a container, one after another, each with the result of the one before.

    Attributes:
        container: its name.
        targets: names of its parts.
        place: which argument the result of the one before is.
    """

    container: str
    targets: tuple[str, ...]
    place: int

    __name__ = "loop"

    def __call__(self, *args: Any) -> Any:
        raise NotImplementedError


def is_sequence(graph: fx.Graph, module: nn.Module) -> bool:
    """Whether the graph calls each part of the module once, in their order, with the result of the one before."""
    nodes = list(graph.nodes)
    if nodes[0].op != "placeholder" or nodes[-1].args[0] is not nodes[-2] or module._parameters or module._buffers:
        return False
    names = [name for name, part in module._modules.items() if part is not None]
    calls = nodes[1:-1]
    if [node.target for node in calls] != names or not all(node.op == "call_module" for node in calls):
        return False
    plain = all(node.args == (before,) and not node.kwargs for before, node in zip(nodes, calls, strict=False))
    return plain and all(not node.meta["needed"] and "region" not in node.meta for node in calls)


def find_loops(graph: fx.Graph, module: nn.Module) -> None:
    """Put one node with a `Loop` in the place of such calls."""
    for node in list(graph.nodes):
        container, _, number = str(node.target).rpartition(".")
        if node.op != "call_module" or not container or number != "0":
            continue
        count = len(module.get_submodule(container)._modules)
        names = [f"{container}.{i}" for i in range(count)]
        if count < 2 or [*module.get_submodule(container)._modules] != [str(i) for i in range(count)]:
            continue
        run = _run(node, names)
        if run is not None:
            _replace(graph, run, Loop(container, tuple(names), _place(run)))


def _place(run: list[fx.Node]) -> int:
    return run[1].args.index(run[0])


def _run(node: fx.Node, names: list[str]) -> list[fx.Node] | None:
    run = [node]
    for name in names[1:]:
        last, following = run[-1], run[-1].next
        while following.op == "get_attr" or is_metadata(following):
            following = following.next
        if following.op != "call_module" or following.target != name or [*last.users] != [following]:
            return None
        run.append(following)
    first = run[0]
    if any(n.kwargs or n.meta["needed"] != first.meta["needed"] or region_of(n) != region_of(first) for n in run):
        return None
    if run[1].args.count(first) != 1 or len({len(n.args) for n in run}) != 1:
        return None
    place = _place(run)
    if first.args.count(first.args[place]) != 1:
        return None
    fixed = [*first.args[:place], *first.args[place + 1 :]]
    for before, after in pairwise(run):
        if after.args[place] is not before or [*after.args[:place], *after.args[place + 1 :]] != fixed:
            return None
    if any(not isinstance(argument, fx.Node) for argument in first.args) or "val" in run[-1].meta:
        return None
    return run


def _replace(graph: fx.Graph, run: list[fx.Node], loop: Loop) -> None:
    last = run[-1]
    with graph.inserting_after(last):
        new = graph.call_function(loop, run[0].args)
    new.meta = dict(last.meta)
    last.replace_all_uses_with(new)
    for node in reversed(run):
        graph.erase_node(node)
