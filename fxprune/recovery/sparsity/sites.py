"""Where in a graph nothing but ReLU reads a batch norm."""

from __future__ import annotations

from torch import fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from fxprune.analysis.analysis import Analysis
from fxprune.labels.table import key_of
from fxprune.tracing.graphs.modes import in_evaluation

__all__ = ["is_relu", "norm_at", "relu_norms"]


def is_relu(node: fx.Node, analysis: Analysis) -> bool:
    """Whether a node is ``max(0, x)``: a layer, a function or a method, in place or not."""
    if node.op == "call_module":
        return isinstance(analysis.traced.names.modules[str(node.target)], nn.ReLU)
    return key_of(node.op, node.target).rstrip("_") == "aten::relu"


def norm_at(node: fx.Node, analysis: Analysis) -> str:
    """The name of the batch norm, with scale, shift and running statistics, that a node calls; else an empty text."""
    if node.op != "call_module":
        return ""
    module = analysis.traced.names.modules[str(node.target)]
    known = isinstance(module, _BatchNorm) and module.affine and module.track_running_stats
    return str(node.target) if known else ""


def relu_norms(analysis: Analysis) -> list[str]:
    """The names of the batch norms that ReLU alone reads, wherever they are called, in the order of the graph."""
    run, modules = in_evaluation(analysis.traced.graph), analysis.traced.names.modules
    readers: dict[int, list[bool]] = {}
    names: dict[int, str] = {}
    for node in analysis.traced.graph.nodes:
        if node.name in run and (name := norm_at(node, analysis)):
            key = id(modules[name])
            names.setdefault(key, name)
            readers.setdefault(key, []).extend(is_relu(user, analysis) for user in node.users)
    return [names[key] for key, found in readers.items() if found and all(found)]
