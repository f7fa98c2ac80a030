"""Soft channel pruning with differentiable masks (Kang & Han, ICML 2020)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from fxprune.errors import InputError, PruneError, shown
from fxprune.options import check_seed
from fxprune.recovery.finetune import chance
from fxprune.recovery.sparsity.base import Sparsity, positive
from fxprune.recovery.sparsity.gate import Gate
from fxprune.recovery.sparsity.sites import masked_norms
from fxprune.tracing.values.proxy import proxies_in

__all__ = ["SCP"]


class SCP(Sparsity):
    """Masks after batch norm and ReLU, drawn in each step from how likely these silence a channel, and a regulariser.

    Kang & Han, "Operation-Aware Soft Channel Pruning using Differentiable Masks", ICML 2020, as in the authors' code. With
    the formulas of `Gate`, in training:

    - each channel is multiplied by a draw ``m`` of its relaxed mask, through which gradients reach scale and shift;
    - running statistics move for the channels that were drawn as kept, ``m > 1/2``, alone (in the code's block for VGG a
      misspelt name leaves the variance out; here both are masked);
    - ``strength sum (beta + s |gamma|)`` is added to the loss.

    In evaluation a channel is multiplied by 1 or, where ``p >= 1/2``, by 0. A mask on what the norm puts out is the same as
    one after ReLU, as it is not negative. So the masks are hooks on the model's batch norms: all that ReLU alone reads, of
    channels that no layer reads but behind such norms. (Of a channel of a residual stream that is summed before ReLU a mask
    would drop a part, which cannot be removed.) Draws depend on the seed, the norm and the step: all calls in one step see the
    same mask (accumulated gradients, checkpointed activations, processes).

    `remove` takes the hooks off, which must be done before the model is recorded, as by `fxprune.prune`. Then
    ``fxprune.prune(model, 0.05, criterion="bn_relu", scope="threshold")`` removes what is off, as the score is ``1 - phi`` (its
    mean over the norms of a channel) and ``1 - c0 = 0.05``. The penalty may well be below zero.

    >>> normed = nn.Sequential(nn.Linear(8, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2))
    >>> method = SCP(normed, x, strength=0.5)
    >>> method.penalty().item()
    4.0
    >>> method.remove()

    Args:
        model, example_inputs: see `Sparsity`.
        strength: lambda: 1e-4 as published for VGG, 5e-5 for ResNet, 3e-5 for DenseNet.
        gate: the other numbers.
        seed: of the draws.

    Raises:
        InputError: there is no such norm whose channels may go; see also `Sparsity`.
    """

    def __init__(
        self,
        model: nn.Module,
        example_inputs: Any = None,
        *,
        strength: float = 1e-4,
        gate: Gate | None = None,
        seed: int = 0,
    ) -> None:
        self.strength, self.seed = positive(strength, "strength"), check_seed(seed)
        if gate is not None and not isinstance(gate, Gate):
            raise InputError(f"gate must be a fxprune.sparsity.Gate, not {shown(gate)}")
        self.gate = Gate() if gate is None else gate
        super().__init__(model, example_inputs)
        self.masks: dict[str, _Mask] = {}
        groups = masked_norms(self.analysis)
        self._where = {
            name: [(g, place) for g, place in self.coupled.places[f"{name}.weight"] if name in groups.get(g, ())]
            for name in dict.fromkeys(name for names in groups.values() for name in names)
        }
        for name, places in self._where.items():
            scale = self.coupled.parameter(f"{name}.weight").detach()
            held = sum(place.along(torch.ones(len(place.indices)), scale) for _, place in places)
            self.masks[name] = _Mask(self, name, torch.as_tensor(held).cpu() > 0)
        if not self.masks:
            raise InputError("no channels that may go are read behind a batch norm and ReLU alone, so there is nothing to mask")
        self._handles = [handle for mask in self.masks.values() for handle in mask.attach()]

    # -- what is told ------------------------------------------------------------------------------------------------

    def scores(self) -> dict[str, Tensor]:
        """``{group id: [channels]}``: the highest probability of being kept that a channel has at any of its norms."""
        found: dict[str, Tensor] = {}
        with torch.no_grad():
            for name, mask in self.masks.items():
                kept = 1 - self.gate.drop(*mask.scale_and_shift())
                for group, place in self._where[name]:
                    part = kept[place.on(kept.device)].amax(1)
                    found[group] = part if group not in found else torch.maximum(found[group], part.to(found[group]))
        return found

    def off(self) -> dict[str, Tensor]:
        """``{group id: numbers of channels}`` that are off, ``p >= 1/2``, at all of their norms."""
        return {group: torch.nonzero(kept <= 0.5).flatten() for group, kept in self.scores().items()}

    @torch.no_grad()
    def gradients(self) -> dict[str, Tensor]:
        found = {}
        for name, mask in self.masks.items():
            scale, shift = mask.scale_and_shift()
            held = mask.held.to(scale)
            if scale.requires_grad:
                found[f"{name}.weight"] = self.strength * self.gate.scale_weight * scale.sign() * held
            if shift.requires_grad:
                found[f"{name}.bias"] = self.strength * held
        return found

    def penalty(self) -> Tensor:
        sums = []
        for mask in self.masks.values():
            scale, shift = mask.scale_and_shift()
            sums.append(((shift + self.gate.scale_weight * scale.abs()) * mask.held.to(scale)).float().sum())
        return self.strength * torch.stack([s.to(sums[0]) for s in sums]).sum()

    def settings(self) -> dict[str, Any]:
        return {"strength": self.strength, "seed": self.seed, **self.gate.to_json()}

    @contextmanager
    def evaluated(self, copy: nn.Module) -> Iterator[None]:
        handles = [copy.get_submodule(name).register_forward_hook(mask.evaluated) for name, mask in self.masks.items()]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def remove(self) -> None:
        """Take the masks off the model: it then gives what it would without them."""
        for handle in self._handles:
            handle.remove()
        self._handles = []


class _Mask:
    """The mask of one batch norm, as hooks on it: they go by the module that they are called with, which may be a copy."""

    def __init__(self, method: SCP, name: str, held: Tensor) -> None:
        self.method, self.name, self.held = method, name, held
        self._before: dict[int, tuple[Tensor, Tensor]] = {}

    def __deepcopy__(self, memo: dict[int, Any]) -> _Mask:
        """A copy of the model draws what the model draws: there is one method."""
        return self

    def attach(self) -> list[Any]:
        norm = self.method.model.get_submodule(self.name)
        return [norm.register_forward_pre_hook(self._remember), norm.register_forward_hook(self._apply)]

    def scale_and_shift(self) -> tuple[Tensor, Tensor]:
        norm = self.method.model.get_submodule(self.name)
        return norm.weight, norm.bias  # type: ignore[return-value]

    def _remember(self, norm: Any, args: tuple[Any, ...]) -> None:
        if proxies_in(args):
            raise PruneError("the masks of SCP are on the model: take them off with its remove() before the model is recorded")
        if norm.training:
            self._before[id(norm)] = (norm.running_mean.clone(), norm.running_var.clone())

    def _apply(self, norm: Any, args: tuple[Any, ...], output: Tensor) -> Tensor:
        if not norm.training:
            return self.evaluated(norm, args, output)
        mask = self._drawn(norm)
        self._hold_back(norm, (mask.detach() > 0.5) | ~self.held.to(output.device))
        return self._masked(mask, output)

    def evaluated(self, norm: Any, args: tuple[Any, ...], output: Tensor) -> Tensor:
        return self._masked((self.method.gate.drop(norm.weight, norm.bias) < 0.5).to(norm.weight.dtype), output)

    def _masked(self, mask: Tensor, output: Tensor) -> Tensor:
        mask = torch.where(self.held.to(output.device), mask, torch.ones_like(mask))
        return output * mask.to(output.dtype).reshape([-1 if d == 1 else 1 for d in range(output.dim())])

    def _drawn(self, norm: Any) -> Tensor:
        draws = chance.generator(self.method.seed, "scp", self.name, self.method.steps)
        uniform = torch.rand(len(self.held), generator=draws).clamp(1e-7, 1 - 1e-7).to(norm.weight.device)
        return self.method.gate.mask(norm.weight.float(), norm.bias.float(), uniform)

    def _hold_back(self, norm: Any, kept: Tensor) -> None:
        """Undo the move of the running statistics of channels that were not kept."""
        for now, before in zip((norm.running_mean, norm.running_var), self._before.pop(id(norm)), strict=True):
            # Past autograd's count of changes: backward needs nothing of these.
            now.data.copy_(torch.where(kept, now.data, before))
