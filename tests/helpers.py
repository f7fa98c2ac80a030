"""What the tests share: places in parameters, comparison of outputs, and checks of their own."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fxprune.analysis.groups import Group
from fxprune.codegen.roundtrip import same_result

__all__ = [
    "Channels",
    "assert_equivalent",
    "assert_permutable",
    "assert_same",
    "error",
    "fingerprint",
    "masked_copy",
    "parameters_of",
    "run",
    "tensors_of",
    "to_double",
]

_PLACE = re.compile(r"^(?P<name>[^:]+):(?P<axis>\d+)(\[(?P<cut>[-\d:]*)\])?$")

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def parse(place: str) -> tuple[str, int, slice]:
    """``"conv1.weight:0[::2]"`` -> ``("conv1.weight", 0, slice(None, None, 2))``."""
    match = _PLACE.match(place)
    assert match is not None, f"{place!r} is not written name:axis or name:axis[start:stop:step]"
    cut = match["cut"]
    numbers = [int(part) if part else None for part in cut.split(":")] if cut else [None]
    return match["name"], int(match["axis"]), slice(*numbers) if cut else slice(None)


class Channels:
    """Which channel each entry of each axis belongs to, as the groups of an analysis say.

    A channel is ``(group number, place in the group)``; an entry that no group lists belongs to none. An
    axis is looked up under any of the names that its tensor has in `model`.
    """

    def __init__(self, groups: Iterable[Group], model: nn.Module) -> None:
        self.groups = list(groups)
        self.tensors = named_tensors(model)
        self.owners: dict[tuple[int, int], list[set[tuple[int, int]]]] = {}
        for number, group in enumerate(self.groups):
            for member in group.members:
                tensor = self.tensors[member.name]
                size = tensor.shape[member.axis]
                owner = self.owners.setdefault((id(tensor), member.axis), [set() for _ in range(size)])
                for channel, entries in enumerate(member.indices):
                    for entry in entries.tolist():
                        owner[entry].add((number, channel))

    def at(self, place: str) -> list[set[tuple[int, int]]]:
        """The channels of each entry of a place: one, none, or two (it goes with either of two factors)."""
        name, axis, cut = parse(place)
        tensor = self.tensors[name]
        none: list[set[tuple[int, int]]] = [set() for _ in range(tensor.shape[axis])]
        return self.owners.get((id(tensor), axis), none)[cut]

    def free(self, place: str) -> list[bool]:
        """Whether each entry of a place can be removed."""
        return [any(self.groups[n].status == "free" for n, _ in owner) for owner in self.at(place)]

    def groups_at(self, place: str) -> list[Group]:
        """The free groups that a place belongs to."""
        numbers = sorted({n for owner in self.at(place) for n, _ in owner})
        return [self.groups[n] for n in numbers if self.groups[n].status == "free"]


def named_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers under every name they have, non-persistent buffers and shared ones included."""
    return {
        **dict(model.named_parameters(remove_duplicate=False)),
        **dict(model.named_buffers(remove_duplicate=False)),
    }


def parameters_of(model: nn.Module) -> int:
    """Number of parameters, shared ones counted once."""
    return sum(p.numel() for p in model.parameters())


def tensors_of(value: Any) -> Iterator[Tensor]:
    """The tensors of a nested output, in order."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from tensors_of(part)
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from tensors_of(part)


def to_double(value: Any) -> Any:
    """The same nested value with floating-point tensors in float64."""
    if isinstance(value, Tensor):
        return value.double() if value.is_floating_point() else value
    if isinstance(value, (list, tuple)):
        return type(value)(to_double(part) for part in value)
    return value


def run(model: nn.Module, inputs: Sequence[Any]) -> Any:
    """The output in eval mode and without gradients; the model's mode is put back."""
    training = {m: m.training for m in model.modules()}
    try:
        with torch.no_grad():
            return model.eval()(*_copied(inputs))
    finally:
        for module, flag in training.items():
            module.training = flag


def _copied(inputs: Sequence[Any]) -> list[Any]:
    """Inputs that a model may change in place."""
    return [value.clone() if isinstance(value, Tensor) else value for value in inputs]


def error(expected: Any, found: Any) -> float:
    """Greatest difference of two nested outputs, relative to the greatest entry of the expected one."""
    pairs = list(zip(tensors_of(expected), tensors_of(found), strict=True))
    assert pairs, "the output holds no tensor"
    worst = 0.0
    for a, b in pairs:
        assert a.shape == b.shape, f"expected an output of shape {tuple(a.shape)}, found {tuple(b.shape)}"
        assert torch.isfinite(a).all(), "the original's output is not finite"
        scale = max(float(a.abs().max()), 1e-30) if a.numel() else 1.0
        worst = max(worst, float((a - b).abs().max()) / scale if a.numel() else 0.0)
    return worst


