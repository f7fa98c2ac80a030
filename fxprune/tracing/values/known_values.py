"""Values of tensors that are made of sizes alone: ``torch.tensor(x.size(1))``, ``torch.arange(n).max()``.

They are known while a model is recorded, and others at another size of the inputs: what code reads of them follows the inputs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, fx

from fxprune.tracing.graphs.guards import SCALARS

__all__ = ["numbers_behind"]


def numbers_behind(node: fx.Node, values: Mapping[fx.Node, Any]) -> Iterator[fx.Node]:
    """The numbers that follow the inputs, of which the nodes make tensors that a node with known values is computed from."""
    pending, seen = [node], {node}
    while pending:
        for source in pending.pop().all_input_nodes:
            if source in seen:
                continue
            seen.add(source)
            value = values.get(source)
            if isinstance(value, SCALARS):
                yield source
            elif isinstance(value, (Tensor, tuple, list)):
                pending.append(source)
