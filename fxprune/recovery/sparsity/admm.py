"""Alternating directions: weights are drawn to a copy of theirs that has whole channels at zero."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fxprune.errors import InputError, shown
from fxprune.options import PruneOptions, Ratio
from fxprune.planning.policies import Policy, chosen, policy_of
from fxprune.recovery.sparsity.base import Sparsity, positive

__all__ = ["ADMM"]


class ADMM(Sparsity):
    """ADMM on whole channels: ``loss + rho / 2 ||W - Z + U||^2``, and every so many steps new Z and U.

    Zhang et al., "A Systematic DNN Weight Pruning Framework using Alternating Direction Method of Multipliers", arXiv
    1804.03294, with the steps of the authors' code:

    - W: the optimizer's steps on the loss and the term above, whose gradient is ``rho (W - Z + U)``;
    - Z: ``Z = P(W + U)``, the nearest point that is sparse;
    - U: ``U = U + W - Z``.

    At first ``Z = P(W)`` and ``U = 0``. The paper's P keeps single weights. Here it keeps whole channels, which is a design of
    our own: of each group those with the largest Frobenius norm of all that belongs to them in ``W + U`` (outputs of the
    layers that make them, inputs of those that read them, norms, biases), and zero elsewhere. A weight that lies in two
    groups, as most do, counts in the norms of both, and is zero if either of its channels is.

    Several ratios are stages, each of `rounds` updates, the last one for as long as the run goes: progressive pruning by
    moderate steps (Ye et al., "Progressive Weight Pruning of Deep Neural Networks using ADMM", arXiv 1810.07378). Here Z and U
    go on from stage to stage.

    `off` tells what Z has at zero. `project` sets W to zero there, too; ``fxprune.prune(model, ratio, scope="layer")`` removes
    it.

    >>> method = ADMM(net, x, ratio=(0.25, 0.5), every=1, rounds=1)
    >>> [method.after_step() for step in range(2)] and method.off()["0.weight"].shape
    torch.Size([8])

    Args:
        model, example_inputs: see `Sparsity`.
        ratio: the share of channels that goes from each group, or ``{name pattern: share}``, as in `fxprune.prune` with
            ``scope="layer"``. Or `fxprune.options.PruneOptions`, which may go by MACs and rank all groups together, as
            ``PruneOptions(macs=0.5)``; its scores are the norms, over their maximum in the group. Several are stages.
        rho: of the term; the authors' script for LeNet takes 1e-4 with Adam.
        every: optimizer steps between updates of Z and U.
        rounds: updates of each stage.

    Raises:
        InputError: a number is out of range; see also `Sparsity`.
    """

    def __init__(
        self,
        model: nn.Module,
        example_inputs: Any = None,
        *,
        ratio: Ratio | PruneOptions | Sequence[Ratio | PruneOptions] = 0.5,
        rho: float = 1e-3,
        every: int = 100,
        rounds: int = 10,
    ) -> None:
        self.rho, self.every, self.rounds = positive(rho, "rho"), _count(every, "every"), _count(rounds, "rounds")
        self.stages = _stages(ratio)
        super().__init__(model, example_inputs)
        with torch.no_grad():
            self.dual = {n: torch.zeros_like(p, dtype=_kind(p)) for n, p in self.coupled.parameters.items()}
            self.gone: dict[str, Tensor] = {}
            self.sparse: dict[str, Tensor] = {}
            for stage in self.stages:  # whose patterns may match nothing
                self._project(stage)
            self._project(self.stages[0])

    @property
    def updates(self) -> int:
        """Updates of Z and U so far."""
        return self.steps // self.every

    @property
    def stage(self) -> int:
        """The number of the stage whose ratio the next update takes."""
        return min(self.updates // self.rounds, len(self.stages) - 1)

    def after_step(self) -> None:
        """Note a step of the optimizer; after every so many of them, update Z and U."""
        stage = self.stage
        super().after_step()
        if self.steps % self.every == 0:
            with torch.no_grad():
                self._project(self.stages[stage])
                for name, parameter in self.coupled.parameters.items():
                    self.dual[name] = self._dual(name, parameter) + parameter - self.sparse[name]

    def _project(self, policy: Policy) -> None:
        """``Z = P(W + U)``."""
        sums = {name: p + self._dual(name, p) for name, p in self.coupled.parameters.items()}
        norms = {group: s.sqrt().double().cpu().numpy() for group, s in self.coupled.squares(sums).items()}
        scores = {group.id: norms.get(group.id, np.zeros(group.size)) for group in self.analysis.free}
        found = chosen(policy, self.analysis, {g: s / s.max() if s.max() > 0 else s for g, s in scores.items()})
        self.gone = {group: torch.from_numpy(channels.astype(np.int64)) for group, channels in found.items()}
        masked = {name: value * self.coupled.mask(name, self._lists(), value) for name, value in sums.items()}
        self.sparse = {name: value.to(_kind(value)) for name, value in masked.items()}

    def _lists(self) -> dict[str, list[int]]:
        return {group: channels.tolist() for group, channels in self.gone.items()}

    def _dual(self, name: str, like: Tensor) -> Tensor:
        return self.dual[name].to(like.device)

    def _apart(self, name: str, parameter: Tensor) -> Tensor:
        """``W - Z + U``, zero at entries that belong to no channel that may go."""
        apart = parameter - self.sparse[name].to(parameter.device) + self._dual(name, parameter)
        return apart * self.coupled.covered(name, parameter)

    @torch.no_grad()
    def gradients(self) -> dict[str, Tensor]:
        return {name: self.rho * self._apart(name, p) for name, p in self.coupled.trained.items()}

    def penalty(self) -> Tensor:
        sums = [self._apart(name, p).square().sum() for name, p in self.coupled.parameters.items()]
        return self.rho / 2 * torch.stack([s.to(sums[0]) for s in sums]).sum()

    def off(self) -> dict[str, Tensor]:
        """``{group id: numbers of channels}`` that Z has at zero."""
        return {g.id: self.gone.get(g.id, torch.zeros(0, dtype=torch.int64)) for g in self.coupled.groups}

    @torch.no_grad()
    def project(self) -> None:
        """Set the weights of all channels that Z has at zero to zero."""
        gone = self._lists()
        for name, parameter in self.coupled.parameters.items():
            parameter.mul_(self.coupled.mask(name, gone, parameter))

    def progress(self) -> dict[str, float]:
        """Numbers for a log; also ``distance``, ``||W - Z|| / ||W||``, the number of updates, and the stage."""
        with torch.no_grad():
            parameters = self.coupled.parameters
            apart = sum(float((p - self.sparse[n].to(p.device)).square().sum()) for n, p in parameters.items())
            whole = sum(float(p.square().sum()) for p in parameters.values())
        distance = (apart / whole) ** 0.5 if whole else 0.0
        return {**super().progress(), "distance": distance, "updates": self.updates, "stage": self.stage}

    def settings(self) -> dict[str, Any]:
        return {
            "stages": [policy.options.to_json() for policy in self.stages],
            "rho": self.rho,
            "every": self.every,
            "rounds": self.rounds,
        }

    def state_dict(self) -> dict[str, Tensor]:
        masks = {}
        for group in self.coupled.groups:
            masks[f"gone.{group.id}"] = torch.zeros(group.size, dtype=torch.bool)
            if group.id in self.gone:
                masks[f"gone.{group.id}"][self.gone[group.id]] = True
        tensors = {f"{part}.{n}": t for part, named in (("Z", self.sparse), ("U", self.dual)) for n, t in named.items()}
        return {**super().state_dict(), **tensors, **masks}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        super().load_state_dict(state)
        self.sparse = {name: state[f"Z.{name}"].clone() for name in self.sparse}
        self.dual = {name: state[f"U.{name}"].clone() for name in self.dual}
        masks = {group.id: state[f"gone.{group.id}"] for group in self.coupled.groups}
        self.gone = {group: torch.nonzero(mask.cpu()).flatten() for group, mask in masks.items() if mask.any()}


def _stages(ratio: Any) -> list[Policy]:
    given = list(ratio) if isinstance(ratio, Sequence) and not isinstance(ratio, str) else [ratio]
    if not given:
        raise InputError("ratio names no stage: give a share, or several, as (0.2, 0.35, 0.5)")
    return [policy_of(r if isinstance(r, PruneOptions) else PruneOptions(r, scope="layer")) for r in given]


def _count(value: Any, name: str) -> int:
    if isinstance(value, bool) or not isinstance(value, Integral) or int(value) < 1:
        raise InputError(f"{name} must be a whole number of at least 1, not {shown(value)}")
    return int(value)


def _kind(tensor: Tensor) -> torch.dtype:
    return torch.promote_types(tensor.dtype, torch.float32)
