"""Groups of coupled channels: what must be removed together, and from which tensors."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from fxprune.labels.store import Role

__all__ = ["Group", "Member", "Status"]

Status = Literal["free", "protected", "frozen"]


@dataclass(frozen=True, eq=False)
class Member:
    """One axis of one parameter or buffer that loses entries when channels of the group go.

    Attributes:
        name: the tensor's name in the model's ``state_dict``.
        axis: the axis that is sliced.
        indices: int64 array ``[channels, multiplicity]``: the entries along `axis` that belong to each channel
            (a flattened 7x7 map gives each channel 49 entries of the next linear layer).
        role: ``"producer"`` (an output axis of a layer), ``"consumer"`` (an input axis), ``"affine"`` (norms,
            layer scales, position tables, running statistics).
    """

    name: str
    axis: int
    indices: np.ndarray
    role: Role


@dataclass(eq=False)
class Group:
    """Coupled channels that share one pattern of slices: entry ``k`` of every member is channel ``k``.

    Attributes:
        id: stable name: that of the first producer's tensor, with a counter where one tensor feeds several groups.
        size: number of channels.
        members: every tensor axis that the channels occupy.
        exact: True if removal equals zeroing the channels at their consumers; False if a norm, softmax or mean runs
            over them, so that the slim model computes its statistics over fewer channels.
        status: ``"free"`` (may be pruned), ``"protected"`` (the user asked to keep it) or ``"frozen"``.
        reason: why the group is protected or frozen; empty for free groups.
        multiplicity: entries that one channel occupies in its producer.
        labels: one representative label per channel.
        kind: role, class of layer, tensor and axis of every member: groups of one kind do alike work.
    """

    id: str
    size: int
    members: tuple[Member, ...]
    exact: bool = True
    status: Status = "free"
    reason: str = ""
    multiplicity: int = 1
    labels: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64), repr=False)
    kind: tuple[tuple[str, str, str, int], ...] = field(default=(), repr=False)

    @property
    def layers(self) -> set[str]:
        """Classes of the layers that produce the channels."""
        return {layer for role, layer, _, _ in self.kind if role == "producer"}
