"""Values that depend on the mode, chosen once, in the call of the module whose mode decides.

before                                                 after
y = self.part.scale * x     # in training              x = y if self.part.training else x    # in the call of part
z = self.a(y if self.part.training else x)             z = self.a(x)
z = z + (y if self.part.training else x)               z = z + x
"""

from __future__ import annotations

from typing import Any

from torch import fx

from fxprune.codegen.values import is_select_mode

__all__ = ["gather_mode_values"]


def gather_mode_values(graph: fx.Graph) -> None:
    """Have one node make each choice, right behind what it chooses from."""
    order = {node: number for number, node in enumerate(graph.nodes)}
    chosen: dict[Any, fx.Node] = {}
    for node in list(graph.nodes):
        if not is_select_mode(node) or not isinstance(node.args[0], fx.Node) or node.args[0].op != "get_attr":
            continue
        values = [value for value in node.args[1:] if isinstance(value, fx.Node)]
        if len(values) < 2 or any(value.op == "get_attr" for value in values):
            continue
        key = (*node.args, node.meta["needed"])
        if key in chosen:
            node.replace_all_uses_with(chosen[key])
            graph.erase_node(node)
            continue
        chosen[key] = node
        last = max(values, key=lambda value: order.get(value, len(order)))
        if last.op != "placeholder":
            if last.next is not node:
                last.append(node)
            order[node] = order[last]
        owner = str(node.args[0].target).rpartition(".")[0]
        for value in values:
            calls = value.meta.get("calls", ())
            places = [place for place, (path, _) in enumerate(calls) if path == owner]
            if places and "calls" not in node.meta:
                node.meta["calls"] = calls[: places[0] + 1]
