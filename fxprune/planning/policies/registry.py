"""Names of policies, and the policies that they stand for."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import TypeVar

from fxprune.errors import InputError, nearest, shown
from fxprune.options import PruneOptions
from fxprune.planning.policies.base import Policy

__all__ = ["names", "policy_of", "register"]

_NAMES = {
    "global": "fxprune.planning.policies.ratio:GlobalRatio",
    "layer": "fxprune.planning.policies.ratio:LayerRatio",
    "isomorphic": "fxprune.planning.policies.ratio:IsomorphicRatio",
    "threshold": "fxprune.planning.policies.threshold:Threshold",
}
_UNDER_BUDGETS = {
    "global": "fxprune.planning.policies.global_budget:GlobalBudget",
    "layer": "fxprune.planning.policies.layer_budget:LayerBudget",
    "isomorphic": "fxprune.planning.policies.isomorphic_budget:IsomorphicBudget",
}
_BY_NAME = "fxprune.planning.policies.ratio:ByName"  # where the ratio is a mapping of names
_registered: dict[str, type[Policy]] = {}
_Made = TypeVar("_Made", bound=type[Policy])


def names() -> list[str]:
    """All policies by name: those of the package, then those registered."""
    return [*_NAMES, *_registered]


def register(name: str) -> Callable[[_Made], _Made]:
    """Decorate a `Policy` to make it known by a name: ``fxprune.prune(model, 0.5, scope=name)``.

    >>> @register("widest_only")
    ... class WidestOnly(Policy):
    ...     def choose(self, analysis, scores):
    ...         widest = max(analysis.free, key=lambda group: group.size)
    ...         count = round(widest.size * self.options.ratio)
    ...         return {widest.id: self.lowest(widest, scores[widest.id], count)}
    >>> "widest_only" in names()
    True

    Raises:
        InputError: the name is taken, or this is no `Policy`.
    """
    if not isinstance(name, str) or not name:
        raise InputError(f"a policy's name must be text, not {shown(name)}")
    if name in names():
        raise InputError(f"there is a policy {name!r} already: choose another name")

    def keep(made: _Made) -> _Made:
        if not (isinstance(made, type) and issubclass(made, Policy)):
            raise InputError(f"policy {name!r} must be a subclass of Policy, not {shown(made)}")
        _registered[name] = made
        return made

    return keep


def policy_of(options: PruneOptions) -> Policy:
    """The policy that the options ask for.

    Raises:
        InputError: `scope` names none, or none that goes by budgets.
    """
    if not isinstance(options.scope, str) or options.scope not in names():
        known = names()
        text = f"{', '.join(map(repr, known[:-1]))} or {known[-1]!r}"
        raise InputError(f"scope must be {text}, not {shown(options.scope)}{nearest(options.scope, known)}")
    if options.scope in _registered:
        return _registered[options.scope](options)
    named = _UNDER_BUDGETS if options.budgets else _NAMES
    if options.scope not in named:
        *others, last = map(repr, named)
        text = f"{', '.join(others)} or {last}"
        raise InputError(f"scope={options.scope!r} goes by ratio: with budgets, {text}")
    module, _, kind = (
        _BY_NAME if isinstance(options.ratio, Mapping) and not options.budgets else named[options.scope]
    ).partition(":")
    made: type[Policy] = getattr(importlib.import_module(module), kind)
    return made(options)
