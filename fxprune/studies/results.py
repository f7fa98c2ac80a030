"""What a study found, as plain numbers that go to JSON and back."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from statistics import fmean
from typing import Any

from fxprune import nested
from fxprune.errors import InputError, nearest
from fxprune.planning.reading import document_of_text
from fxprune.studies.distribution import WeightTests
from fxprune.studies.reading import typed

__all__ = ["SCOPES", "Applicability", "Number", "Overlap", "Pair", "Study"]

Number = float | None  # None: undefined, as the correlation with a constant
_FORMAT, _VERSION = "fxprune-study", 2  # of version 1 there were no budgets

SCOPES = {
    "layer": "the ratio in every unit",
    "global": "one ranking over all units, normalised as the criterion does",
    "raw": "one ranking over all units, without normalisation",
}


@dataclass(frozen=True)
class Overlap:
    """What two pruned sets share.

    Attributes:
        scope: ``"layer"``, ``"global"`` or ``"raw"``: see `SCOPES`.
        ratio: of the channels that go; under a budget, what of it is kept: a fraction, or a count.
        share: ``2 |A & B| / (|A| + |B|)``.
        expected: the share of random sets of these sizes.
        jaccard: ``|A & B| / |A or B|``.
        budget: ``"macs"``, ``"params"`` or ``"memory"``, which all criteria meet alike; empty of a ratio.
    """

    scope: str
    ratio: float
    share: float
    expected: float
    jaccard: float
    budget: str = ""


@dataclass(frozen=True)
class Pair:
    """How alike two criteria are.

    Attributes:
        layers: Spearman's correlation of their scores in each unit.
        everywhere: the same over all units at once, normalised as each criterion does.
        raw: the same without normalisation.
        overlaps: of the pruned sets.
    """

    first: str
    second: str
    layers: tuple[Number, ...]
    everywhere: Number
    raw: Number
    overlaps: tuple[Overlap, ...]

    @property
    def mean(self) -> Number:
        """Mean correlation over units."""
        return _mean(self.layers)

    @property
    def least(self) -> Number:
        """The lowest correlation of all units."""
        return min(_known(self.layers), default=None)

    def above(self, level: float = 0.9) -> float:
        """Share of the units whose correlation is above `level`."""
        known = _known(self.layers)
        return sum(v > level for v in known) / len(known) if known else math.nan

    def overlap(self, scope: str, ratio: float, budget: str = "") -> Overlap | None:
        """The overlap measured for that scope and ratio, or budget and what is kept of it, if it was."""
        found = (o for o in self.overlaps if (o.scope, o.budget) == (scope, budget) and math.isclose(o.ratio, ratio))
        return next(found, None)


@dataclass(frozen=True)
class Applicability:
    """Whether a criterion's scores are far enough apart to rank channels by.

    Attributes:
        variation: coefficient of variation of the scores in each unit: deviation over absolute mean.
        middle: how far apart the middle half of the scores is, over their median in absolute value: dead filters do not count.
        margins: ratio -> in each unit the gap at the cut, over the absolute mean: next score kept - last score that goes.
        noise: the same criterion on weights with a relative error, as a pair with itself; None where it was not measured.
    """

    criterion: str
    variation: tuple[Number, ...]
    middle: tuple[Number, ...]
    margins: Mapping[float, tuple[Number, ...]]
    noise: Pair | None

    def flat(self, level: float = 0.05) -> float:
        """Share of the units whose scores vary by less than `level`."""
        known = _known(self.variation)
        return sum(v < level for v in known) / len(known) if known else math.nan


@dataclass(frozen=True)
class Study:
    """Similarity and applicability of criteria on one model, and the tests of its weights; see `fxprune.study`.

    Attributes:
        model: class name of the model.
        criteria: names, as in `pairs` and `applicability`.
        options: the arguments.
        units: names of what is ranked (groups of coupled channels, or layers), in the order of the graph.
        sizes: channels of each unit.
        scores: criterion -> scores of each unit's channels, without normalisation; six digits.
        pairs: of all criteria, each pair once.
        applicability: of each criterion.
        weights: tests of each convolution's weights.
        notes: what to know before trusting the numbers.
    """

    model: str
    criteria: tuple[str, ...]
    options: Mapping[str, Any]
    units: tuple[str, ...]
    sizes: tuple[int, ...]
    scores: Mapping[str, tuple[tuple[float, ...], ...]] = field(repr=False)
    pairs: tuple[Pair, ...]
    applicability: tuple[Applicability, ...]
    weights: tuple[WeightTests, ...] = ()
    notes: tuple[str, ...] = ()

    def pair(self, first: str, second: str) -> Pair:
        """How alike two of the criteria are, in either order."""
        for name in (first, second):
            self._check(name)
        found = next((p for p in self.pairs if {p.first, p.second} == {first, second}), None)
        if found is None:
            raise InputError(f"a pair has two criteria, not {first!r} twice")
        return found

    def of(self, criterion: str) -> Applicability:
        """The applicability of a criterion."""
        self._check(criterion)
        return next(a for a in self.applicability if a.criterion == criterion)

    def _check(self, name: str) -> None:
        if name not in self.criteria:
            raise InputError(f"the study has no criterion {name!r}{nearest(name, self.criteria)}")

    def __str__(self) -> str:
        from fxprune.studies.text import text_of

        return text_of(self)

    # -- as JSON ---------------------------------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """Nested dicts and lists; what is not finite becomes None."""
        document = asdict(self)
        for entry in document["applicability"]:
            entry["margins"] = {str(ratio): gaps for ratio, gaps in entry["margins"].items()}
        plain: dict[str, Any] = nested.plain({"format": _FORMAT, "version": _VERSION, **document})
        return plain

    def to_json(self) -> str:
        """The study as text: the same study gives the same bytes."""
        return json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":")) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Study:
        """Read a study back.

        Raises:
            InputError: the text is not a study, is damaged, or is of a version that this fxprune cannot read.
        """
        document = document_of_text(text, _FORMAT, _VERSION, InputError, 1)
        try:
            for entry in document["weights"]:
                if entry["variance"]["ratio"] is None:  # infinity, which JSON does not have
                    entry["variance"]["ratio"] = math.inf
            found: Study = typed(cls, document)
            found._check_parts()
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise InputError(f"the study is damaged: {type(error).__name__}: {error!s:.300}") from error
        return found

    def _check_parts(self) -> None:
        """
        Raises:
            ValueError: they do not fit each other.
        """
        count, names = len(self.units), list(self.criteria)
        lists = [self.sizes, *(pair.layers for pair in self.pairs), *self.scores.values()]
        for entry in self.applicability:
            lists += [entry.variation, entry.middle, *entry.margins.values()]
        sizes = [list(map(len, units)) for units in self.scores.values()]
        if {count}.issuperset(map(len, lists)) and {*map(tuple, sizes)} <= {self.sizes}:
            known = {*names} >= {*self.scores, *(name for pair in self.pairs for name in (pair.first, pair.second))}
            alone = [entry.criterion for entry in self.applicability]
            if known and alone == names and len({*names}) == len(names) and all(self._same_ratios()):
                return
        raise ValueError("it has not the same units, criteria and ratios everywhere")

    def _same_ratios(self) -> Iterator[bool]:
        typed(float, self.options["noise"])
        ratios = [typed(float, ratio) for ratio in self.options["ratios"]]
        for entry in self.applicability:
            yield list(entry.margins) == ratios


def _known(values: Iterable[Number]) -> list[float]:
    return [v for v in values if v is not None]


def _mean(values: Iterable[Number]) -> Number:
    known = _known(values)
    return fmean(known) if known else None
