"""A copy of the user's model whose tensors are sliced and whose layers of torch.nn have the sizes that remain."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from fxprune.analysis.cut import Cut
from fxprune.labels.table import of_layer
from fxprune.passes.base import Context
from fxprune.passes.resize_leaves import Layer
from fxprune.shrinking.copying import settle_by_tensors
from fxprune.shrinking.slots import Setting
from fxprune.shrinking.watched.attention import settle_attention
from fxprune.state import copied, deep_copy, named_parts, named_tensors, replace_tensors, sliced
from fxprune.tracing.untouched import twin_of

__all__ = ["Chosen", "slim_copy"]


@dataclass
class Chosen:
    """What is done to a copy beside slicing.

    Attributes:
        settings: module -> numbers among its attributes that are set.
        made: a slim model that is there already: all that is left to do is to fill it.
    """

    settings: dict[str, list[Setting]] = field(default_factory=dict)
    made: nn.Module | None = None

    def put(self, model: nn.Module) -> None:
        """Set them."""
        for name, found in self.settings.items():
            for one in found:
                one.slot.put(model.get_submodule(name), one.new)


def slim_copy(model: nn.Module, cut: Cut, layers: Mapping[str, tuple[Any, Any]], chosen: Chosen) -> nn.Module:
    """The copy; nothing is shared with `model`.

    Args:
        layers: layer of torch.nn -> axes of its first input and of its output.

    Raises:
        Mismatch: a grouped layer would keep unequal numbers of channels of its groups.
    """
    if chosen.made is not None:
        return _filled(twin_of(chosen.made, clone=True), model, cut)
    made = _filled(deep_copy(model), model, cut)
    original = dict(named_parts(model))
    context = Context(cut, {}, {})
    for name, part in named_parts(made, once=True):
        settle_by_tensors(part, original[name])
        change = of_layer(type(part), "resize")
        if change is not None and name in layers:
            change(Layer(part, context, *layers[name]))
    chosen.put(made)
    settle_attention(made)
    return made


def _filled(made: nn.Module, model: nn.Module, cut: Cut) -> nn.Module:
    """A copy with what remains of the tensors of a model."""
    kept, source = cut.tensors, named_tensors(model)
    new = {}
    for name, tensor in named_tensors(made, once=True).items():
        new[id(tensor)] = copied(tensor, sliced(source[name], kept.get(name, {})))
    replace_tensors(made, new)
    return made
