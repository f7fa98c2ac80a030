"""Generated code in the place of a forward that cannot follow, over the tensors of the user's own modules."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import fx, nn

from fxprune.shrinking.regions import Region, region_of
from fxprune.shrinking.stand_in import StandIn
from fxprune.state import named_parts
from fxprune.tracing.modules.part_calls import PartCall
from fxprune.tracing.untouched import twin_of

__all__ = ["GeneratedForward", "generated_for", "generated_part"]


class GeneratedForward(StandIn):
    """Stands for the forward of a module, in its ``__dict__``; copied and pickled with the module.

    Attributes:
        part: the module.
        graph: what runs: its parts have the tensors of the module's parts, in the very tables of these.
        region: how it is called, where it is not the whole model.
    """

    def __init__(self, part: nn.Module, graph: fx.GraphModule, region: Region | None = None) -> None:
        self.part, self.graph, self.region = part, graph, region

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        own = self.part
        there = dict(named_parts(own))
        for name, part in named_parts(self.graph, once=True):
            part.__dict__["training"] = (there.get(name) or own).training
        return self.graph(*args, **kwargs) if self.region is None else self.graph(*self.region.inputs(args, kwargs))

    @property
    def code(self) -> str:
        """What it runs."""
        return str(self.graph.code)


def generated_for(module: nn.Module, slim: fx.GraphModule) -> GeneratedForward:
    """The forward of a slim graph for a copy of the model that it was made from.

    Args:
        module: its tensors are those of `slim` by name; buffers that `slim` has beside go to it.
    """
    graph = twin_of(slim)
    graph.meta = {k: v for k, v in graph.meta.items() if k != "fxprune"}
    graph.recompile()
    _share(module, graph)
    return GeneratedForward(module, graph)


def generated_part(
    part: nn.Module, slim: fx.GraphModule, call: PartCall, names: Mapping[fx.Node, str]
) -> GeneratedForward | None:
    """The forward of one module of the copy, from the part of the slim graph that it computes; None where there is no such."""
    region = region_of(twin_of(slim), call, names)
    if region is None:
        return None
    _share(part, region.graph)
    return GeneratedForward(part, region.graph, region)


def _share(module: nn.Module, graph: fx.GraphModule) -> None:
    """Have a graph use the tables of tensors of a module's parts."""
    there = dict(named_parts(module))
    for name, part in named_parts(graph, once=True):
        own = there.get(name)
        if own is None:  # a holder of a flag alone
            continue
        for table in ("_parameters", "_buffers"):
            mine, theirs = part.__dict__[table], own.__dict__[table]
            for key, tensor in mine.items():
                if key not in theirs and tensor is not None:  # a constant of the graph
                    theirs[key] = tensor
                    if table == "_buffers":
                        own._non_persistent_buffers_set.add(key)
            part.__dict__[table] = theirs
