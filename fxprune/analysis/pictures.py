"""The graph of groups and layers as text that other programs draw: DOT and GraphML."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fxprune.analysis.analysis import Analysis

__all__ = ["dot", "graphml"]

_COLORS = {"free": "palegreen", "protected": "khaki", "frozen": "lightgrey"}


def dot(analysis: Analysis) -> str:
    """In DOT, for Graphviz: boxes are layers; ellipses are groups of coupled channels, coloured by whether they may be pruned.

    An arrow leads from a layer to the group whose channels it makes, and from a group to a layer that reads them.
    """
    lines = ["digraph groups {", "  rankdir=LR;", "  node [fontname=Helvetica];"]
    for name, about in analysis.graph.nodes(data=True):
        if about["kind"] == "layer":
            lines.append(f"  {_node('layer', name)} [shape=box, label={json.dumps(name)}];")
        else:
            label = json.dumps(f"{name}\n{about['size']} channels, {about['status']}")
            color = _COLORS[about["status"]]
            lines.append(f"  {_node('group', name)} [shape=ellipse, style=filled, fillcolor={color}, label={label}];")
    kinds = dict(analysis.graph.nodes(data="kind"))
    lines += [f"  {_node(kinds[a], a)} -> {_node(kinds[b], b)};" for a, b in analysis.graph.edges]
    return "\n".join([*lines, "}"]) + "\n"


def _node(kind: str, name: str) -> str:
    return json.dumps(f"{kind} {name}")


def graphml(analysis: Analysis) -> str:
    """In GraphML, for yEd, Gephi or networkx, with each node's kind, size and status."""
    import networkx as nx

    return "\n".join(nx.generate_graphml(analysis.graph)) + "\n"
