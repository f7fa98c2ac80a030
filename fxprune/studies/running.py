"""`study`: the scores of several criteria on one model, compared."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor, nn

from fxprune.analysis.analysis import analyze_model
from fxprune.analysis.groups import Group
from fxprune.criteria import resolve
from fxprune.errors import InputError, shown
from fxprune.inputs.examples import settle_inputs
from fxprune.options import AttentionPolicy, check_names, check_seed, real, several
from fxprune.studies.agreement import shared, spearman
from fxprune.studies.distribution import weight_tests
from fxprune.studies.pruned import Pruned, budgets_of
from fxprune.studies.results import SCOPES, Applicability, Number, Overlap, Pair, Study
from fxprune.studies.scoring import Observation, Scored, Scoring, Unit, check_unit, units_of, with_noise

__all__ = ["study"]


def study(
    model: nn.Module,
    criteria: Sequence[str | Callable[..., Any]],
    example_inputs: Any = None,
    *,
    unit: Unit = "group",
    ratios: Iterable[float] = (0.1, 0.3, 0.5, 0.7),
    macs: float | Iterable[float] | None = None,
    params: float | Iterable[float] | None = None,
    memory: float | str | Iterable[float | str] | None = None,
    ignore: Iterable[str] = (),
    attention: AttentionPolicy = "head_dim",
    data: Iterable[Any] | None = None,
    loss: Callable[[Any, Any], Tensor] | None = None,
    batches: int | None = None,
    noise: float = 0.01,
    weights: bool = True,
    seed: int = 0,
) -> Study:
    """Say how alike `criteria` are on `model`, and how well each can tell its channels apart; `model` is untouched.

    Similarity: Spearman's correlation of the scores, and what the pruned sets share beyond chance. Applicability: how much
    the scores vary, the gap at the cut, and whether ranking and pruned sets survive a small relative error of all weights.
    Published: Huang et al., "Rethinking the Pruning Criteria for Convolutional Neural Network", NeurIPS 2021.

    >>> found = study(nn.Sequential(nn.Conv2d(3, 16, 3), nn.Conv2d(16, 2, 3)), ["l1", "l2"], torch.zeros(1, 3, 8, 8))
    >>> found.units, found.pair("l1", "l2").mean > 0.5
    (('0.weight',), True)

    Args:
        model, example_inputs, ignore, attention, data, loss, batches: as in `fxprune.prune`. Criteria that observe the
            model share one pass over the data; a second one, over the same, is made on the weights with an error.
        criteria: registered names, or callables ``(group, tensors) -> scores``; at least one.
        unit: what is ranked: ``"group"``, the coupled channels that can be pruned; or ``"layer"``, the filters of each layer
            on their own, whether or not they can be, as in the paper (for criteria that read weights alone).
        ratios: of channels that go, for pruned sets and margins.
        macs, params, memory: one budget or several, each as in `fxprune.prune`: pruned sets are compared where all criteria
            leave as much of it, too, as the search under that budget takes them.
        noise: standard deviation of the relative error of each weight; 0 leaves the measurement out.
        weights: also test how the weights of each convolution are distributed (`fxprune.studies.weight_tests`).
        seed: of the error, and of random choices.

    Returns:
        A `fxprune.studies.Study`; ``str()`` of it is a readable text, ``to_json()`` holds everything.

    Raises:
        InputError: an argument is out of range or names nothing, data are missing, or scores are not finite.
        TraceError: the forward cannot be recorded as one graph.
        NothingToPrune: there are no channels to rank.
    """
    noise, names = _checked_noise(noise), check_names(ignore, "ignore")
    terms = _Terms(unit, _checked_ratios(criteria, ratios), names, attention, noise, check_seed(seed))
    budgets = budgets_of(unit, macs=macs, params=params, memory=memory)
    made = _made(criteria, unit, seed)
    args, named = settle_inputs(model, example_inputs)
    analysis = analyze_model(model, args, named, attention=attention, ignore=terms.ignore)
    observation = Observation(data, loss, batches).for_passes(2 if noise else 1)
    scoring = Scoring(analysis, units_of(analysis, unit), observation)
    pruned = Pruned(analysis, scoring.units, terms.ratios, budgets, unit)
    pruned.check()
    scored = scoring(made, model)
    noisy, notes = _noisy(scoring, made, model, terms)
    compare = _Comparison(scoring.units, terms.ratios, pruned, made)
    return Study(
        model=type(model).__name__,
        criteria=tuple(made),
        options=terms.to_dict() | {name: list(amounts) for name, amounts in budgets.items()},
        units=tuple(u.id for u in scoring.units),
        sizes=tuple(u.size for u in scoring.units),
        scores={name: tuple(map(_six_digits, found.raw.values())) for name, found in scored.items()},
        pairs=tuple(compare(a, b, scored[a], scored[b]) for a, b in itertools.combinations(made, 2)),
        applicability=tuple(compare.alone(name, found, noisy.get(name)) for name, found in scored.items()),
        weights=weight_tests(model, analysis, seed) if weights else (),
        notes=notes,
    )


@dataclass(frozen=True)
class _Terms:
    """What a study asks for, as its JSON document has it."""

    unit: Unit
    ratios: tuple[float, ...]
    ignore: tuple[str, ...]
    attention: AttentionPolicy
    noise: float
    seed: int

    def to_dict(self) -> dict[str, Any]:
        return {k: list(v) if isinstance(v, tuple) else v for k, v in vars(self).items()}


class _Comparison:
    """Compares scores on the same units."""

    def __init__(
        self, units: Sequence[Group], ratios: Sequence[float], pruned: Pruned, criteria: Mapping[str, Callable[..., Any]]
    ) -> None:
        self.units, self.ratios, self.pruned, self.criteria = list(units), ratios, pruned, criteria
        self.sizes = [(u.id, u.size) for u in units]

    def __call__(self, first: str, second: str, a: Scored, b: Scored) -> Pair:
        return Pair(
            first,
            second,
            tuple(spearman(a.raw[u.id], b.raw[u.id]) for u in self.units),
            spearman(self._joined(a.ranked), self._joined(b.ranked)),
            spearman(self._joined(a.raw), self._joined(b.raw)),
            tuple(self._overlaps((first, a), (second, b))),
        )

    def alone(self, name: str, found: Scored, noisy: Scored | None) -> Applicability:
        """How well one criterion tells the channels apart."""
        scores = [found.raw[u.id] for u in self.units]
        return Applicability(
            name,
            tuple(_variation(s) for s in scores),
            tuple(_middle(s) for s in scores),
            {ratio: tuple(_margin(s, ratio) for s in scores) for ratio in self.ratios},
            None if noisy is None else self(name, name, found, noisy),
        )

    def _joined(self, scores: Mapping[str, np.ndarray]) -> np.ndarray:
        return np.concatenate([scores[u.id] for u in self.units])

    def _overlaps(self, *both: tuple[str, Scored]) -> Iterator[Overlap]:
        for scope in SCOPES:
            for cut in self.pruned.cuts:
                one, other = (self.pruned(scored, self.criteria[name], scope, cut) for name, scored in both)
                found = shared(one, other, self.sizes, within=scope == "layer")
                if found is not None:
                    yield Overlap(scope, cut[1], *found, budget=cut[0])


def _noisy(
    scoring: Scoring, criteria: Mapping[str, Callable[..., Any]], model: nn.Module, terms: _Terms
) -> tuple[dict[str, Scored], tuple[str, ...]]:
    """Scores on weights with an error, by name of the criterion, and notes: without data, what a criterion has observed
    cannot change."""
    if not terms.noise:
        return {}, ()
    missing = scoring.observation.data is None
    blind = [name for name, c in criteria.items() if missing and getattr(c, "needs_data", False)]
    able = {name: c for name, c in criteria.items() if name not in blind}
    found = scoring(able, with_noise(model, terms.noise, terms.seed))
    if not blind:
        return found, ()
    return found, (f"no data to observe the model with changed weights: stability of {', '.join(blind)} was not measured",)


def _checked_noise(noise: Any) -> float:
    found = real(noise)
    if found is None or not 0 <= found < 1:
        raise InputError(f"noise must be a relative error of at least 0 and below 1, not {shown(noise)}")
    return float(found)


def _checked_ratios(criteria: Sequence[Any], ratios: Iterable[float]) -> tuple[float, ...]:
    if not isinstance(criteria, (list, tuple)) or not criteria:
        raise InputError(f"criteria must be a list of at least one name or callable, not {shown(criteria)}")
    given = list(several(ratios, "ratios"))
    cuts = [real(r) for r in given]
    wrong = [r for r, cut in zip(given, cuts, strict=True) if cut is None or not 0 < cut < 1]
    if wrong or not cuts:
        raise InputError(f"ratios must be fractions between 0 and 1, at least one, not {shown(wrong or given)}")
    return tuple(dict.fromkeys(float(cut) for cut in cuts if cut is not None))


def _made(criteria: Sequence[str | Callable[..., Any]], unit: Unit, seed: int) -> dict[str, Callable[..., Any]]:
    """The criteria by name; the second of a name is called name#2."""
    count: Counter[str] = Counter()
    found = {}
    for criterion in criteria:
        name = criterion if isinstance(criterion, str) else getattr(criterion, "__name__", type(criterion).__name__)
        count[name] += 1
        name = name if count[name] == 1 else f"{name}#{count[name]}"
        found[name] = resolve(criterion, seed)
        check_unit(found[name], name, unit)
    return found


def _variation(scores: np.ndarray) -> Number:
    mean = abs(float(scores.mean()))
    return float(scores.std()) / mean if mean else None


def _middle(scores: np.ndarray) -> Number:
    low, median, high = np.quantile(scores, (0.25, 0.5, 0.75))
    return float(high - low) / abs(float(median)) if median else None


def _margin(scores: np.ndarray, ratio: float) -> Number:
    """None where the ratio takes nothing."""
    gone = len(scores) - max(1, int(len(scores) * (1 - ratio) + 1e-9))
    mean = abs(float(scores.mean()))
    if not gone or not mean:
        return None
    ordered = np.sort(scores)
    return float(ordered[gone] - ordered[gone - 1]) / mean


def _six_digits(scores: np.ndarray) -> tuple[float, ...]:
    return tuple(float(f"{s:.6g}") for s in scores)
