"""What the model's code calls its numbers, written down in a graph of it."""

from __future__ import annotations

from collections.abc import Mapping

from torch import fx, nn

from fxprune.tracing.words.numbers import words_at
from fxprune.tracing.words.parts import part_words

__all__ = ["note_words"]


def note_words(module: fx.GraphModule, origin: Mapping[fx.Node, fx.Node], model: nn.Module) -> None:
    """Note them in ``module.meta["words"]``, by the names of parts, and in ``node.meta["words"]``.

    Args:
        origin: node -> the recorded node that it stands for, which knows its place in the code.
        model: the original.
    """
    module.meta["words"] = part_words(model)
    for node in module.graph.nodes:
        old = origin.get(node)
        if old is not None and old.target == node.target and len(old.args) == len(node.args):
            words = words_at(old, old.meta.get("place"))
            if words:
                node.meta["words"] = words
