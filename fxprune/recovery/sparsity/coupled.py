"""The channels of a model's prunable groups, in its live parameters."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from fxprune.analysis.analysis import Analysis
from fxprune.analysis.groups import Group, Member
from fxprune.errors import InputError, PruneError
from fxprune.state import named_parts

__all__ = ["Coupled", "Place"]


@dataclass(eq=False)
class Place:
    """One axis of one parameter that holds channels of a group.

    Attributes:
        name: of the parameter.
        owner, key: the module that holds it, and under which name: the tensor may be replaced, as by ``model.to(device)``.
        axis: on which the channels lie.
        indices: int64 ``[channels, multiplicity]``: the entries of each channel.
        size: of the axis.
    """

    name: str
    owner: nn.Module
    key: str
    axis: int
    indices: Tensor
    size: int
    _there: dict[torch.device, Tensor] = field(default_factory=dict, repr=False)

    def on(self, device: torch.device) -> Tensor:
        """`indices` on a device."""
        if device not in self._there:
            self._there[device] = self.indices.to(device)
        return self._there[device]

    def squares(self, value: Tensor) -> Tensor:
        """``[channels]``: the sum of squares of all entries of each channel, in float32 or float64.

        Args:
            value: of the shape of the parameter.
        """
        others = [d for d in range(value.dim()) if d != self.axis]
        kind = torch.promote_types(value.dtype, torch.float32)
        along = torch.linalg.vector_norm(value, dim=others, dtype=kind) if others else value.to(kind)
        return along.square()[self.on(value.device)].sum(1)

    def along(self, values: Tensor, like: Tensor) -> Tensor:
        """For each entry of the axis the sum of the values ``[channels]`` of its channels, 0 where it has none; in a shape
        that broadcasts over the parameter `like`."""
        indices = self.on(like.device)
        spread = values.to(like.device, torch.promote_types(like.dtype, torch.float32)).unsqueeze(1).expand_as(indices)
        made = spread.new_zeros(self.size).index_add(0, indices.reshape(-1), spread.reshape(-1))
        return made.reshape([-1 if d == self.axis else 1 for d in range(like.dim())])


class Coupled:
    """The free groups of an analysis as live parameters of a model.

    A parameter may be in several groups: the outputs of one and the inputs of the next, say. An entry at ``[i, j]`` of its
    weight then belongs to channel ``i`` of the one and ``j`` of the other, and what is summed over both groups counts it
    twice.

    Args:
        model: its parameters are found by the names of the analysis.
        biases: whether vectors called bias (of layers, of norms) belong to the channels.

    Attributes:
        groups: those with at least one place.
        parts: group id -> its places.
        places: parameter name -> its places, in all groups.

    Raises:
        InputError: the analysis is of another model.
    """

    def __init__(self, model: nn.Module, analysis: Analysis, biases: bool = True) -> None:
        owners = dict(named_parts(model))
        self.parts: dict[str, list[Place]] = {}
        self.places: dict[str, list[tuple[str, Place]]] = {}
        for group in analysis.free:
            for member in group.members:
                place = _place(member, owners, analysis)
                if place is None or (not biases and _is_bias(place)):
                    continue
                self.parts.setdefault(group.id, []).append(place)
                self.places.setdefault(place.name, []).append((group.id, place))
        self.groups: list[Group] = [g for g in analysis.free if g.id in self.parts]

    def parameter(self, name: str) -> nn.Parameter:
        """The parameter as it is now.

        Raises:
            PruneError: it has another shape than when it was analysed.
        """
        _, place = self.places[name][0]
        tensor = place.owner._parameters.get(place.key)
        if tensor is None or tensor.dim() <= place.axis or tensor.shape[place.axis] != place.size:
            raise PruneError(f"{name!r} is no longer what it was when its channels were found: make the method anew")
        return tensor

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        """All of them by name."""
        return {name: self.parameter(name) for name in self.places}

    @property
    def trained(self) -> dict[str, nn.Parameter]:
        """Those that are not frozen."""
        return {name: tensor for name, tensor in self.parameters.items() if tensor.requires_grad}

    def squares(self, values: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """``{group id: [channels]}``: the sum of squares of all entries of each channel, in float32 (or float64).

        Args:
            values: tensors in the place of the parameters, by name.
        """
        found: dict[str, Tensor] = {}
        values = self.parameters if values is None else values
        for name, places in self.places.items():
            for group, place in places:
                part = place.squares(values[name])
                found[group] = found[group] + part.to(found[group]) if group in found else part
        return found

    def factor(self, name: str, values: Mapping[str, Tensor], like: Tensor) -> Tensor:
        """For each entry of a parameter the sum of the values of the channels that it belongs to: broadcasts over `like`."""
        parts = [place.along(values[group], like) for group, place in self.places[name] if group in values]
        return sum(parts[1:], parts[0])

    def mask(self, name: str, gone: Mapping[str, Iterable[int]], like: Tensor) -> Tensor:
        """1, or 0 at the entries of channels that are gone; broadcasts over `like`."""
        made = like.new_ones([1] * like.dim())
        for group, place in self.places[name]:
            channels = torch.as_tensor(list(gone.get(group, ())), dtype=torch.int64)
            if len(channels):
                hit = torch.zeros(len(place.indices))
                hit[channels] = 1
                made = made * (place.along(hit, like) == 0)
        return made

    def covered(self, name: str, like: Tensor) -> Tensor:
        """1 at the entries that belong to some channel, else 0; broadcasts over `like`."""
        ones = {group: torch.ones(len(place.indices)) for group, place in self.places[name]}
        return self.factor(name, ones, like).clamp(max=1).to(like.dtype)


def _place(member: Member, owners: Mapping[str, nn.Module], analysis: Analysis) -> Place | None:
    """Where a member lies; None if it is no parameter that could be trained."""
    expected = analysis.traced.tensors.get(member.name)
    if not isinstance(expected, nn.Parameter) or not expected.is_floating_point():
        return None
    owner, _, key = member.name.rpartition(".")
    tensor = owners[owner]._parameters.get(key) if owner in owners else None
    if tensor is None or tensor.shape != expected.shape:
        raise InputError(f"the analysis is of another model: this one has no parameter {member.name!r} {tuple(expected.shape)}")
    indices = torch.from_numpy(member.indices.copy())
    return Place(member.name, owners[owner], key, member.axis, indices, tensor.shape[member.axis])


def _is_bias(place: Place) -> bool:
    tensor = place.owner._parameters[place.key]
    return place.key.endswith("bias") and tensor is not None and tensor.dim() == 1
