"""Names of criteria, and the criteria that they stand for."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any, TypeVar

from fxprune.errors import InputError, nearest, shown

__all__ = ["names", "register", "resolve"]

_NAMES = {
    "apoz": "fxprune.criteria.apoz:APoZ",
    "aura_entropy": "fxprune.criteria.aura_entropy:AuraEntropy",
    "aura_mi": "fxprune.criteria.aura_mi:AuraMI",
    "aura_mi_layer": "fxprune.criteria.aura_mi_layer:AuraMILayer",
    "bn_relu": "fxprune.criteria.bn_relu:BatchNormReLU",
    "bn_scale": "fxprune.criteria.bn_scale:BatchNormScale",
    "chip": "fxprune.criteria.chip:CHIP",
    "cpmc": "fxprune.criteria.cpmc:CPMC",
    "fermat": "fxprune.criteria.distances:Fermat",
    "fpgm": "fxprune.criteria.distances:FPGM",
    "gap_entropy": "fxprune.criteria.gap_entropy:GAPEntropy",
    "hessian": "fxprune.criteria.hessian:Hessian",
    "hist_mi": "fxprune.criteria.aura_mi:HistogramMI",
    "hrank": "fxprune.criteria.rank:HRank",
    "hrel": "fxprune.criteria.hrel:HRel",
    "l1": "fxprune.criteria.magnitude:L1",
    "l2": "fxprune.criteria.magnitude:L2",
    "lamp": "fxprune.criteria.lamp:LAMP",
    "nuclear": "fxprune.criteria.rank:NuclearNorm",
    "operator_norm": "fxprune.criteria.operator_norm:OperatorNorm",
    "operator_norm_compat": "fxprune.criteria.operator_norm:OperatorNormCompat",
    "random": "fxprune.criteria.random_scores:Random",
    "reconstruction": "fxprune.criteria.reconstruction:Reconstruction",
    "sfm": "fxprune.criteria.sfm:SFM",
    "sfm_softmax": "fxprune.criteria.sfm:SFMSoftmax",
    "surgeon": "fxprune.criteria.surgeon:Surgeon",
    "taylor": "fxprune.criteria.taylor:Taylor",
    "taylor_joint": "fxprune.criteria.taylor:TaylorJoint",
    "taylor_l2": "fxprune.criteria.taylor:TaylorL2",
    "wanda": "fxprune.criteria.wanda:Wanda",
    "whc": "fxprune.criteria.distances:WHC",
}

_registered: dict[str, Callable[..., Any]] = {}
_Made = TypeVar("_Made", bound=Callable[..., Any])


def names() -> list[str]:
    """All criteria by name: those of the package, those registered, those of installed packages."""
    return sorted({*_NAMES, *_registered, *_entry_points()})


def register(name: str) -> Callable[[_Made], _Made]:
    """Decorate a `Criterion` class, or a function ``(group, tensors) -> scores``, to make it known by a name.

    >>> @register("smallest_weight")
    ... def smallest_weight(group, tensors):
    ...     member = group.members[0]
    ...     weights = tensors[member.name].movedim(member.axis, 0)[member.indices]
    ...     return weights.abs().flatten(1).amin(1)
    >>> "smallest_weight" in names()
    True

    Raises:
        InputError: the name is taken, or not a name.
    """
    if not isinstance(name, str) or not name.isidentifier():
        raise InputError(f"a criterion's name must be an identifier, not {shown(name)}")
    if name in _NAMES or name in _registered:
        raise InputError(f"there is a criterion {name!r} already: choose another name")

    def keep(made: _Made) -> _Made:
        if not callable(made):
            raise InputError(f"criterion {name!r} must be a Criterion class or a function, not {type(made).__name__}")
        _registered[name] = made
        return made

    return keep


def resolve(criterion: str | Callable[..., Any], seed: int = 0, **options: Any) -> Callable[..., Any]:
    """The criterion of a name, made with these options; a callable is returned as it is.

    Raises:
        InputError: no criterion has that name, or it does not take these options.
    """
    from fxprune.criteria.base import Criterion  # which takes PyTorch along: a shell completes names without it

    if isinstance(criterion, type) and issubclass(criterion, Criterion):
        return _make(criterion, criterion.__name__, seed, options)
    if callable(criterion):
        if options:
            raise InputError(f"options ({', '.join(options)}) need the name of a criterion: this one is made already")
        return criterion
    found = _find(criterion) if isinstance(criterion, str) else None
    if found is None:
        known = names()
        raise InputError(f"there is no criterion {shown(criterion)}{nearest(criterion, known)}; known: {', '.join(known)}")
    return _make(found, criterion, seed, options)


def _find(name: str) -> Callable[..., Any] | None:
    if name in _registered:
        return _registered[name]
    if name in _NAMES:
        module, _, attribute = _NAMES[name].partition(":")
        found: Callable[..., Any] = getattr(importlib.import_module(module), attribute)
        return found
    entry = _entry_points().get(name)
    loaded: Callable[..., Any] | None = None if entry is None else entry.load()
    return loaded


def _make(found: Callable[..., Any], name: str, seed: int, options: dict[str, Any]) -> Callable[..., Any]:
    if not isinstance(found, type):
        if options:
            raise InputError(f"criterion {name!r} is a function and takes no options, not {', '.join(options)}")
        return found
    from fxprune.criteria.base import Criterion

    try:
        made = found(seed=seed, **options) if issubclass(found, Criterion) else found(**options)
    except TypeError as error:
        raise InputError(f"criterion {name!r} cannot be made with these options: {error}") from error
    if not callable(made):
        raise InputError(f"criterion {name!r} makes a {type(made).__name__}, which cannot be called with a group and tensors")
    return made


def _entry_points() -> dict[str, Any]:
    from importlib.metadata import entry_points

    return {e.name: e for e in entry_points(group="fxprune.criteria") if e.name not in _NAMES}
