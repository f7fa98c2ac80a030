"""The trials of an outer search, in a file from which a search that was killed goes on.

The sampler is not stored. It draws from its seed and from what it was told, so that a new one which is told the same values in
the same order draws the same trials; each is compared with the file. Nothing is pickled.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from fxprune.errors import InputError, said
from fxprune.planning.plan import Plan
from fxprune.planning.reading import count, entries, number, text
from fxprune.recovery.finetune.files import replaced
from fxprune.studies.checkpoints import checkpoint_path, same_figure

__all__ = ["Trial", "TrialFile", "Tried"]

_FORM, _VERSION = "fxprune-search", 1


@dataclass(frozen=True)
class Trial:
    """One trial: the proportion that was drawn, by stage, the ratios that meet the budgets in it, and what was measured."""

    proportion: dict[str, float]
    ratios: dict[str, float]
    value: float


@dataclass(frozen=True)
class Tried:
    """Where a search stands.

    Attributes:
        model, digest: its class, and letters that stand for its weights.
        asked: with what it was begun.
        dense: what was measured of the whole model.
        trials: in order.
        whole: groups that turned out to stay whole.
        best: number of the best trial, the first of those that are as good.
        plan: of the best.
    """

    model: str
    digest: str
    asked: dict[str, Any]
    dense: float
    trials: tuple[Trial, ...] = ()
    whole: tuple[str, ...] = ()
    best: int = 0
    plan: Plan | None = None

    def after(self, trial: Trial, plan: Plan, whole: Iterable[str]) -> Tried:
        """With one trial more."""
        made = replace(self, trials=(*self.trials, trial), whole=tuple(sorted(whole)))
        sign = 1 if self.asked["better"] == "higher" else -1
        if self.plan is None or sign * trial.value > sign * self.trials[self.best].value:
            return replace(made, best=len(self.trials), plan=plan)
        return made

    def checked(self, number: int, proportion: Mapping[str, float], file: TrialFile) -> Trial:
        """The trial of that number, whose proportion the sampler has drawn now.

        Raises:
            InputError: it was another one, so that the file is of another search.
        """
        found = self.trials[number]
        if found.proportion != proportion:
            raise InputError(f"{file.name} holds trials that this search does not draw: remove it, or name another")
        return found

    def to_json(self) -> str:
        assert self.plan is not None
        document = {"format": _FORM, "version": _VERSION, **asdict(replace(self, plan=None))}
        return json.dumps(document | {"plan": json.loads(self.plan.to_json())}, indent=1) + "\n"

    @classmethod
    def from_json(cls, given: str) -> Tried:
        """
        Raises:
            ValueError, TypeError, KeyError, InputError: this says nothing of a search.
        """
        document = json.loads(given)
        if (document.pop("format"), document.pop("version")) != (_FORM, _VERSION):
            raise ValueError("it is of another kind or version")
        plan = Plan.from_json(json.dumps(document.pop("plan")))
        found = cls(**{**document, "plan": plan, "trials": tuple(entries(document["trials"], _trial))})
        text(found.model), text(found.digest), number(found.dense)
        if not count(found.best) < len(found.trials):
            raise ValueError(f"trial {found.best} is not there")
        return replace(found, asked=dict(found.asked), whole=tuple(entries(found.whole, text)))


def _trial(entry: Any) -> Trial:
    trial = Trial(**entry)
    for each in (*trial.proportion.values(), *trial.ratios.values(), trial.value):
        number(each)
    return trial


class TrialFile:
    """The checkpoint; without a path it does nothing.

    Raises:
        InputError: the path is none of a file.
    """

    def __init__(self, path: Any) -> None:
        self.path = checkpoint_path(path)

    @property
    def name(self) -> str:
        """For messages."""
        return repr(str(self.path))

    def begin(self, empty: Tried) -> Tried:
        """What was tried already.

        Raises:
            InputError: the file is damaged, or of something else.
        """
        if self.path is None or not self.path.exists():
            return empty
        try:
            found = Tried.from_json(self.path.read_text(encoding="utf-8"))
        except (OSError, ValueError, TypeError, KeyError, AttributeError, InputError) as error:
            raise InputError(
                f"{self.name} holds no search that could go on ({said(error)}): remove it, or name another"
            ) from error
        if (found.model, found.digest) != (empty.model, empty.digest):
            raise InputError(f"{self.name} is of another model, or of other weights: remove it, or name another")
        asked = json.loads(json.dumps(empty.asked))
        if found.asked != asked:
            wrong = next(n for n in {**asked, **found.asked} if found.asked.get(n) != asked.get(n))
            raise InputError(f"{self.name} is of a search with another {wrong}: remove it, or name another")
        same_figure(empty.dense, found.dense, self.name)
        return found

    def keep(self, found: Tried) -> Tried:
        """Write what was tried, and give it back.

        Raises:
            PruneError: the disk refuses.
        """
        if self.path is not None:
            replaced(self.path, lambda where: where.write_text(found.to_json(), encoding="utf-8"))
        return found
