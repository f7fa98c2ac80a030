"""Attention whose code names its scale by an attribute: ``self.scaling``, the root of the width that a head had.

The slim model keeps it, which a model that is made of a configuration cannot know: there the scale is that of the width which a
head has now. So the number becomes that, and the factor that makes up for it goes into the rows of the weights that make the
queries (`fxprune.shrinking.scales`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import fx, nn

from fxprune.labels.table import key_of
from fxprune.rewrite import Rewritten
from fxprune.shrinking.scales import Scaling, fold, scalings
from fxprune.shrinking.slots import Setting, Slot

__all__ = ["Rescaled", "rescaled"]


@dataclass(frozen=True)
class Rescaled:
    """What is done to a copy.

    Attributes:
        folded: traced attention -> the factor of its queries.
        settings: module -> the numbers that become the scale of its narrower heads.
    """

    folded: Mapping[fx.Node, Scaling] = field(default_factory=dict)
    settings: Mapping[str, list[Setting]] = field(default_factory=dict)

    def put(self, module: nn.Module, *, undo: bool = False) -> None:
        """Set the numbers and multiply the weights, or take both back."""
        fold(module, self.folded, undo=undo)
        for name, found in self.settings.items():
            for one in found:
                one.slot.put(module.get_submodule(name), one.old if undo else one.new)


def rescaled(rewritten: Rewritten, slim: fx.GraphModule, inputs: Any, module: nn.Module) -> Rescaled:
    """For all attentions with narrower heads whose code names a scale; empty where one of them cannot follow.

    Args:
        slim: filled with weights on which nothing vanishes.
        inputs: of the model.
        module: a copy in its own class.
    """
    queries = _queries(rewritten)
    found = scalings(rewritten, slim, inputs, queries) if queries else {}
    settings: dict[str, list[Setting]] = {}
    for one in found.values():
        part, scale = module.get_submodule(one.scope), one.old**-0.5
        slots = [Slot("", name) for name, value in part.__dict__.items() if type(value) is float and math.isclose(value, scale)]
        if not slots:
            return Rescaled()
        settings[one.scope] = [Setting(slot, slot.get(part), one.new**-0.5) for slot in slots]
    return Rescaled(found, settings) if len(found) == len(queries) else Rescaled()


def _queries(rewritten: Rewritten) -> dict[fx.Node, fx.Node]:
    """Attentions whose code names the scale of wider heads -> their queries, by nodes of the slim graph."""
    traced, cut, origin = rewritten.cut.analysis.traced, rewritten.cut, rewritten.context.origin
    found = {}
    for new, old in origin.items():
        query, scale = _scaled(new)
        axes = traced.axes.get(origin.get(query)) if query is not None else None  # type: ignore[arg-type]
        if query is None or not axes:
            continue
        axis = axes[-1]
        if cut.kept(axis) is not None and math.isclose(scale, axis.size**-0.5) and old.op == new.op:
            found[new] = query
    return found


def _scaled(node: fx.Node) -> tuple[fx.Node | None, float]:
    """The queries of an attention, and the number by which their products with the keys are multiplied."""
    name = _name(node)
    if name == "scaled_dot_product_attention":
        scale = node.kwargs.get("scale")
        return (node.all_input_nodes[0], scale) if isinstance(scale, float) else (None, 0.0)
    if name in ("mul", "div", "truediv") and len(node.args) == 2:
        product, number = node.args
        if not (isinstance(number, float) and number):
            return None, 0.0
        if isinstance(product, fx.Node) and _name(product) == "matmul" and isinstance(product.args[0], fx.Node):
            return product.args[0], number if name == "mul" else 1 / number
    return None, 0.0


def _name(node: fx.Node) -> str:
    return (key_of(node.op, node.target) or "").rpartition("::")[2]
