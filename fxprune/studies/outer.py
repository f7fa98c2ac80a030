"""`search_ratios`: how much each stage of a model gives up, tried out by optuna."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, get_args

import numpy as np
from torch import Tensor, nn

from fxprune.analysis.analysis import Analysis
from fxprune.criteria import resolve, score_groups
from fxprune.errors import InputError, PruneError, shown
from fxprune.inputs.acceptance import check_values
from fxprune.options import AttentionPolicy, Criterion, Per, PruneOptions, check_flag, check_names, one_of
from fxprune.planning.accounting import spent, targets_of
from fxprune.planning.document import document_of
from fxprune.planning.plan import Plan
from fxprune.planning.policies import chosen, policy_of
from fxprune.proofs.verify import check_rewrite
from fxprune.recovery.repair.ranked import ranked
from fxprune.recovery.repair.verb import checked_repair
from fxprune.recovery.repair.verb import repair as repair_slim
from fxprune.rewrite import Rewritten, rewrite, with_weights
from fxprune.state import deep_copy
from fxprune.studies.curves import Better
from fxprune.studies.trying import measured
from fxprune.submodules.target import Target

__all__ = ["Search", "search_ratios"]

_LEAST = 0.02  # of the largest share: so that every proportion reaches the budget, sooner or later
_HALVINGS = 24


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

    Raises:
        InputError: an argument is out of range or names nothing, the stages cannot meet the budgets, or `evaluate` fails.
        PruneError: optuna is missing.
    """
    optuna = _optuna()
    if not callable(evaluate):
        raise InputError(f"evaluate must be a function of a model that gives one number, not {shown(evaluate)}")
    if isinstance(trials, bool) or not isinstance(trials, int) or trials < 1:
        raise InputError(f"trials must be a whole number of at least 1, not {shown(trials)}")
    one_of("better", better, get_args(Better))
    names, verify = check_names(stages, "stages"), check_flag(verify, "verify")
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
    fitting = _Fitting(analysis, scores, budgets, names)
    fitting(dict.fromkeys(names, 1.0))  # which says if the budgets cannot be met
    dense, found = measured(evaluate, deep_copy(model), "the whole model"), list[tuple[dict[str, float], float, Plan]]()
    study = optuna.create_study(
        direction="maximize" if better == "higher" else "minimize", sampler=optuna.samplers.TPESampler(seed=budgets.seed)
    )
    study.enqueue_trial(dict.fromkeys(names, 1.0))
    for number in range(trials):
        trial = study.ask()
        ratios, rewritten = fitting({name: trial.suggest_float(name, _LEAST, 1.0) for name in names})
        plan = document_of(own, rewritten.cut, fitting.options(ratios).to_json(), scores, rewritten.frozen)
        slim: Any = with_weights(rewritten, own)
        if verify:
            check_rewrite(rewritten.cut, own, slim)
        if by.images is not None:
            slim.meta["fxprune"] = rewritten.report(plan, {})
            slim = repair_slim(slim, own, by.images, seed=budgets.seed)
        value = measured(evaluate, slim, f"the model of trial {number}")
        study.tell(trial, value)
        found.append((ratios, value, plan))
    ratios, value, plan = (max if better == "higher" else min)(found, key=lambda each: each[1])
    return Search(plan, value, ratios, dense, [each[:2] for each in found])


class _Fitting:
    """From a proportion to the smallest ratios in it that meet the budgets.

    Args:
        budgets: the options.
        stages: their names.
    """

    def __init__(
        self, analysis: Analysis, scores: Mapping[str, np.ndarray], budgets: PruneOptions, stages: Sequence[str]
    ) -> None:
        self._analysis, self._scores, self._budgets, self._stages = analysis, scores, budgets, stages
        self._targets = targets_of(analysis, budgets)
        self._whole: set[str] = set()  # what could not be rewritten

    def options(self, ratios: Mapping[str, float]) -> PruneOptions:
        """As a plan stores them."""
        given: Any = {name: getattr(self._budgets, name) for name in ("max_ratio", "round_to", "attention", "seed", "ignore")}
        return PruneOptions(dict(ratios), self._budgets.criterion, **given)

    def __call__(self, proportion: Mapping[str, float]) -> tuple[dict[str, float], Rewritten]:
        """
        Raises:
            InputError: the stages cannot meet the budgets.
        """
        while True:
            ratios = self._ratios(proportion)
            rewritten = rewrite(self._analysis, self._gone(ratios))
            if not rewritten.frozen:
                return ratios, rewritten
            self._whole |= rewritten.frozen.keys()

    def _ratios(self, proportion: Mapping[str, float]) -> dict[str, float]:
        most = max(_values(self._budgets.max_ratio))  # where there are several, the policy holds each group to its own
        low, high = 0.0, 1 / min(proportion.values())
        best = self._at(proportion, high, most)
        if not self._fits(best):
            raise InputError(
                f"the stages {', '.join(self._stages)} cannot meet the budgets, whatever they give up: name more of them, "
                "or raise max_ratio"
            )
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            ratios = self._at(proportion, middle, most)
            if self._fits(ratios):
                high, best = middle, ratios
            else:
                low = middle
        return best

    @staticmethod
    def _at(proportion: Mapping[str, float], scale: float, most: float) -> dict[str, float]:
        return {name: min(most, scale * share) for name, share in proportion.items()}

    def _fits(self, ratios: Mapping[str, float]) -> bool:
        cut = self._analysis.cut(self._gone(ratios))
        return all(cost <= self._targets[name] for name, cost in spent(cut, self._targets).items())

    def _gone(self, ratios: Mapping[str, float]) -> dict[str, np.ndarray]:
        found = chosen(policy_of(self.options(ratios)), self._analysis, self._scores)
        return {name: channels for name, channels in found.items() if name not in self._whole}


def _values(limit: Per) -> list[float]:
    """Those of one number or of several, below 1."""
    return [min(each, 1 - 1e-9) for each in (limit.values() if isinstance(limit, Mapping) else [limit])] or [1 - 1e-9]


def _optuna() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise PruneError('the outer search needs optuna: pip install "fxprune[search]"') from error
    return optuna
