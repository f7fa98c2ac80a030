"""Names of the tensors that a graph reads beside the model's own: new ones, and the same in both modes."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping

import torch
from torch import Tensor, fx

__all__ = ["align_constants", "fresh"]


def fresh(name: str, *taken: Container[str]) -> str:
    """`name`, or a longer one that nothing has."""
    while any(name in names for names in taken):
        name += "_"
    return name


def align_constants(
    graph: fx.Graph, own: Mapping[str, Tensor], other: Mapping[str, Tensor], taken: Container[str]
) -> dict[str, Tensor]:
    """Rename the constants of one mode's graph, so that a name is one tensor in both modes; returns them by their new names.

    Args:
        own: constants of `graph`.
        other: those of the other mode.
        taken: names of the model.
    """
    names: dict[str, str] = {}
    for name, tensor in own.items():
        same = next(_same(name, tensor, other), None)
        names[name] = same or fresh(name, taken, other, names.values())
    for node in graph.nodes:
        if node.op == "get_attr" and node.target in names:
            node.target = names[node.target]
    return {names[name]: tensor for name, tensor in own.items()}


def _same(name: str, tensor: Tensor, others: Mapping[str, Tensor]) -> Iterator[str]:
    """Names of tensors that are this one, or equal to it; first its own."""
    for other in sorted(others, key=lambda o: o != name):
        found = others[other]
        alike = found.dtype == tensor.dtype and found.shape == tensor.shape and not (found.is_meta or tensor.is_meta)
        if found is tensor or (alike and torch.equal(found, tensor)):
            yield other
