"""Which nodes are needed in one mode only, so that they go under ``if self.training:``."""

from __future__ import annotations

import torch
from torch.fx import Node

from fxprune.codegen.values import is_inplace, is_select_mode, is_statement
from fxprune.tracing.graphs.modes import writes

__all__ = ["Condition", "conditions"]

# The get_attr node that reads a `training` flag, by its dotted target, and the value that it must have.
Condition = tuple[str, bool]


def conditions(slim: torch.fx.GraphModule) -> dict[Node, tuple[Condition, ...]]:
    """Return for each node the conditions under which its value is needed, outermost first; usually none.

    ::

        aux = conv(x)                                       if self.training:
        y = relu(x)                                  ->         aux = conv(x)
        out = select_mode(training, (y, aux), y)            y = relu(x)

    A node that changes its argument in place stays unconditional unless that argument is needed under the
    same conditions; a node without users, such as an assertion, always does.
    """
    forced: set[Node] = set()
    while True:
        found = _needed(slim, forced)
        early = {node for node in found if _changes_more(slim, node, found)} - forced
        if not early:
            return found
        forced |= early


def _needed(slim: torch.fx.GraphModule, forced: set[Node]) -> dict[Node, tuple[Condition, ...]]:
    found: dict[Node, tuple[Condition, ...]] = {}
    for node in reversed(slim.graph.nodes):
        if own := _own(node):
            found[node] = own
            continue
        uses = [use for user in node.users for use in _uses(node, user, found[user])]
        kept = [] if not uses or node in forced or is_statement(node) else list(uses[0])
        found[node] = tuple(condition for condition in kept if all(condition in use for use in uses))
    return found


def _own(node: Node) -> tuple[Condition, ...]:
    """Return the condition of a statement that was recorded in one mode alone: a write, or an assertion."""
    if "flag" not in node.meta or not (writes(node) or is_statement(node)):
        return ()
    return ((str(node.meta["flag"]), node.meta["mode"] == "training"),)


def _uses(node: Node, user: Node, outer: tuple[Condition, ...]) -> list[tuple[Condition, ...]]:
    """Return the conditions of every use that `user` makes of `node`."""
    if not is_select_mode(user) or not isinstance(user.args[0], Node) or user.args[0].op != "get_attr":
        return [outer]
    flag = str(user.args[0].target)
    uses = [outer] if user.args[0] is node else []
    for argument, value in ((user.args[1], True), (user.args[2], False)):
        inside: list[Node] = []
        torch.fx.node.map_arg(argument, inside.append)
        if node in inside:
            uses.append(outer if (flag, value) in outer else (*outer, (flag, value)))
    return uses


def _changes_more(slim: torch.fx.GraphModule, node: Node, found: dict[Node, tuple[Condition, ...]]) -> bool:
    module = slim.get_submodule(str(node.target)) if node.op == "call_module" else None
    if not found[node] or _own(node) or not is_inplace(node, module) or not node.args or not isinstance(node.args[0], Node):
        return False
    return not set(found[node]) <= set(found[node.args[0]])
