"""What lost inputs and is not fitted, and why."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import fx, nn

from fxprune.recovery.repair.layers import Layer, Norm, Site, norm_of
from fxprune.recovery.repair.pair import Pair
from fxprune.state import named_tensors

__all__ = ["left_of"]


def left_of(pair: Pair, nodes: Mapping[str, fx.Node], sites: Iterable[Site], norms: bool) -> dict[str, str]:
    """Operations of the slim model that sum over channels some of which went and are no site -> the reason.

    Args:
        nodes: those of the original that evaluation runs, by name.
        sites: layers and norms that are looked at.
        norms: whether norms are.
    """
    known = {name for site in sites if isinstance(site, Layer) for name in site.nodes}
    slim = {node.name: node for node in pair.slim.graph.nodes}
    tensors = named_tensors(pair.slim)
    found = {str(nodes[name].target): "a batch norm that runs several times" for name in _norms(pair, nodes, sites) if norms}
    for name, node in nodes.items():
        if name in known or name in pair.cut.analysis.dropped or not pair.sums_over_less(name):
            continue
        own = slim.get(name, node)
        read = [str(n.target) for n in own.all_input_nodes if n.op == "get_attr" and str(n.target) in tensors]
        if node.op == "call_module":
            kind = type(pair.slim.get_submodule(str(node.target))).__name__
            found[str(node.target)] = f"no fit is known for {kind}"
        elif weights := [n for n in read if isinstance(tensors[n], nn.Parameter)]:
            found[", ".join(weights)] = f"no fit is known for {_called(own)} with these weights"
        elif read or any(_computed(n, tensors) for n in own.all_input_nodes):
            found[name] = "its weights are computed, or no parameters"
        else:
            found[name] = "it has no weights"
    return found


def _norms(pair: Pair, nodes: Mapping[str, fx.Node], sites: Iterable[Site]) -> list[str]:
    """Nodes of batch norms that are no sites."""
    known = {site.node for site in sites if isinstance(site, Norm)}
    return [n.name for n in pair.slim.graph.nodes if n.name in nodes and norm_of(pair.slim, n) and n.name not in known]


def _called(node: fx.Node) -> str:
    return str(node.target) if node.op == "call_method" else str(getattr(node.target, "__name__", node.target))


def _computed(node: fx.Node, tensors: Mapping[str, object]) -> bool:
    """Whether a value is computed from tensors of the model alone."""
    if node.op == "get_attr":
        return str(node.target) in tensors
    sources = node.all_input_nodes
    return node.op != "placeholder" and bool(sources) and all(_computed(n, tensors) for n in sources)
