"""Structured channel pruning of any timm or torchvision model, as a compiler pass over torch.fx."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from fxprune import _layout as _layout
from fxprune.errors import InputError, NotEquivalent, NothingToPrune, PlanMismatch, PruneError, TraceError, Unfaithful

__version__ = "0.1.0"

# Public name -> the module that defines it: nothing heavy is imported before it is used.
_LAZY = {
    "analyze": "fxprune.api",
    "apply": "fxprune.api",
    "costs": "fxprune.costing",
    "iterate": "fxprune.iterating.verb",
    "export": "fxprune.deployment.exporting",
    "optimize": "fxprune.deployment.optimizing",
    "plan": "fxprune.api",
    "prune": "fxprune.api",
    "sensitivity": "fxprune.studies.trying",
    "profile": "fxprune.profiling.verb",
    "study": "fxprune.studies.running",
    "revise": "fxprune.revising",
    "repair": "fxprune.recovery.repair.verb",
    "report": "fxprune.reporting.verb",
    "rule": "fxprune.labels.table",
    "trace": "fxprune.api",
    "validate": "fxprune.recovery.validation",
    "verify": "fxprune.api",
    "why": "fxprune.api",
    "finetune": "fxprune.recovery.finetune.verb",
    "fold": "fxprune.recovery.over_parameters",
    "over_parameterize": "fxprune.recovery.over_parameters",
    "load": "fxprune.codegen",
    "save": "fxprune.codegen",
    "shrink": "fxprune.shrinking.verb",
    "store": "fxprune.shrinking.storing",
    "restore": "fxprune.shrinking.storing",
    "FinetuneOptions": "fxprune.recovery.finetune.options",
    "Analysis": "fxprune.analysis.analysis",
    "Group": "fxprune.analysis.groups",
    "Member": "fxprune.analysis.groups",
    "LatencyTable": "fxprune.profiling.table",
    "Plan": "fxprune.planning.plan",
    "Report": "fxprune.planning.report",
    "Sensitivity": "fxprune.studies.curves",
    "Study": "fxprune.studies.results",
    "Validation": "fxprune.planning.validation",
}

# Subpackages of which users want more than one name: `fxprune.criteria.names()` needs no import of its own.
_PACKAGES = """
    analysis codegen criteria deployment inputs iterating labels passes planning profiling proofs recovery reporting rules
    shrinking statistics studies submodules tracing
""".split()

# What users want under a shorter name than that of its place.
_ALIASES = {"sparsity": "fxprune.recovery.sparsity"}

__all__ = [
    "Analysis",
    "FinetuneOptions",
    "Group",
    "InputError",
    "LatencyTable",
    "Member",
    "NotEquivalent",
    "NothingToPrune",
    "Plan",
    "PlanMismatch",
    "PruneError",
    "Report",
    "Sensitivity",
    "Study",
    "TraceError",
    "Unfaithful",
    "Validation",
    "analyze",
    "apply",
    "costs",
    "export",
    "finetune",
    "fold",
    "iterate",
    "load",
    "optimize",
    "over_parameterize",
    "plan",
    "profile",
    "prune",
    "repair",
    "report",
    "restore",
    "revise",
    "rule",
    "save",
    "sensitivity",
    "shrink",
    "store",
    "study",
    "trace",
    "validate",
    "verify",
    "why",
]


def __getattr__(name: str) -> Any:
    if name in _PACKAGES:
        return importlib.import_module(f"fxprune.{name}")
    if name in _ALIASES:
        return importlib.import_module(_ALIASES[name])
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'fxprune' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, *_PACKAGES, *_ALIASES, "__version__"])


if TYPE_CHECKING:
    from fxprune.analysis.analysis import Analysis
    from fxprune.analysis.groups import Group, Member
    from fxprune.api import analyze, apply, plan, prune, trace, verify, why
    from fxprune.codegen import load, save
    from fxprune.costing import costs
    from fxprune.deployment.exporting import export
    from fxprune.deployment.optimizing import optimize
    from fxprune.iterating.verb import iterate
    from fxprune.labels.table import rule
    from fxprune.planning.plan import Plan
    from fxprune.planning.report import Report
    from fxprune.planning.validation import Validation
    from fxprune.profiling.table import LatencyTable
    from fxprune.profiling.verb import profile
    from fxprune.recovery import sparsity as sparsity
    from fxprune.recovery.finetune.options import FinetuneOptions
    from fxprune.recovery.finetune.verb import finetune
    from fxprune.recovery.over_parameters import fold, over_parameterize
    from fxprune.recovery.repair.verb import repair
    from fxprune.recovery.validation import validate
    from fxprune.reporting.verb import report
    from fxprune.revising import revise
    from fxprune.shrinking.storing import restore, store
    from fxprune.shrinking.verb import shrink
    from fxprune.studies.curves import Sensitivity
    from fxprune.studies.results import Study
    from fxprune.studies.running import study
    from fxprune.studies.trying import sensitivity
