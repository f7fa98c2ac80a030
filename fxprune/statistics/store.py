"""Named sums and ranges: what is left of the data, in a form that adds up."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from fxprune.errors import InputError

__all__ = ["Slot", "Store"]

Slot = tuple[int, str, int]  # number of the observer, then group id and number of the spot or member


class Store:
    """Sums in float64, and ranges ``(low, high)`` by channel.

    Attributes:
        sums: slot -> name -> tensor; shapes never change.
        ranges: slot -> lowest and highest value of each channel.
        images: how many were added.
    """

    def __init__(self) -> None:
        self.sums: dict[Slot, dict[str, Tensor]] = {}
        self.ranges: dict[Slot, tuple[Tensor, Tensor]] = {}
        self.images = 0

    def add(self, number: int, key: tuple[str, int], values: Mapping[str, Tensor]) -> None:
        """Add a batch's contribution."""
        sums = self.sums.setdefault((number, *key), {})
        for name, value in values.items():
            value = value.detach().double()
            sums[name] = value.clone() if name not in sums else sums[name].to(value.device).add_(value)

    def widen(self, number: int, key: tuple[str, int], low: Tensor, high: Tensor) -> None:
        """Extend a range."""
        slot = (number, *key)
        if slot in self.ranges:
            low, high = torch.minimum(self.ranges[slot][0], low), torch.maximum(self.ranges[slot][1], high)
        self.ranges[slot] = (low, high)

    def of(self, number: int) -> dict[tuple[str, int], dict[str, Tensor]]:
        """The sums of one observer, on the CPU."""
        return {
            (name, index): {k: v.double().cpu() for k, v in values.items()}
            for (owner, name, index), values in self.sums.items()
            if owner == number
        }

    # -- as named tensors --------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Tensor]:
        state = {"images": torch.tensor(self.images)}
        for (number, name, index), values in self.sums.items():
            for field, value in values.items():
                state[f"sum/{number}/{index}/{field}/{name}"] = value.cpu().clone(memory_format=torch.contiguous_format)
        for (number, name, index), (low, high) in self.ranges.items():
            state[f"low/{number}/{index}//{name}"] = low.cpu().clone()
            state[f"high/{number}/{index}//{name}"] = high.cpu().clone()
        return state

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Replace everything by a state.

        Raises:
            InputError: the state is damaged.
        """
        self.sums, self.ranges = {}, {}
        lows: dict[Slot, Tensor] = {}
        try:
            self.images = int(state["images"])
            for key, value in state.items():
                if key == "images":
                    continue
                kind, number, index, field, name = key.split("/", 4)
                slot = (int(number), name, int(index))
                if kind == "sum":
                    self.sums.setdefault(slot, {})[field] = value.clone()
                elif kind == "low":
                    lows[slot] = value
                else:
                    self.ranges[slot] = (lows[slot], value) if slot in lows else (state[f"low/{key[5:]}"], value)
        except (KeyError, ValueError) as error:
            raise InputError(f"the state of the statistics is damaged: {error}") from error

    def merge(self, state: Mapping[str, Tensor]) -> None:
        """Add another state.

        Raises:
            InputError: it belongs to other criteria, another model or another calibration.
        """
        other = Store()
        other.load(state)
        mine = {(p, k): v.shape for p, s in self.sums.items() for k, v in s.items()}
        theirs = {(p, k): v.shape for p, s in other.sums.items() for k, v in s.items()}
        if mine and theirs and mine != theirs:
            raise InputError("the states to be merged come from other criteria or another model")
        for slot, (low, high) in other.ranges.items():
            own = self.ranges.setdefault(slot, (low, high))
            if not (torch.equal(own[0].cpu(), low) and torch.equal(own[1].cpu(), high)):
                raise InputError("the states to be merged were calibrated on different data: start both from one state")
        for (number, name, index), values in other.sums.items():
            self.add(number, (name, index), values)
        self.images += other.images

    # -- across processes --------------------------------------------------------------------------------------------

    def all_reduce(self, device: torch.device) -> None:
        """Sum over the processes of the default process group; all hold the same names."""
        total = torch.tensor(self.images, dtype=torch.int64, device=device)
        torch.distributed.all_reduce(total)
        self.images = int(total)
        for _, values in sorted(self.sums.items()):
            for name in sorted(values):
                values[name] = _reduced(values[name].to(device), torch.distributed.ReduceOp.SUM)

    def share_ranges(self, device: torch.device) -> None:
        """Make every range the widest of all processes."""
        for slot, (low, high) in sorted(self.ranges.items()):
            self.ranges[slot] = (
                _reduced(low.to(device), torch.distributed.ReduceOp.MIN),
                _reduced(high.to(device), torch.distributed.ReduceOp.MAX),
            )


def _reduced(value: Tensor, operation: object) -> Tensor:
    reduce: Callable[..., object] = torch.distributed.all_reduce
    value = value.contiguous().clone()
    reduce(value, op=operation)
    return value
