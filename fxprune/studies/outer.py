"""`search_ratios`: how much each stage of a model gives up, tried out by optuna."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, get_args

from torch import Tensor, nn

from fxprune.criteria import resolve, score_groups
from fxprune.errors import InputError, PruneError, shown
from fxprune.inputs.acceptance import check_values
from fxprune.options import AttentionPolicy, Criterion, PruneOptions, check_flag, check_names, one_of
from fxprune.planning.document import document_of
from fxprune.planning.plan import Plan
from fxprune.planning.policies import Scores
from fxprune.progress import Bar
from fxprune.proofs.verify import check_rewrite
from fxprune.recovery.finetune.checkpoint import digest
from fxprune.recovery.repair.ranked import ranked
from fxprune.recovery.repair.verb import checked_repair
from fxprune.recovery.repair.verb import repair as repair_slim
from fxprune.rewrite import with_weights
from fxprune.state import deep_copy
from fxprune.studies.curves import Better
from fxprune.studies.proportions import Fitting
from fxprune.studies.tried import Trial, TrialFile, Tried
from fxprune.studies.trying import Evaluate, measured
from fxprune.submodules.target import Target

__all__ = ["Search", "search_ratios"]

_LEAST = 0.02  # of the largest share: so that every proportion reaches the budget, sooner or later


@dataclass(frozen=True)
class Search:
    """What `search_ratios` found.

    Attributes:
        plan: of the best trial; `fxprune.apply` gives its model.
        value: what `evaluate` gave for it, after the repair if there was one.
        ratios: of each stage, what goes.
        dense: what `evaluate` gives for the whole model.
        trials: ratios and value of each, in order; the first takes the same of every stage.
    """

    plan: Plan
    value: float
    ratios: dict[str, float]
    dense: float
    trials: list[tuple[dict[str, float], float]] = field(default_factory=list, repr=False)


def search_ratios(
    model: nn.Module,
    evaluate: Callable[[nn.Module], Any],
    example_inputs: Any = None,
    *,
    stages: Sequence[str],
    macs: float | None = None,
    params: float | None = None,
    memory: float | str | None = None,
    trials: int = 50,
    better: Better = "higher",
    criterion: Criterion | None = None,
    repair: Iterable[Any] | None = None,
    ignore: Iterable[str] = (),
    max_ratio: float = 0.95,
    round_to: int = 1,
    attention: AttentionPolicy = "head_dim",
    data: Iterable[Any] | None = None,
    loss: Callable[[Any, Any], Tensor] | None = None,
    batches: int | None = None,
    verify: bool = True,
    seed: int = 0,
    checkpoint: str | os.PathLike[str] | None = None,
    progress: bool = False,
) -> Search:
    """Let optuna choose in which proportion the stages of a model give up channels, within budgets; `model` is untouched.

    A trial names a proportion, as 1 : 0.4 : 0.7, and takes so much of it that the budgets are met: no trial is wasted on models
    that are too large. Its model is cut, proved, repaired if there are images, and measured. The sampler is the tree-structured
    Parzen estimator: Bergstra et al., "Algorithms for Hyper-Parameter Optimization", NeurIPS 2011. Needs optuna,
    ``pip install "fxprune[search]"``.

    >>> search_ratios(net, lambda slim: 0.0, x, stages=["0"], macs=0.5, trials=1).ratios  # doctest: +SKIP
    {'0': 0.5}

    Args:
        model, example_inputs, macs, params, memory, criterion, repair, ignore, max_ratio, round_to, attention, data, loss,
        batches: as in `fxprune.prune`; channels are ranked once, on the whole model.
        evaluate, better, verify: as in `fxprune.sensitivity`. What is chosen on some images should be judged on others.
        stages: names or globs of layers, each of which gives up one ratio; groups that none of them matches stay whole.
        trials: how many models are measured.
        seed: of the sampler and of random choices.
        checkpoint: JSON file that is replaced whole after each trial. Where it is there already, with the same arguments, its
            trials are told to the sampler again, which measures nothing, and the search goes on as if it had not stopped; more
            than `trials` all count.
        progress: show a progress bar.

    Raises:
        InputError: an argument is out of range or names nothing, the stages cannot meet the budgets, `evaluate` fails, or the
            checkpoint is damaged or of another search.
        PruneError: optuna is missing, or the disk refuses.
    """
    optuna = _optuna()
    if not callable(evaluate):
        raise InputError(f"evaluate must be a function of a model that gives one number, not {shown(evaluate)}")
    if isinstance(trials, bool) or not isinstance(trials, int) or trials < 1:
        raise InputError(f"trials must be a whole number of at least 1, not {shown(trials)}")
    one_of("better", better, get_args(Better))
    names, verify = check_names(stages, "stages"), check_flag(verify, "verify")
    progress, file = check_flag(progress, "progress"), TrialFile(checkpoint)
    if not names or isinstance(stages, str):
        raise InputError("stages must be a list of names or globs of layers, as ['layer1.*', 'layer2.*']")
    by = ranked(criterion, data, checked_repair(repair, ()))
    if isinstance(by.images, Iterator):
        raise InputError("repair is read in every trial: give a list, a tensor or a loader, not an iterator")
    kept: dict[str, Any] = {
        "max_ratio": max_ratio,
        "round_to": round_to,
        "attention": attention,
        "seed": seed,
        "ignore": ignore,
    }
    budgets = PruneOptions(None, by.criterion, **kept, macs=macs, params=params, memory=memory)
    made, target = resolve(by.criterion, budgets.seed), Target.of(model, (), example_inputs)
    check_values(model, "search where the weights are")
    analysis, own = target.analyze(budgets.attention, budgets.ignore), deep_copy(model)
    scores = score_groups(made, own, analysis, None, data=by.data, loss=loss, batches=batches)
    fitting = Fitting(analysis, scores, budgets, names)
    fitting(dict.fromkeys(names, 1.0))  # which says if the budgets cannot be met
    dense = measured(evaluate, deep_copy(model), "the whole model")
    asked = {"stages": list(names), "better": better, "options": budgets.to_json(), "repair": repair is not None}
    asked |= {"optuna": optuna.__version__}  # another one might draw other trials
    found = file.begin(Tried(type(model).__name__, str(digest(model)), asked, dense))
    fitting.whole |= set(found.whole)
    study = optuna.create_study(
        direction="maximize" if better == "higher" else "minimize", sampler=optuna.samplers.TPESampler(seed=budgets.seed)
    )
    study.enqueue_trial(dict.fromkeys(names, 1.0))
    trying = _Trying(own, fitting, scores, evaluate, by.images, verify)
    with Bar("trying", max(trials, len(found.trials)), len(found.trials), shown=progress) as bar:
        for number in range(max(trials, len(found.trials))):
            drawn = study.ask()
            proportion = {name: drawn.suggest_float(name, _LEAST, 1.0) for name in names}
            if number == len(found.trials):
                trial, plan = trying(proportion, number)
                found = file.keep(found.after(trial, plan, fitting.whole))
                bar.advance()
            study.tell(drawn, found.checked(number, proportion, file).value)
    best = found.trials[found.best]
    assert found.plan is not None
    return Search(found.plan, best.value, best.ratios, found.dense, [(each.ratios, each.value) for each in found.trials])


@dataclass(frozen=True)
class _Trying:
    """Cuts, proves, repairs and measures the model of one proportion."""

    model: nn.Module
    fitting: Fitting
    scores: Scores
    evaluate: Evaluate
    images: Any
    verify: bool

    def __call__(self, proportion: dict[str, float], number: int) -> tuple[Trial, Plan]:
        ratios, rewritten = self.fitting(proportion)
        options = self.fitting.options(ratios)
        plan = document_of(self.model, rewritten.cut, options.to_json(), self.scores, rewritten.frozen)
        slim: Any = with_weights(rewritten, self.model)
        if self.verify:
            check_rewrite(rewritten.cut, self.model, slim)
        if self.images is not None:
            slim.meta["fxprune"] = rewritten.report(plan, {})
            slim = repair_slim(slim, self.model, self.images, seed=options.seed)
        return Trial(proportion, ratios, measured(self.evaluate, slim, f"the model of trial {number}")), plan


def _optuna() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise PruneError('the outer search needs optuna: pip install "fxprune[search]"') from error
    return optuna
