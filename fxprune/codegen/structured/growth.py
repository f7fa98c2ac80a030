"""Lists that grow: each part of a container is called with all that those before it returned.

y = self.layer1([x])                          features = [x]
z = self.layer2([x, y])               ->      for layer in self.children():
return torch.cat([x, y, z], 1)                    features.append(layer(features))
                                              return torch.cat(features, 1)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import fx, nn

from fxprune.codegen.values import is_metadata
from fxprune.tracing.contexts.regions import region_of

__all__ = ["Growth", "find_growth"]

LEAST = 3  # parts of a loop that is shorter than what it stands for


@dataclass(frozen=True)
class Growth:
    """What a node does that calls all parts of a container with a list, to which each result is appended.

    Attributes:
        container: its name; empty for the module itself.
        targets: names of its parts.
    """

    container: str
    targets: tuple[str, ...]

    __name__ = "growth"
    grows = True

    def __call__(self, *args: Any) -> Any:
        raise NotImplementedError


def find_growth(graph: fx.Graph, module: nn.Module) -> None:
    """Put one node with a `Growth` in the place of such calls."""
    for node in list(graph.nodes):
        container, _, name = str(node.target).rpartition(".")
        if node.op != "call_module" or not name:
            continue
        parts = module.get_submodule(container)._modules
        names = [f"{container}.{part}".lstrip(".") for part in parts]
        if len(names) >= LEAST and names[0] == node.target and len({id(part) for part in parts.values()}) == len(parts):
            run = _run(node, names)
            if run is not None:
                _replace(graph, run, Growth(container, tuple(names)))


def _run(node: fx.Node, names: list[str]) -> list[fx.Node] | None:
    if len(node.args) != 1 or not isinstance(node.args[0], (list, tuple)):
        return None
    run, held = [node], [*node.args[0], node]
    for name in names[1:]:
        following = run[-1].next
        while following.op == "get_attr" or is_metadata(following):
            following = following.next
        if following.op != "call_module" or following.target != name or not _is_list(following.args, held):
            return None
        run.append(following)
        held.append(following)
    first = run[0]
    if any(n.kwargs or n.meta["needed"] != first.meta["needed"] or region_of(n) != region_of(first) for n in run):
        return None
    if any("val" in n.meta for n in run):
        return None
    after = {user for part in run for user in part.users if user not in run}
    whole = all(sum(_is_list((part,), held) for part in user.args) == 1 for user in after)
    once = all(user.all_input_nodes.count(part) == 1 and _count(user, part) == 1 for part in run for user in after)
    return run if after and whole and once else None


def _count(user: fx.Node, node: fx.Node) -> int:
    """How often a node stands among another's arguments."""
    found: list[fx.Node] = []
    fx.node.map_arg((user.args, user.kwargs), lambda n: found.append(n))
    return found.count(node)


def _is_list(args: Any, held: list[Any]) -> bool:
    if len(args) != 1 or not isinstance(args[0], (list, tuple)) or len(args[0]) != len(held):
        return False
    return all(a is b for a, b in zip(args[0], held, strict=True))


def _replace(graph: fx.Graph, run: list[fx.Node], growth: Growth) -> None:
    last = run[-1]
    held: list[Any] = [*run[0].args[0], *run]  # type: ignore[misc]
    with graph.inserting_after(last):
        new = graph.call_function(growth, (held[: len(held) - len(run)],))
    new.meta = {**last.meta, "list": True}
    for user in {user for part in run for user in part.users if user not in run}:
        user.args = tuple(new if _is_list((part,), held) else part for part in user.args)
    for node in reversed(run):
        graph.erase_node(node)
