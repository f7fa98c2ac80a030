"""The norms that scale and shift a group's channels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from fxprune.analysis.groups import Group, Member

__all__ = ["Norm", "mean_over_entries", "norms_of"]


@dataclass(frozen=True, eq=False)
class Norm:
    """Scale and shift that one norm gives the channels; `shift` is None where it has none."""

    name: str
    scale: Member
    shift: Member | None
    batch: bool

    def values(self, tensors: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Scale and shift ``[channels, entries]`` in float64 on the CPU; the shift is 0 where there is none."""
        scale = _taken(tensors, self.scale)
        return scale, (scale * 0 if self.shift is None else _taken(tensors, self.shift))


def norms_of(group: Group, tensors: Mapping[str, Tensor]) -> list[Norm]:
    """The norms over a group, batch norms alone where there are any, in the order of the graph.

    A batch norm is known by its running mean, any other norm by a pair of vectors, ``weight`` and ``bias``, in one
    module that neither produces nor consumes the channels. A lone vector is no evidence: it may be the slope of a PReLU.
    """
    parts: dict[str, dict[str, Member]] = {}
    layers = set()
    for member in group.members:
        owner, _, name = member.name.rpartition(".")
        if member.role != "affine":
            layers.add(owner)
        elif tensors[member.name].dim() == 1:
            parts.setdefault(owner, {})[name] = member
    found = []
    for owner, vectors in parts.items():
        batch = "running_mean" in vectors
        if "weight" in vectors and owner not in layers and (batch or "bias" in vectors):
            found.append(Norm(owner, vectors["weight"], vectors.get("bias"), batch))
    return [n for n in found if n.batch] or found


def mean_over_entries(values: Tensor) -> Tensor:
    """``[channels, entries]`` -> ``[channels]``: a channel may meet a norm several times."""
    return values.mean(1)


def _taken(tensors: Mapping[str, Tensor], member: Member) -> Tensor:
    return tensors[member.name].detach().double().cpu()[np.ascontiguousarray(member.indices)]
