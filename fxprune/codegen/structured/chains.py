"""Calls that follow one another: a module whose forward is that of nn.Sequential, and loops over a container.

y = self.blocks[0](x, mask)
y = self.blocks[1](y, mask)      ->      for block in self.blocks:
y = self.blocks[2](y, mask)                  x = block(x, mask)
"""

from __future__ import annotations

from dataclasses import dataclass
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
        count: of all parts of the container.
    """

    container: str
    targets: tuple[str, ...]
    place: int
    count: int

    @property
    def span(self) -> str:
        """``[2:5]`` behind the container, if these are not all of its parts."""
        start = int(self.targets[0].rpartition(".")[2])
        stop = start + len(self.targets)
        if len(self.targets) == self.count:
            return ""
        return f"[{start or ''}:{stop if stop < self.count else ''}]"

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
    """Put one node with a `Loop` in the place of such calls: of all parts, or of three and more that follow one another."""
    done: set[fx.Node] = set()
    for node in list(graph.nodes):
        container, _, number = str(node.target).rpartition(".")
        if node.op != "call_module" or not container or not number.isdigit() or node in done:
            continue
        count = len(module.get_submodule(container)._modules)
        if [*module.get_submodule(container)._modules] != [str(i) for i in range(count)]:
            continue
        run = _run(node, [f"{container}.{i}" for i in range(int(number), count)])
        if len(run) >= (2 if len(run) == count else LEAST):
            done.update(run)
            _replace(graph, run, Loop(container, tuple(str(n.target) for n in run), _place(run), count))


LEAST = 3


def _place(run: list[fx.Node]) -> int:
    return run[1].args.index(run[0])


def _run(node: fx.Node, names: list[str]) -> list[fx.Node]:
    """The calls that begin with a node and go on with its container's next parts, as far as all are alike."""
    run = [node]
    if node.kwargs or any(not isinstance(argument, fx.Node) for argument in node.args):
        return run
    for name in names[1:]:
        last, following = run[-1], run[-1].next
        while following.op == "get_attr" or is_metadata(following):
            following = following.next
        if (
            following.op != "call_module"
            or following.target != name
            or [*last.users] != [following]
            or not _goes_on(run, following)
        ):
            break
        run.append(following)
    while "val" in run[-1].meta and len(run) > 1:
        run.pop()
    return run


def _goes_on(run: list[fx.Node], following: fx.Node) -> bool:
    """Whether a call is as the first one, with the result of the last in the place of one argument."""
    first, last = run[0], run[-1]
    if following.kwargs or following.meta["needed"] != first.meta["needed"] or region_of(following) != region_of(first):
        return False
    if following.args.count(last) != 1 or len(following.args) != len(first.args):
        return False
    place = following.args.index(last)
    if (len(run) > 1 and place != _place(run)) or first.args.count(first.args[place]) != 1:
        return False
    return [*following.args[:place], *following.args[place + 1 :]] == [*first.args[:place], *first.args[place + 1 :]]


def _replace(graph: fx.Graph, run: list[fx.Node], loop: Loop) -> None:
    last = run[-1]
    with graph.inserting_after(last):
        new = graph.call_function(loop, run[0].args)
    new.meta = dict(last.meta)
    last.replace_all_uses_with(new)
    for node in reversed(run):
        graph.erase_node(node)
