"""What `prune`, `plan`, the command line and a plan's JSON have in common: one checked object."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

from fxprune.errors import InputError, nearest

__all__ = ["AttentionPolicy", "Criterion", "PruneOptions", "Ratio", "Scope"]

Ratio = float | Mapping[str, float]
Scope = Literal["global", "layer"]
AttentionPolicy = Literal["head_dim", "heads", "both", "none"]
Criterion = str | Callable[..., Any]


@dataclass(frozen=True)
class PruneOptions:
    """How much goes, ranked by what, and what is spared. The fields are the arguments of `fxprune.prune`.

    >>> PruneOptions(0.5, scope="layer").to_json()["scope"]
    'layer'

    Raises:
        InputError: a value is out of range or of the wrong kind.
    """

    ratio: Ratio
    criterion: Criterion = "l2"
    scope: str = "global"
    ignore: Iterable[str] = ()  # a tuple, once checked
    max_ratio: float = 0.95
    round_to: int = 1
    attention: AttentionPolicy = "head_dim"
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "ignore", (self.ignore,) if isinstance(self.ignore, str) else tuple(self.ignore))
        for value in self.ratio.values() if isinstance(self.ratio, Mapping) else (self.ratio,):
            low = isinstance(self.ratio, Mapping)  # a pattern may spare its groups
            if not _is_number(value) or not (0 <= value < 1 if low else 0 < value < 1):
                raise InputError(f"ratio must be a fraction of the prunable channels between 0 and 1, not {value!r}")
        if not _is_number(self.max_ratio) or not 0 < self.max_ratio <= 1 or math.isnan(self.max_ratio):
            raise InputError(f"max_ratio must be a fraction in (0, 1], not {self.max_ratio!r}")
        if not isinstance(self.round_to, int) or isinstance(self.round_to, bool) or self.round_to < 1:
            raise InputError(f"round_to must be a whole number of at least 1, not {self.round_to!r}")
        check_attention(self.attention)

    @property
    def criterion_name(self) -> str:
        """A callable criterion has no registered name: its own stands for it."""
        if isinstance(self.criterion, str):
            return self.criterion
        return str(getattr(self.criterion, "__name__", type(self.criterion).__name__))

    def to_json(self) -> dict[str, Any]:
        """What a plan's document stores."""
        document = {field.name: getattr(self, field.name) for field in fields(self)}
        ratio = dict(self.ratio) if isinstance(self.ratio, Mapping) else self.ratio
        return document | {"ratio": ratio, "criterion": self.criterion_name, "ignore": list(self.ignore)}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> PruneOptions:
        """Read the options of a plan back; what the document does not name has its default.

        Raises:
            InputError: a value is out of range or of the wrong kind, or the ratio is missing.
        """
        if "ratio" not in document:
            raise InputError("the options name no ratio")
        known = {field.name for field in fields(cls)}
        return cls(**{name: value for name, value in document.items() if name in known})


def check_attention(policy: Any) -> AttentionPolicy:
    """The policy, if it is one.

    Raises:
        InputError: it is none.
    """
    known = get_args(AttentionPolicy)
    if policy not in known:
        names = f"{', '.join(map(repr, known[:-1]))} or {known[-1]!r}"
        raise InputError(f"attention must be {names}, not {policy!r}{nearest(str(policy), known)}")
    found: AttentionPolicy = policy
    return found


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
