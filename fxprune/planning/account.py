"""What became of budgets: a part of a plan."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from fxprune.planning.reading import count, entries, number, text

__all__ = ["Account", "Budget"]

_WORDS = {"macs": "MACs", "params": "parameters", "memory": "bytes of activations", "latency": "latency"}


@dataclass(frozen=True)
class Budget:
    """One budget.

    Attributes:
        name: ``"macs"``, ``"params"``, ``"memory"`` (bytes) or ``"latency"`` (nanoseconds of the whole batch, predicted); of
            MACs and bytes those of one sample.
        asked: as the user gave it: a fraction of `before`, or a count.
        target: the most that was allowed.
        before, after: of the model, and of what the plan leaves of it.
    """

    name: str
    asked: float
    target: int
    before: int
    after: int

    def __str__(self) -> str:
        share = f"{self.after / max(self.before, 1):.2%} of the {_WORDS.get(self.name, self.name)}"
        asked = f"{self.asked:.4g}" if self.asked < 1 else self._amount(self.target)
        return f"{share} ({self._amount(self.after)}; budget {asked})"

    def _amount(self, count: int) -> str:
        return f"{count / 1e6:,.2f} ms" if self.name == "latency" else f"{count:,}"


@dataclass(frozen=True)
class Account:
    """How the budgets were met, and what they leave.

    Attributes:
        budgets: one each.
        saliency: share of the saliency that is kept: the geometric mean over groups of the share of its scores' sum that each
            keeps, each group weighed by its sum and by what a channel of it costs in the whole model (of scores that are losses
            and can be summed, the share of their sum). Scores below zero are shifted up to it.
        bound: no plan within the budgets keeps a larger share (`fxprune.planning.search.bound`).
        notes: what kept the plan from coming closer, in sentences.
    """

    budgets: list[Budget]
    saliency: float
    bound: float
    notes: list[str] = field(default_factory=list)

    @property
    def gap(self) -> float:
        """What is left to gain at most, as a share of the saliency of all channels."""
        return max(0.0, self.bound - self.saliency)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Account:
        """
        Raises:
            ValueError, TypeError, KeyError: the document is no account.
        """
        budgets = entries(document["budgets"], lambda entry: Budget(**entry))
        for budget in budgets:
            text(budget.name), number(budget.asked), count(budget.target), count(budget.before), count(budget.after)
        return cls(budgets, number(document["saliency"]), number(document["bound"]), entries(document["notes"], text))

    def __str__(self) -> str:
        kept = f"{self.saliency:.1%} of the saliency, at most {self.bound:.1%} could be (gap {self.gap:.1%})"
        return f"keeps {', '.join(map(str, self.budgets))}: {kept}"
