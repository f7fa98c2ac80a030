"""What a study found, as plain numbers that go to JSON and back."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from statistics import fmean
from typing import Any

from fxprune.errors import InputError, nearest
from fxprune.studies.distribution import Blocks, EqualVariance, Gaussianity, WeightTests, ZeroMean

__all__ = ["SCOPES", "Applicability", "Number", "Overlap", "Pair", "Study"]

Number = float | None  # None: undefined, as the correlation with a constant
_FORMAT, _VERSION = "fxprune-study", 1

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
        ratio: of the channels that go.
        share: ``2 |A & B| / (|A| + |B|)``.
        expected: the share of random sets of these sizes.
        jaccard: ``|A & B| / |A or B|``.
    """

    scope: str
    ratio: float
    share: float
    expected: float
    jaccard: float


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

    def overlap(self, scope: str, ratio: float) -> Overlap | None:
        """The overlap measured for that scope and ratio, if it was."""
        return next((o for o in self.overlaps if o.scope == scope and math.isclose(o.ratio, ratio)), None)


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
        plain: dict[str, Any] = _plain({"format": _FORMAT, "version": _VERSION, **document})
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
        try:
            document = json.loads(text)
        except (json.JSONDecodeError, TypeError, RecursionError) as error:
            raise InputError(f"this is not a study: the text is not JSON ({error})") from error
        if not isinstance(document, dict) or document.pop("format", None) != _FORMAT:
            raise InputError(f"this is not a study: the JSON document has no format {_FORMAT!r}")
        version = document.pop("version", None)
        if version != _VERSION:
            raise InputError(f"the study has version {version!r}; this fxprune reads version {_VERSION}")
        try:
            return cls(
                criteria=tuple(document.pop("criteria")),
                units=tuple(document.pop("units")),
                sizes=tuple(document.pop("sizes")),
                scores={name: tuple(map(tuple, units)) for name, units in document.pop("scores").items()},
                pairs=tuple(_pair(p) for p in document.pop("pairs")),
                applicability=tuple(_applicability(a) for a in document.pop("applicability")),
                weights=tuple(_tests(w) for w in document.pop("weights")),
                notes=tuple(document.pop("notes")),
                **document,
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(f"the study is damaged: {type(error).__name__}: {error}") from error


def _pair(data: Mapping[str, Any]) -> Pair:
    return Pair(**{**data, "layers": tuple(data["layers"]), "overlaps": tuple(Overlap(**o) for o in data["overlaps"])})


def _applicability(data: Mapping[str, Any]) -> Applicability:
    margins = {float(ratio): tuple(gaps) for ratio, gaps in data["margins"].items()}
    noise = None if data["noise"] is None else _pair(data["noise"])
    return Applicability(data["criterion"], tuple(data["variation"]), tuple(data["middle"]), margins, noise)


def _tests(data: Mapping[str, Any]) -> WeightTests:
    variance = dict(data["variance"])
    if variance["ratio"] is None:  # infinity, which JSON does not have
        variance["ratio"] = math.inf
    parts = {
        "gaussian": Gaussianity(**data["gaussian"]),
        "mean": ZeroMean(**data["mean"]),
        "variance": EqualVariance(**variance),
        "blocks": None if data["blocks"] is None else Blocks(**data["blocks"]),
    }
    return WeightTests(**{**data, **parts})


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _known(values: Iterable[Number]) -> list[float]:
    return [v for v in values if v is not None]


def _mean(values: Iterable[Number]) -> Number:
    known = _known(values)
    return fmean(known) if known else None
