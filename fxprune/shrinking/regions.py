"""The part of a slim graph that one module of the model computes, as a graph of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import fx, nn
from torch.fx.node import map_arg

from fxprune import nested
from fxprune.errors import PruneError
from fxprune.tracing.graphs.guarded_code import guard_modes
from fxprune.tracing.graphs.modes import writes
from fxprune.tracing.graphs.module import Recorded
from fxprune.tracing.modules.part_calls import PartCall

__all__ = ["Region", "region_of"]


class Region:
    """A graph, and how it is called.

    Attributes:
        graph: over the modules and tensors of the slim graph's part.
        form: the arguments that were recorded: a number for each input of the graph, None for all that is not read.
    """

    def __init__(self, graph: fx.GraphModule, form: Any) -> None:
        self.graph, self.form = graph, form

    def inputs(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any]:
        """What the graph takes of the arguments of a call.

        Raises:
            PruneError: the call has another form than the one that was recorded.
        """
        recorded, given = list(nested.leaves(self.form)), list(nested.leaves((args, kwargs)))
        if len(recorded) != len(given) or list(self.form[1]) != list(kwargs):
            raise PruneError(
                "a part that runs generated code is called with other arguments than when it was recorded: "
                f"{len(given)} values, not {len(recorded)}"
            )
        taken = {number: value for number, value in zip(recorded, given, strict=True) if isinstance(number, int)}
        return [taken[number] for number in sorted(taken)]


def region_of(slim: fx.GraphModule, call: PartCall, names: Mapping[fx.Node, str]) -> Region | None:
    """The region of a call; None where its output needs more than its arguments and the module's own tensors.

    Args:
        slim: a copy that the region may take apart.
        names: traced node -> its name in the slim graph.
    """
    nodes = {n.name: n for n in slim.graph.nodes}

    def there(value: Any) -> Any:
        return nodes.get(names.get(value, "")) if isinstance(value, fx.Node) else value

    args, kwargs, output = (nested.map(there, part) for part in (call.args, call.kwargs, call.output))
    given = list(dict.fromkeys(nested.instances(fx.Node, (args, kwargs))))
    body = _body(slim, call.name, set(given), nested.instances(fx.Node, output))
    if body is None:
        return None
    graph = fx.Graph()
    made: dict[fx.Node, fx.Node] = {}
    read = {n for node in body for n in node.all_input_nodes} | set(nested.instances(fx.Node, output))
    used = [n for n in given if n in read]
    for number, node in enumerate(used):
        made[node] = graph.placeholder(f"input_{number}")
    for node in slim.graph.nodes:
        if node in body:
            made[node] = new = graph.node_copy(node, made.__getitem__)
            if new.op in ("get_attr", "call_module"):
                new.target = _local(str(new.target), call.name)
            if "flag" in new.meta:
                new.meta["flag"] = _local(str(new.meta["flag"]), call.name)
    graph.output(map_arg(nested.map(lambda v: v, output), made.__getitem__)).meta.update(scope="", source="")
    guard_modes(graph)
    part = slim.get_submodule(call.name)
    module = Recorded(nn.Module(), fx.Graph(), "Region")
    module._modules, module._parameters, module._buffers = part._modules, part._parameters, part._buffers
    module._non_persistent_buffers_set = part._non_persistent_buffers_set
    module.training = part.training
    module.graph = graph
    places = {node: number for number, node in enumerate(used)}
    form = nested.map(lambda v: places.get(v) if isinstance(v, fx.Node) else None, (args, kwargs))
    return Region(module, form)


def _local(target: str, name: str) -> str:
    return target.removeprefix(f"{name}.") if target.startswith(f"{name}.") else target.rpartition(".")[2]


def _body(slim: fx.GraphModule, name: str, given: set[fx.Node], output: list[fx.Node]) -> set[fx.Node] | None:
    """The nodes between the arguments and the output, and what is written on the way."""
    body: set[fx.Node] = set()
    inside = [n for n in slim.graph.nodes if _within(str(n.meta.get("scope", "")), name)]
    pending = [*output, *(n for n in inside if writes(n) or not n.users)]
    while pending:
        node = pending.pop()
        if node in given or node in body:
            continue
        if node.op == "placeholder" or (node.op in ("get_attr", "call_module") and not _reachable(node, name)):
            return None
        body.add(node)
        pending += node.all_input_nodes
        if "flag" in node.meta:
            pending += [n for n in slim.graph.nodes if n.op == "get_attr" and n.target == node.meta["flag"]]
    return body


def _within(scope: str, name: str) -> bool:
    return scope == name or scope.startswith(f"{name}.")


def _reachable(node: fx.Node, name: str) -> bool:
    """Whether a part has what a node reads: tensors of its own, or the model's mode, which is the part's."""
    target = str(node.target)
    return target.startswith(f"{name}.") or (node.op == "get_attr" and target.rpartition(".")[2] == "training")
