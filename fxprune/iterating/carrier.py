"""The original's shapes with the weights as they are by then: what each step cuts its slim model from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from torch import Tensor, fx, nn

from fxprune.iterating.weights import put_back
from fxprune.planning.report import Report
from fxprune.rewrite import Rewritten
from fxprune.state import deep_copy, named_tensors
from fxprune.submodules.dressing import Part
from fxprune.submodules.target import Target

__all__ = ["Carrier"]


class Carrier:
    """A copy of a user's model, and of its submodules if it is these that are pruned.

    Args:
        model: the user's.
        target: what is pruned of it.
    """

    def __init__(self, model: nn.Module, target: Target) -> None:
        self.model = deep_copy(model)
        if target.whole is None:
            self.target = replace(target, model=self.model)
        else:
            whole = replace(target.whole, model=self.model)
            self.target = replace(target, model=whole.parts, whole=whole)
        self.tensors: dict[str, Tensor] = named_tensors(self.model, once=True)

    @property
    def traced(self) -> nn.Module:
        """What is one graph: the model, or its submodules as one, over the same tensors."""
        return self.target.model

    def put_back(self, weights: Mapping[str, Tensor], kept: Mapping[str, Mapping[int, np.ndarray]]) -> None:
        """Take the weights of a slim model; what went keeps the values that it had.

        Args:
            kept: ``{tensor name: {axis: kept indices}}`` of every axis that lost something.
        """
        put_back(self.model, weights, kept)

    def filled(self, rewritten: Rewritten) -> tuple[fx.GraphModule, dict[str, Part]]:
        """The slim graph, and the parts that it is made of where submodules are pruned."""
        return self.target.fill(rewritten)

    def handed_over(self, slim: fx.GraphModule, parts: Mapping[str, Part], report: Report, check: bool) -> Any:
        """What the user gets: the slim graph, or a copy of the whole model with the parts in it."""
        return self.target.hand_over(slim, parts, report, check)