def assert_same(expected: Any, found: Any) -> None:
    """Two nested outputs are equal in structure, and in bits but for the order of sums in a matrix product."""
    assert type(expected) is type(found), f"expected a {type(expected).__name__}, found a {type(found).__name__}"
    if isinstance(expected, Tensor):
        assert expected.dtype == found.dtype and expected.shape == found.shape
        assert same_result(expected, found), f"values differ, by {float((expected - found).abs().max()):.3g}"
    elif isinstance(expected, Mapping):
        assert list(expected) == list(found)
        for key in expected:
            assert_same(expected[key], found[key])
    elif isinstance(expected, (list, tuple)):
        assert len(expected) == len(found)
        for a, b in zip(expected, found, strict=True):
            assert_same(a, b)
    else:
        assert expected == found


def masked_copy(model: nn.Module, kept: Mapping[str, Mapping[int, Sequence[int]]], also: Sequence[str] = ()) -> nn.Module:
    """A copy of `model` in which whatever reads a removed channel multiplies it by zero.

    Convolutions, linear layers and the input projections of `nn.MultiheadAttention` get zeros at the removed
    entries of their input axis; so do the places of `also`. Nothing changes its shape, and nothing of
    fxprune is used.
    """
    masked = copy.deepcopy(model)
    tensors = named_tensors(masked)
    gone: dict[tuple[int, int], list[int]] = {}
    for name, axes in kept.items():
        for axis, indices in axes.items():
            tensor = tensors[name]
            gone[id(tensor), axis] = sorted(set(range(tensor.shape[axis])) - set(indices))
    places = [(tensors[name], axis) for name, axis, _ in map(parse, also)]
    for module in masked.modules():
        if isinstance(module, (*_CONVOLUTIONS, nn.Linear)):
            places.append((module.weight, 1))
        elif isinstance(module, _TRANSPOSED):
            places.append((module.weight, 0))
    with torch.no_grad():
        for tensor, axis in places:
            removed = gone.get((id(tensor), axis))
            if removed:
                tensor.index_fill_(axis, torch.tensor(removed), 0)
    return masked


def assert_equivalent(
    model: nn.Module,
    slim: nn.Module,
    inputs: Sequence[Any],
    kept: Mapping[str, Mapping[int, Sequence[int]]],
    also: Sequence[str] = (),
    tolerance: float = 1e-9,
) -> None:
    """`slim` computes what `model` does with the removed channels zeroed where they are read.

    See `masked_copy`. Both hold the same weights; both are run in float64.
    """
    masked = masked_copy(model, kept, also).double()
    found = run(copy.deepcopy(slim).double(), to_double(inputs))
    worst = error(run(masked, to_double(inputs)), found)
    assert worst <= tolerance, f"the slim model differs from the masked original by {worst:.3g}"


def assert_permutable(model: nn.Module, group: Group, inputs: Sequence[Any], seed: int = 0, tolerance: float = 1e-9) -> None:
    """Permuting the channels of a group, wherever they are, changes nothing in the output (float64)."""
    original = copy.deepcopy(model).double()
    permuted = copy.deepcopy(original)
    tensors = named_tensors(permuted)
    order = np.random.default_rng(seed).permutation(group.size)
    with torch.no_grad():
        for member in group.members:
            tensor = tensors[member.name]
            source = torch.from_numpy(member.indices[order].ravel())
            target = torch.from_numpy(member.indices.ravel())
            moved = tensor.clone().index_copy_(member.axis, target, tensor.index_select(member.axis, source))
            tensor.copy_(moved)
    inputs = to_double(inputs)
    worst = error(run(original, inputs), run(permuted, inputs))
    assert worst <= tolerance, f"permuting {group.id} changes the output by {worst:.3g}"


def fingerprint(model: nn.Module) -> list[tuple[Any, ...]]:
    """What pruning must leave alone: modules, modes, attributes; tensors with identity, bits, gradients."""
    seen: list[tuple[Any, ...]] = []
    for name, module in model.named_modules():
        hooks = (len(module._forward_hooks), len(module._forward_pre_hooks))
        seen.append((name, id(module), type(module), module.training, hooks, sorted(vars(module))))
    for name, tensor in named_tensors(model).items():
        facts = (tensor.dtype, tuple(tensor.shape), tensor.stride(), tensor.requires_grad, tensor.data_ptr())
        gradient = tensor.grad.tolist() if tensor.grad is not None else None
        seen.append((name, id(tensor), facts, tensor.tolist(), gradient))
    return seen
