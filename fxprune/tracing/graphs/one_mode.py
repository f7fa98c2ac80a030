"""A graph of one mode, where the other cannot be recorded: it runs in that mode alone, and says why in the other."""

from __future__ import annotations

from collections.abc import Iterable

from torch import fx, nn

from fxprune.errors import PruneError

__all__ = ["MODES", "in_its_mode", "only_mode", "restrict", "without_checks"]

MODES = ("evaluation", "training")


def only_mode(training: bool, recorded: bool, sentence: str) -> None:
    """What a graph of one mode calls first: whether the model, or a part that asks for its mode, is in that mode.

    Raises:
        PruneError: it is not.
    """
    if training is not recorded:
        raise PruneError(sentence)


def restrict(graph: fx.Graph, flags: Iterable[str], training: bool, why: str) -> dict[fx.Node, bool | None]:
    """Have a graph of one mode refuse the other; the values of the new nodes.

    Args:
        flags: ``training`` attributes by name that decided what was recorded.
        training: the mode that was.
        why: the other could not be.
    """
    values: dict[fx.Node, bool | None] = {}
    known = {str(n.target): n for n in graph.nodes if n.op == "get_attr"}
    first = next(n for n in graph.nodes if n.op != "placeholder")
    with graph.inserting_before(first):
        for flag in sorted(flags):
            part = flag.rpartition(".")[0]
            what = f"the part {part!r}" if part else "the model"
            name, other = MODES[training], MODES[not training]
            node = graph.create_node("get_attr", flag)  # `get_attr` warns of what is no tensor
            if flag in known:
                known[flag].replace_all_uses_with(node)
                values[node] = training
                graph.erase_node(known[flag])
            sentence = f"{what} was recorded in {name} alone: call its .{'train' if training else 'eval'}(). In {other}: {why}"
            check = graph.call_function(only_mode, (node, training, sentence))
            for new, value in ((node, training), (check, None)):
                new.meta.update(scope="", source="")
                values[new] = value
    return values


def in_its_mode(module: fx.GraphModule) -> fx.GraphModule:
    """The module, in which the parts that were recorded in one mode alone are in that mode."""
    for node in module.graph.nodes:
        if node.target is only_mode:
            part = module.get_submodule(str(node.args[0].target).rpartition(".")[0])
            part.training = bool(node.args[1])
    return module


def without_checks(module: fx.GraphModule) -> fx.GraphModule:
    """A copy of the module that runs what was recorded of it in either mode; its tensors and parts are the same."""
    if not any(node.target is only_mode for node in module.graph.nodes):
        return module
    graph = fx.Graph()
    graph.output(graph.graph_copy(module.graph, {}))
    for node in list(graph.nodes):
        if node.target is only_mode:
            graph.erase_node(node)
    graph.set_codegen(module.graph._codegen)
    new = fx.GraphModule(nn.Module(), fx.Graph())
    new.__dict__.update(module.__dict__)
    new.graph = graph
    return new
