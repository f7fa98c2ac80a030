"""Where in a graph channels pass through a batch norm and ReLU on their way to the layers that read them."""

from __future__ import annotations

from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from fxprune.analysis.analysis import Analysis
from fxprune.analysis.groups import Group
from fxprune.labels.table import key_of
from fxprune.statistics.kinds import kind_of
from fxprune.statistics.occupancy import Occupancy
from fxprune.tracing.graphs.modes import in_evaluation

__all__ = ["is_relu", "masked_norms", "norm_at", "norm_before", "relu_norms"]

# What gives a constant map where it gets one, but perhaps at its border; beside what only moves values.
_KEEP = frozenset(
    """
    aten::dropout aten::dropout1d aten::dropout2d aten::dropout3d aten::feature_dropout aten::mean aten::cat aten::concat
    aten::max_pool1d aten::max_pool2d aten::max_pool3d aten::avg_pool1d aten::avg_pool2d aten::avg_pool3d
    aten::adaptive_max_pool1d aten::adaptive_max_pool2d aten::adaptive_max_pool3d
    aten::adaptive_avg_pool1d aten::adaptive_avg_pool2d aten::adaptive_avg_pool3d
    """.split()
)
_KEEPING = (
    nn.Flatten,
    nn.Unflatten,
    nn.Identity,
    nn.modules.dropout._DropoutNd,
    nn.modules.pooling._MaxPoolNd,
    nn.modules.pooling._AvgPoolNd,
    nn.modules.pooling._AdaptiveAvgPoolNd,
    nn.modules.pooling._AdaptiveMaxPoolNd,
)


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


def norm_before(node: fx.Node, group: str, occupancy: Occupancy) -> str:
    """The batch norm whose values reach a node through ReLU and what keeps constants; else an empty text.

    Args:
        node: whose value holds the channels of the group.
    """
    analysis = occupancy.analysis
    while not is_relu(node, analysis):
        inputs = [n for n in node.all_input_nodes if group in occupancy.at.get(n, {})]
        if not _keeps(node, analysis) or len(inputs) != 1:
            return ""
        node = inputs[0]
    return norm_at(node.all_input_nodes[0], analysis)


def masked_norms(analysis: Analysis) -> dict[str, list[str]]:
    """``{group id: its batch norms that ReLU alone reads}``, of groups that are read behind such norms and nowhere else.

    A channel that is zero behind all of these reaches no layer: it can go. Not so a channel of a residual stream that one
    norm and ReLU of several feed.
    """
    norms, occupancy, found = relu_norms(analysis), Occupancy(analysis), {}
    for group in analysis.free:
        sources = _sources(group, occupancy)
        if sources and all(norm_before(node, group.id, occupancy) in norms for node in sources):
            found[group.id] = [n for n in norms if any(m.name == f"{n}.weight" for m in group.members)]
    return found


def _sources(group: Group, occupancy: Occupancy) -> list[fx.Node]:
    """The nodes whose values the layers that consume a group read; none if one of the layers is not found."""
    tensors, modules = occupancy.analysis.traced.tensors, occupancy.analysis.traced.names.modules
    readers: dict[str, list[fx.Node]] = {m.name: [] for m in group.members if m.role == "consumer"}
    for node in occupancy.nodes:
        own: list[Tensor | None] = []
        if node.op == "call_module":
            own += modules[str(node.target)]._parameters.values()
        own += [tensors.get(str(n.target)) for n in node.all_input_nodes if n.op == "get_attr"]
        for name in readers:
            if any(tensor is tensors[name] for tensor in own):
                readers[name] += [n for n in node.all_input_nodes if group.id in occupancy.at.get(n, {})]
    return [n for nodes in readers.values() for n in nodes] if all(readers.values()) else []


def _keeps(node: fx.Node, analysis: Analysis) -> bool:
    if node.op == "call_module" and isinstance(analysis.traced.names.modules[str(node.target)], _KEEPING):
        return True
    return kind_of(node, analysis.traced, ()) == "layout" or key_of(node.op, node.target).rstrip("_") in _KEEP
