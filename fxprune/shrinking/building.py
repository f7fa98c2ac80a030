"""From a rewrite and its slim graph to the model in its own class, with its certificate."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx, nn

from fxprune.errors import NotEquivalent, PlanMismatch, PruneError
from fxprune.inputs.examples import own_copy, random_like
from fxprune.planning.own_class import OwnClass
from fxprune.proofs.randomize import randomize
from fxprune.rewrite import Rewritten
from fxprune.shrinking.alternatives import follow
from fxprune.shrinking.configuring import ABSENT, ConfigField, Configurations
from fxprune.shrinking.copying import own_copy_of, with_tensors_of
from fxprune.shrinking.fitting import Fit, fit
from fxprune.shrinking.generated import generated_for, generated_part
from fxprune.shrinking.kept_true import by_attribute, numbers_of_channels
from fxprune.shrinking.listening import reading
from fxprune.shrinking.proof import compare
from fxprune.shrinking.rescaling import Rescaled, rescaled
from fxprune.shrinking.scales import Scaling, fold, scalings
from fxprune.shrinking.slots import Setting
from fxprune.state import deep_copy, place_of, set_modes
from fxprune.tracing.untouched import twin_of, untouched

__all__ = ["Built", "build_own"]


Numbers = Mapping[str, Sequence[Setting]]


@dataclass(frozen=True, eq=False)
class Built:
    """A model in its own class, and what was done to it."""

    model: nn.Module
    did: OwnClass


def build_own(
    model: nn.Module, rewritten: Rewritten, slim: fx.GraphModule, *, verify: bool = True, rescale: bool | None = None
) -> Built:
    """A copy of `model` that computes what `slim` does, over copies of its tensors.

    Args:
        rescale: whether attention whose code names the scale of its wider heads gets that of its narrower ones, and its weights
            the factor: weights that are loaded later have it, or do not. None: where a configuration of the model needs it.

    Raises:
        PlanMismatch: there is no such attention, and there is to be some.
        NotEquivalent: no way was found for it to do so.
    """
    with untouched(model, slim, watch=False):
        return _Builder(model, rewritten, slim, rescale).build(verify)


class _Builder:
    """The steps, on the user's weights and on random ones."""

    def __init__(self, model: nn.Module, rewritten: Rewritten, slim: fx.GraphModule, rescale: bool | None) -> None:
        self.model, self.rewritten, self.slim, self.rescale = model, rewritten, slim, rescale
        self.traced = rewritten.cut.analysis.traced
        self.random = twin_of(slim, clone=True)
        randomize(self.random, 0).eval()
        self.copy, self.did = own_copy_of(model, rewritten, slim), OwnClass()
        self.twin = deep_copy(self.copy)
        with_tensors_of(self.twin, self.random)
        device, dtype = place_of(self.random)
        self.inputs = random_like(self.traced.example, device, dtype)

    def build(self, verify: bool) -> Built:
        wrong = self._fitted(verify)
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

    def _fitted(self, verify: bool) -> str:
        """Have the copy's own code follow part by part, as its twin over random weights does; what is wrong then."""
        found: Mapping[fx.Node, Scaling] = scalings(self.rewritten, self.random, self.inputs)
        for module in (self.copy, self.twin):
            fold(module, found)
        fitted = fit(self.twin, self.rewritten, self.random, self.inputs, found)
        fold(self.copy, {n: found[n] for n in fitted.unfolded}, undo=True)
        found = {n: one for n, one in found.items() if n not in fitted.unfolded}
        self._adopt(fitted)
        self._note_folded(found)
        wrong = "; ".join(f"{name or 'its forward'}: {why}" for name, why in fitted.stuck.items())
        return wrong or self._prove_with_config(found, verify)

    def _prove_with_config(self, found: Mapping[fx.Node, Scaling], verify: bool) -> str:
        """Set what the model was built from, where that makes the slim one; not where its code then does something else."""
        from_it, scaled = Configurations(self.model, self.twin, self.rewritten), Rescaled()
        fields = {} if self.rescale else from_it.proved(self._proves(_factors(found)))
        if self.rescale or (self.rescale is None and from_it.choices and not fields):  # its class may have scales of its own
            scaled = self._rescaled()
            fields = from_it.proved(self._proves(_factors({**found, **scaled.folded}))) if scaled.folded else {}
        self._put_fields({field: new for field, (_, new) in fields.items()})
        both = {**found, **scaled.folded}
        wrong = self._prove_with_numbers(_factors(both), verify) if fields or self.rescale else ""
        if self.rescale is None and (wrong or not fields):
            for module in (self.copy, self.twin):
                scaled.put(module, undo=True)
            both, scaled = dict(found), Rescaled()
        if wrong or not fields:
            self._put_fields({field: old for field, (old, _) in fields.items()})
            fields, self.did.config_left = {}, from_it.left(_keeps_heads(self.rewritten))
            wrong = self._prove_with_numbers(_factors(both), verify)
        self.did.config = {str(field): (None if old is ABSENT else old, new) for field, (old, new) in fields.items()}
        self._note_folded(scaled.folded)
        self.did.rescaled = {n: {str(s.slot): (s.old, s.new) for s in settings} for n, settings in scaled.settings.items()}
        return wrong

    def _rescaled(self) -> Rescaled:
        """Attentions whose code names a scale, with that of their narrower heads.

        Raises:
            PlanMismatch: the plan says that there are such, and there are none.
        """
        scaled = rescaled(self.rewritten, self.random, self.inputs, self.twin)
        if self.rescale and not scaled.folded:
            raise PlanMismatch(f"the plan was made for a {type(self.model).__name__} whose attention has scales of its own")
        for module in (self.copy, self.twin):
            scaled.put(module)
        return scaled

    def _put_fields(self, fields: Mapping[ConfigField, Any]) -> None:
        for field, value in fields.items():
            for module in (self.copy, self.twin):
                field.put(module, value)

    def _proves(self, folded: Mapping[str, Tensor]) -> Callable[[nn.Module], bool]:
        def proves(made: nn.Module) -> bool:
            errors, tolerance = compare(made, self.random, self.traced, folded)
            return max(errors.values(), default=1.0) <= tolerance

        return proves

    def _note_folded(self, found: Mapping[fx.Node, Scaling]) -> None:
        for one in found.values():
            self.did.folded.setdefault(one.scope, []).extend(one.masks)

    def _prove_with_numbers(self, folded: Mapping[str, Tensor], verify: bool) -> str:
        """Set the numbers that others read; not those with which the model's own code does something else."""
        chosen: Numbers = numbers_of_channels(self.model, self.copy, self.rewritten)
        both = (self.copy, self.twin)
        _put(chosen, both)
        wrong = self._prove(folded) if verify else ""
        if wrong and chosen:
            _put(_back(chosen), both)
            read = self._read()
            unread = {n: [s for s in found if (n, s.slot.attribute) not in read] for n, found in chosen.items()}
            chosen = self._bearable([*by_attribute(unread).values()], folded)
            _put(chosen, both)
            wrong = self._prove(folded)
            if wrong:
                _put(_back(chosen), both)
                chosen = {}
        self.did.kept_true = {n: {str(s.slot): (s.old, s.new) for s in found} for n, found in chosen.items()}
        return wrong

    def _read(self) -> set[tuple[str, str]]:
        """The attributes that the copy's code reads when it runs: what they say, it needs as it is."""
        args, named = own_copy(self.inputs)
        copy = deep_copy(self.twin).eval()  # a model may count its calls
        with reading(copy) as read, torch.no_grad(), contextlib.suppress(Exception):
            copy(*args, **named)
        return read

    def _bearable(self, parts: Sequence[Numbers], folded: Mapping[str, Tensor], taken: Numbers | None = None) -> Numbers:
        """Those of the numbers, by halves, with which the copy still computes what it should."""
        _put(taken := taken or {}, (self.twin,))
        _put(joined := _joined(parts), (self.twin,))
        wrong = self._prove(folded)
        _put(_back(joined), (self.twin,))
        _put(_back(taken), (self.twin,))
        if not wrong:
            return joined
        if len(parts) < 2:
            return {}
        half = len(parts) // 2
        first = self._bearable(parts[:half], folded, taken)
        return _joined([first, self._bearable(parts[half:], folded, _joined([taken, first]))])

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
        self.did.sized.clear()
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


def _keeps_heads(rewritten: Rewritten) -> bool:
    """Whether there are heads whose number stays and whose width does not have to."""
    analysis = rewritten.cut.analysis
    return analysis.attention == "head_dim" and any(
        "keeps the number of heads" in cause.text for cause in analysis.traced.mode.store.causes
    )


def _back(chosen: Numbers) -> Numbers:
    return {n: [replace(s, new=s.old, old=s.new) for s in found] for n, found in chosen.items()}


def _joined(parts: Iterable[Numbers]) -> Numbers:
    made: dict[str, list[Setting]] = {}
    for part in parts:
        for name, found in part.items():
            made.setdefault(name, []).extend(found)
    return made


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
