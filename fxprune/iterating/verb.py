"""`iterate`: what goes, goes in several steps."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Literal

from torch import Tensor, fx, nn

from fxprune.analysis.analysis import Analysis
from fxprune.criteria import resolve
from fxprune.errors import InputError, shown
from fxprune.inputs.acceptance import check_values
from fxprune.inputs.examples import describe
from fxprune.iterating.course import Course, Work
from fxprune.iterating.schedule import Name, schedule_of
from fxprune.iterating.store import Folder
from fxprune.iterating.timing import timed_options
from fxprune.options import AttentionPolicy, Criterion, Normalization, PruneOptions, Ratio, Scope, check_flag
from fxprune.planning.accounting import spent, targets_of
from fxprune.planning.policies import policy_of
from fxprune.planning.policies.with_branches import candidates
from fxprune.recovery.finetune.checkpoint import digest
from fxprune.recovery.repair.ranked import ranked
from fxprune.recovery.repair.verb import checked_repair
from fxprune.submodules.target import Target

__all__ = ["iterate"]


def iterate(
    model: nn.Module,
    ratio: Ratio | None = None,
    example_inputs: Any = None,
    *,
    macs: float | None = None,
    params: float | None = None,
    memory: float | str | None = None,
    latency: float | str | None = None,
    steps: int | None = None,
    schedule: Name | Iterable[float] = "cubic",
    train: Callable[[Any], Any] | None = None,
    repair: Iterable[Any] | None = None,
    folder: str | os.PathLike[str] | None = None,
    criterion: Criterion | None = None,
    scope: Scope = "global",
    normalization: Normalization | None = None,
    ignore: Iterable[str] = (),
    max_ratio: Ratio = 0.95,
    round_to: int | Mapping[str, int] | Literal["auto"] = 1,
    min_width: int | Mapping[str, int] = 1,
    attention: AttentionPolicy = "head_dim",
    verify: bool = True,
    seed: int = 0,
    data: Iterable[Any] | None = None,
    loss: Callable[[Any, Any], Tensor] | None = None,
    batches: int | None = None,
    submodules: str | Iterable[str] = (),
    exact_norms: bool = False,
    branches: bool | str | Iterable[str] = False,
    profile: Any = None,
) -> Iterator[fx.GraphModule | Any]:
    """Prune in several steps, and give the slim model after each; `model` is untouched.

    A step scores the channels that are left, on the weights as they are by then; removes so many that the schedule is kept;
    proves the result; repairs it from images, against the original; and trains it. What went stays away.

    >>> for slim in iterate(net, 0.5, x, steps=3):
    ...     print(slim.meta["fxprune"].step.number, len(slim.meta["fxprune"].plan.group("0.weight").kept))
    1 10
    2 8
    3 8

    Args:
        model, example_inputs, criterion, scope, normalization, ignore, max_ratio, round_to, min_width: as in `fxprune.prune`.
        attention, verify, data, loss, batches, exact_norms: likewise. Data and images are read in every step.
        ratio, macs, params, memory, latency: likewise: what the end should be, in terms of the original model.
        branches: likewise: in each step residual branches may go as a whole; what the output loses with those that are left is
            measured when channels are scored.
        submodules: likewise; `train` gets the whole model, and what it learns anywhere is kept.
        profile: likewise; the folder keeps the table, and by what its times are multiplied.
        steps: how many; 5, or as many as the schedule has numbers.
        schedule: ``"cubic"``, most at first (Zhu & Gupta 2017); ``"linear"``; ``"geometric"``, the same share of what is left;
            or the share that is gone after each step, as ``[0.5, 0.8, 1]``: `fxprune.iterating.schedule.Schedule`.
        train: is called with the slim model after each step, and trains it in place, or returns a trained model of the same
            tensors, as `fxprune.finetune` does. The global random generators are seeded for each call, and are afterwards where
            they were.
        repair: unlabelled images, from which each step's slim model is fitted to the original, before it is trained.
        folder: for ``iteration.safetensors``, which is replaced whole after every change, plans (``plan-1.json`` and so on, and
            ``plan.json``) and ``journal.jsonl``. Where it holds an iteration with the same arguments, that goes on where it
            stood, to the same plan and weights if `train` does the same. A step of which the loop's body was not finished is
            given again; of an iteration that is done, the last one.
        seed: of random choices, and of the generators that `train` finds.

    Yields:
        The slim model as `prune` gives it. ``slim.meta["fxprune"]`` is its report: ``step``, ``plan`` (of all
        steps so far, with channels of the original model, to which it can be applied at once) and ``checks``. Weights that the
        body of the loop changes are those that the next step goes on with.

    Raises:
        InputError: an argument is wrong, the end cannot be reached, the folder holds another iteration, or `train` fails or
            leaves another model.
        TraceError, NothingToPrune, NotEquivalent: as `prune`.
        PruneError: the disk refuses.
    """
    for argument, given in (("repair", repair), ("data", data)):
        _read_often(argument, given)
    repair = checked_repair(repair, submodules)
    by, rest = ranked(criterion, data, repair), (normalization, exact_norms, macs, params, memory, latency, branches, min_width)
    options = PruneOptions(ratio, by.criterion, scope, ignore, max_ratio, round_to, attention, seed, *rest)
    course = schedule_of(schedule, steps)
    if train is not None and not callable(train):
        raise InputError(f"train must be a function of the slim model, not {shown(train)}")
    policy_of(options)
    Folder(folder, {})  # which says if it is none, before the model is recorded
    target = Target.of(model, submodules, example_inputs)
    target.check_criterion(resolve(options.criterion, options.seed))
    check_values(model, "iterate where the weights are")
    analysis = target.analyze(options.attention, options.ignore)
    candidates(analysis, options.branches)  # which says if a name is wrong
    key = {
        "model": digest(model),
        "example inputs": describe(target.args, target.named),
        "way to recover": [train is not None, repair is not None],  # by which the criterion may go
        "options": options.to_json(),
        "schedule": [course.to_json(), course.steps],
        **target.described(),
    }
    kept = Folder(folder, json.loads(json.dumps(key)))
    state = kept.read()
    if options.latency is not None or options.round_to == "auto":
        options = timed_options(options, target, analysis, profile, state)
    shares = _shares(analysis, options)
    observed = {"data": by.data, "loss": loss, "batches": batches}
    work = Work(model, target, train, by.images, observed, check_flag(verify, "verify"), by.note)
    return Course(work, analysis, options, (course, shares), (kept, state))()


def _read_often(argument: str, given: Any) -> None:
    """
    Raises:
        InputError: these are no data, or can be read once only.
    """
    if given is None:
        return
    if isinstance(given, (str, bytes)) or not isinstance(given, Iterable):
        raise InputError(f"{argument} must be images, a tensor of them or batches, not {shown(given)}")
    if isinstance(given, Iterator):
        raise InputError(
            f"{argument} is read in every step: give a list, a tensor or a loader, not an iterator ({shown(given)})"
        )


def _shares(analysis: Analysis, options: PruneOptions) -> dict[str, float]:
    """Of each budget, the fraction of the model's own that is kept in the end.

    Raises:
        InputError: the model is within all of them.
    """
    whole = spent(analysis.cut(), options.budgets)
    shares = {name: target / max(whole[name], 1) for name, target in targets_of(analysis, options).items()}
    if shares and min(shares.values()) >= 1:
        raise InputError("the model is within the budgets as it is: there is nothing to remove in steps")
    return shares
