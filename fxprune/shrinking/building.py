"""From a rewrite and its slim graph to the model in its own class, with its certificate."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, fx, nn

from fxprune.errors import NotEquivalent, PruneError
from fxprune.inputs.examples import random_like
from fxprune.planning.own_class import OwnClass
from fxprune.proofs.randomize import randomize
from fxprune.rewrite import Rewritten
from fxprune.shrinking.alternatives import follow
from fxprune.shrinking.configuring import configured
from fxprune.shrinking.copying import own_copy_of, with_tensors_of
from fxprune.shrinking.fitting import Fit, fit
from fxprune.shrinking.generated import generated_for, generated_part
from fxprune.shrinking.kept_true import numbers_of_channels
from fxprune.shrinking.proof import compare
from fxprune.shrinking.scales import Scaling, fold, scalings
from fxprune.shrinking.slots import Setting
from fxprune.state import deep_copy, place_of, set_modes
from fxprune.tracing.untouched import twin_of, untouched

__all__ = ["Built", "build_own"]


@dataclass(frozen=True, eq=False)
class Built:
    """A model in its own class, and what was done to it."""

    model: nn.Module
    did: OwnClass


def build_own(model: nn.Module, rewritten: Rewritten, slim: fx.GraphModule, *, verify: bool = True) -> Built:
    """A copy of `model` that computes what `slim` does, over copies of its tensors.

    Raises:
        NotEquivalent: no way was found for it to do so.
    """
    with untouched(model, slim, watch=False):
        return _Builder(model, rewritten, slim).build(verify)


class _Builder:
    """The steps, on the user's weights and on random ones."""

    def __init__(self, model: nn.Module, rewritten: Rewritten, slim: fx.GraphModule) -> None:
        self.model, self.rewritten, self.slim = model, rewritten, slim
        self.traced = rewritten.cut.analysis.traced
        self.copy = own_copy_of(model, rewritten, slim)
        self.random = twin_of(slim, clone=True)
        randomize(self.random, 0).eval()
        self.twin = deep_copy(self.copy)
        with_tensors_of(self.twin, self.random)
        device, dtype = place_of(self.random)
        self.inputs = random_like(self.traced.example, device, dtype)
        self.did = OwnClass()

    def build(self, verify: bool) -> Built:
        found: Mapping[fx.Node, Scaling] = scalings(self.rewritten, self.random, self.inputs)
        for module in (self.copy, self.twin):
            fold(module, found)
        fitted = fit(self.twin, self.rewritten, self.random, self.inputs, found)
        fold(self.copy, {n: found[n] for n in fitted.unfolded}, undo=True)
        found = {n: one for n, one in found.items() if n not in fitted.unfolded}
        self._adopt(fitted)
        for one in found.values():
            self.did.folded.setdefault(one.scope, []).extend(one.masks)
        wrong = "; ".join(f"{name or 'its forward'}: {why}" for name, why in fitted.stuck.items())
        wrong = wrong or self._prove_with_config(_factors(found), verify)
        if wrong:
            self._generate(wrong)
            left = self._prove({}) if verify else ""
            if left:
                raise NotEquivalent(
                    f"{type(self.model).__name__} in its own class does not compute what the slim graph does: {left}"
                )
        called = list(dict.fromkeys(call.name for call in self.traced.calls))
        self.did.alternatives = follow(self.model, self.twin, self.copy, called, self.inputs)
        modes = {name: part.training for name, part in self.model.named_modules()}
        set_modes((part, modes[name]) for name, part in self.copy.named_modules() if name in modes)
        return Built(self.copy, self.did)

    def _prove_with_config(self, folded: Mapping[str, Tensor], verify: bool) -> str:
        """Set what the model was built from, where that makes the slim one; not where its code then does something else."""

        def proves(made: nn.Module) -> bool:
            errors, tolerance = compare(made, self.random, self.traced, folded)
            return max(errors.values(), default=1.0) <= tolerance

        fields = configured(self.model, self.twin, self.rewritten, proves)
        for field, (_, new) in fields.items():
            for module in (self.copy, self.twin):
                field.put(module, new)
        wrong = self._prove_with_numbers(folded, verify)
        if wrong and fields:
            for field, (old, _) in fields.items():
                for module in (self.copy, self.twin):
                    field.put(module, old)
            return self._prove_with_numbers(folded, verify)
        self.did.config = {str(field): change for field, change in fields.items()}
        return wrong

    def _prove_with_numbers(self, folded: Mapping[str, Tensor], verify: bool) -> str:
        """Set the numbers that others read; none of them where the model's own code then does something else."""
        chosen = numbers_of_channels(self.model, self.copy, self.rewritten)
        _put(chosen, (self.copy, self.twin))
        wrong = self._prove(folded) if verify else ""
        if wrong and chosen:
            _put({n: [replace(s, new=s.old, old=s.new) for s in found] for n, found in chosen.items()}, (self.copy, self.twin))
            return self._prove(folded)
        self.did.kept_true = {n: {str(s.slot): (s.old, s.new) for s in found} for n, found in chosen.items()}
        return wrong

    def _adopt(self, fitted: Fit) -> None:
        """What was found on random weights, for the user's."""
        for name, chosen in fitted.settings.items():
            part = self.copy.get_submodule(name)
            for one in chosen:
                one.slot.put(part, one.new)
                self.did.settings.setdefault(name, {})[str(one.slot)] = (one.old, one.new)
        for name, (sizing, left_out) in fitted.sized.items():
            part = self.copy.get_submodule(name)
            part.__dict__.update(sizing.methods(part, left_out))
            self.did.sized[name] = sizing.shown(left_out)
        calls = {call.name: call for call in reversed(self.traced.calls)}
        names = {old: new.name for new, old in self.rewritten.context.origin.items()}
        for name, why in fitted.generated.items():
            part = self.copy.get_submodule(name)
            part.__dict__["forward"] = generated_part(part, self.slim, calls[name], names)
            self.did.generated[name] = why

    def _generate(self, why: str) -> None:
        """The slim graph as the forward of the whole model."""
        self.did.generated.clear()
        for module, slim in ((self.copy, self.slim), (self.twin, self.random)):
            with_tensors_of(module, slim)  # without the factors that the model's own code needs
            module.__dict__["forward"] = generated_for(module, slim)
        self.did.folded.clear()
        self.did.generated[""] = why

    def _prove(self, folded: Mapping[str, Tensor]) -> str:
        """What is wrong on random weights, and on the user's; empty if nothing is."""
        try:
            errors, tolerance = compare(self.twin, self.random, self.traced, folded)
        except PruneError as error:
            return str(error)
        self.did.errors, self.did.tolerance = dict(errors), tolerance
        worst = max(errors, key=lambda n: errors[n])
        return "" if errors[worst] <= tolerance else f"they differ by {errors[worst]:.1e} ({worst})"


def _put(chosen: Mapping[str, Sequence[Setting]], modules: Iterable[nn.Module]) -> None:
    for module in modules:
        for name, found in chosen.items():
            for one in found:
                one.slot.put(module.get_submodule(name), one.new)


def _factors(found: Mapping[fx.Node, Scaling]) -> dict[str, Tensor]:
    """Tensor -> by what its entries are multiplied."""
    factors: dict[str, Tensor] = {}
    for one in found.values():
        for name, mask in one.masks.items():
            factors[name] = torch.where(
                mask, one.factor, factors.get(name, torch.ones((), dtype=torch.float64)).to(mask.device)
            )
    return factors
