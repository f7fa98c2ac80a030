"""Constants of the graph that are equal: each time that a module is called, recording makes those of its code anew."""

from __future__ import annotations

import re
from collections import defaultdict
from typing import Any

import torch
from torch import nn

__all__ = ["equal_constants", "merge_constants"]


def equal_constants(root: nn.Module) -> dict[str, str]:
    """Name of a constant -> that of the first one with the same values, for all but these."""
    known: dict[Any, list[tuple[str, torch.Tensor]]] = defaultdict(list)
    found: dict[str, str] = {}
    for name, value in root._buffers.items():
        if value is None or not re.fullmatch(r"_constant\d+", name) or name not in root._non_persistent_buffers_set:
            continue
        alike = known[value.dtype, value.device, value.shape, value.stride()]
        first = next((other for other, held in alike if not value.is_meta and torch.equal(held, value)), None)
        if first is None:
            alike.append((name, value))
        else:
            found[name] = first
    return found


def merge_constants(whole: nn.Module) -> None:
    """Have the graph read one of those that are equal, and drop the others; ``whole.graph`` is the graph."""
    graph: Any = whole.graph
    equal = equal_constants(whole)
    kept = {}
    for node in [n for n in graph.nodes if n.op == "get_attr" and str(n.target) in (*equal, *equal.values())]:
        name = equal.get(str(node.target), str(node.target))
        if name not in kept:
            with graph.inserting_before(next(n for n in graph.nodes if n.op != "placeholder")):
                kept[name] = graph.get_attr(name)
            kept[name].meta = dict(node.meta)
        node.replace_all_uses_with(kept[name])
        graph.erase_node(node)
    for name in equal:
        del whole._buffers[name]
    whole._non_persistent_buffers_set = whole._non_persistent_buffers_set - {*equal}
