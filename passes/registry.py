"""Names of passes, and the order in which they run."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Collection
from typing import TypeVar

from fxprune.errors import InputError, nearest
from fxprune.passes.base import Pass, Stage

__all__ = ["names", "pass_of", "pipeline", "register", "unregister"]

# In the order in which they run.
_NAMES = {
    "drop-branches": "fxprune.passes.drop_branches:DropBranches",
    "slice-tensors": "fxprune.passes.slice_tensors:SliceTensors",
    "resize-leaves": "fxprune.passes.resize_leaves:ResizeLeaves",
    "resize-arguments": "fxprune.passes.resize_arguments:ResizeArguments",
    "exact-norms": "fxprune.passes.exact_norms:ExactNorms",
    "drop-unused": "fxprune.passes.drop_unused:DropUnused",
    "over-parameterize": "fxprune.passes.over_parameterize:OverParameterize",
    "fold-factors": "fxprune.passes.fold_factors:FoldFactors",
    "keep-evaluation": "fxprune.passes.keep_evaluation:KeepEvaluation",
    "drop-idle": "fxprune.passes.drop_idle:DropIdle",
    "fold-norms": "fxprune.passes.fold_norms:FoldNorms",
    "fold-scales": "fxprune.passes.fold_scales:FoldScales",
    "merge-linear": "fxprune.passes.merge_linear:MergeLinear",
}
_registered: dict[str, type[Pass]] = {}
_Made = TypeVar("_Made", bound=type[Pass])


def names() -> list[str]:
    """All passes by name, in the order in which they run: those of the package, then those registered."""
    return [*_NAMES, *_registered]


def register(made: _Made) -> _Made:
    """Decorate a `Pass` of your own: it runs at the end of its stage, in every rewrite from now on.

    The result is compared with the original like any other: a pass that changes what the model computes is found out.

    Raises:
        InputError: it has no name, or one that is taken.
    """
    if not made.name or made.name in names():
        raise InputError(f"a pass needs a name of its own, not {made.name!r}: there are {', '.join(names())}")
    _registered[made.name] = made
    return made


def unregister(name: str) -> None:
    """Forget a pass of your own."""
    if name not in _registered:
        raise InputError(f"no pass {name!r} was registered{nearest(name, _registered)}")
    del _registered[name]


def pass_of(name: str) -> Pass:
    """The pass of a name.

    Raises:
        InputError: there is none.
    """
    if name in _registered:
        return _registered[name]()
    if name not in _NAMES:
        raise InputError(f"there is no pass {name!r}{nearest(name, names())}; known: {', '.join(names())}")
    module, _, kind = _NAMES[name].partition(":")
    make: Callable[[], Pass] = getattr(importlib.import_module(module), kind)
    return make()


def pipeline(stage: Stage, asked: Collection[str] = ()) -> list[Pass]:
    """The passes of a stage, in the order in which they run; of the optional ones, those that are asked for by name."""
    return [step for step in map(pass_of, names()) if step.stage == stage and (not step.optional or step.name in asked)]
