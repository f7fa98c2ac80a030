"""`study`: the scores of several criteria on one model, compared."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor, nn

from fxprune.analysis.analysis import Analysis, analyze_model
from fxprune.analysis.groups import Group
from fxprune.criteria import resolve
from fxprune.errors import InputError
from fxprune.inputs.examples import settle_inputs
from fxprune.options import AttentionPolicy, PruneOptions
from fxprune.planning.policies.ratio import GlobalRatio, LayerRatio
from fxprune.studies.agreement import shared, spearman
from fxprune.studies.distribution import weight_tests
from fxprune.studies.results import SCOPES, Applicability, Number, Overlap, Pair, Study
from fxprune.studies.scoring import Scored, Unit, check_unit, score_all, units_of, with_noise

__all__ = ["study"]


def study(
    model: nn.Module,
    criteria: Sequence[str | Callable[..., Any]],
    example_inputs: Any = None,
    *,
    unit: Unit = "group",
    ratios: Iterable[float] = (0.1, 0.3, 0.5, 0.7),
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
    cuts = _check(criteria, ratios, noise)
    made = [resolve(c, seed) for c in criteria]
    names = _names(criteria)
    for criterion, name in zip(made, names, strict=True):
        check_unit(criterion, name, unit)
    args, named = settle_inputs(model, example_inputs)
    analysis = analyze_model(model, args, named, attention=attention, ignore=tuple(ignore))
    units = units_of(analysis, unit)
    exclusive = analysis.exclusive if unit == "group" else {}
    # An iterator is used up after one pass, and a shuffled loader begins with other batches the second time.
    if data is not None and noise and (batches is not None or isinstance(data, Iterator)):
        data = list(itertools.islice(data, batches))
    scored = score_all(made, names, model, analysis, units, data, loss, batches)
    compare = _Comparison(units, cuts, exclusive)
    notes: list[str] = []
    noisy = _noisy(made, names, model, analysis, units, data, loss, batches, noise, seed, notes)
    pairs = [compare(names[i], names[k], scored[i], scored[k]) for i, k in itertools.combinations(range(len(names)), 2)]
    applicability = [
        Applicability(
            name,
            tuple(_variation(found.raw[u.id]) for u in units),
            tuple(_middle(found.raw[u.id]) for u in units),
            {ratio: tuple(_margin(found.raw[u.id], ratio) for u in units) for ratio in cuts},
            compare(name, name, found, noisy[name]) if name in noisy else None,
        )
        for name, found in zip(names, scored, strict=True)
    ]
    return Study(
        model=type(model).__name__,
        criteria=tuple(names),
        options={
            "unit": unit,
            "ratios": list(cuts),
            "ignore": list(ignore),
            "attention": attention,
            "noise": noise,
            "seed": seed,
        },
        units=tuple(u.id for u in units),
        sizes=tuple(u.size for u in units),
        scores={n: tuple(_six_digits(s.raw[u.id]) for u in units) for n, s in zip(names, scored, strict=True)},
        pairs=tuple(pairs),
        applicability=tuple(applicability),
        weights=weight_tests(model, analysis, seed) if weights else (),
        notes=tuple(notes),
    )


class _Comparison:
    """Compares two lists of scores on the same units."""

    def __init__(self, units: Sequence[Group], ratios: Sequence[float], exclusive: Mapping[str, set[str]]) -> None:
        self.units, self.ratios, self.exclusive = list(units), ratios, exclusive
        self.sizes = [(u.id, u.size) for u in units]

    def __call__(self, first: str, second: str, a: Scored, b: Scored) -> Pair:
        return Pair(
            first,
            second,
            tuple(spearman(a.raw[u.id], b.raw[u.id]) for u in self.units),
            spearman(self._joined(a.ranked), self._joined(b.ranked)),
            spearman(self._joined(a.raw), self._joined(b.raw)),
            tuple(o for scope in SCOPES for ratio in self.ratios if (o := self._overlap(scope, ratio, a, b)) is not None),
        )

    def _joined(self, scores: Mapping[str, np.ndarray]) -> np.ndarray:
        return np.concatenate([scores[u.id] for u in self.units])

    def _overlap(self, scope: str, ratio: float, a: Scored, b: Scored) -> Overlap | None:
        sets = [self._pruned(s.raw if scope == "raw" else s.ranked, scope, ratio) for s in (a, b)]
        found = shared(sets[0], sets[1], self.sizes, within=scope == "layer")
        return None if found is None else Overlap(scope, ratio, *found)

    def _pruned(self, scores: Mapping[str, np.ndarray], scope: str, ratio: float) -> dict[str, np.ndarray]:
        kind = LayerRatio if scope == "layer" else GlobalRatio
        return kind(PruneOptions(ratio)).choose_among(self.units, scores, self.exclusive)


def _noisy(
    criteria: Sequence[Callable[..., Any]],
    names: Sequence[str],
    model: nn.Module,
    analysis: Analysis,
    units: Sequence[Group],
    data: Any,
    loss: Any,
    batches: int | None,
    noise: float,
    seed: int,
    notes: list[str],
) -> dict[str, Scored]:
    """Scores on weights with an error, by name of the criterion; without new data what was seen before cannot change."""
    if not noise:
        return {}
    blind = [n for n, c in zip(names, criteria, strict=True) if data is None and getattr(c, "needs_data", False)]
    if blind:
        notes.append(f"no data to observe the model with changed weights: stability of {', '.join(blind)} was not measured")
    able = [(n, c) for n, c in zip(names, criteria, strict=True) if n not in blind]
    twin = with_noise(model, noise, seed)
    found = score_all([c for _, c in able], [n for n, _ in able], twin, analysis, units, data, loss, batches)
    return {n: s for (n, _), s in zip(able, found, strict=True)}


def _check(criteria: Sequence[Any], ratios: Iterable[float], noise: float) -> tuple[float, ...]:
    if isinstance(criteria, str) or not len(criteria):
        raise InputError(f"criteria must be a list of at least one name or callable, not {criteria!r}")
    cuts = tuple(dict.fromkeys(ratios))
    wrong = [r for r in cuts if isinstance(r, bool) or not isinstance(r, (int, float)) or not 0 < r < 1]
    if wrong or not cuts:
        raise InputError(f"ratios must be fractions between 0 and 1, at least one, not {(wrong or list(cuts))!r}")
    if not 0 <= noise < 1:
        raise InputError(f"noise must be a relative error of at least 0 and below 1, not {noise!r}")
    return cuts


def _names(criteria: Sequence[str | Callable[..., Any]]) -> list[str]:
    """A name for each; the second of a name is called name#2."""
    count: Counter[str] = Counter()
    names = []
    for criterion in criteria:
        name = criterion if isinstance(criterion, str) else getattr(criterion, "__name__", type(criterion).__name__)
        count[name] += 1
        names.append(name if count[name] == 1 else f"{name}#{count[name]}")
    return names


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
