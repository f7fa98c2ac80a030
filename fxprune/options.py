"""What `prune`, `plan`, the command line and a plan's JSON have in common: one checked object."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

from fxprune.errors import InputError, nearest, said, shown
from fxprune.quantities import UNITS, each_of, quantity, real, whole

__all__ = [
    "BUDGETS",
    "AttentionPolicy",
    "Criterion",
    "Form",
    "Normalization",
    "Per",
    "PruneOptions",
    "Ratio",
    "Scope",
    "check_attention",
    "check_flag",
    "check_form",
    "check_names",
    "check_seed",
    "one_of",
    "real",
    "several",
]

Ratio = float | Mapping[str, float]
Per = float | Mapping[str, float]  # one number, or one for each pattern of names or class of layers
Scope = Literal["global", "layer", "isomorphic", "threshold"]  # the policies of the package; any registered name will do
Form = Literal["graph", "module"]
AttentionPolicy = Literal["head_dim", "heads", "both", "none"]
Normalization = Literal["max", "mean", "l2", "gaussian", "none"]  # how scores of groups are made comparable
Criterion = str | Callable[..., Any]
BUDGETS = ("macs", "params", "memory", "latency")  # costs that a budget may be given for
_AMOUNTS = {"memory": "200 MB", "latency": "4 ms"}
_MOST = 100_000  # entries of a list that a user gives


@dataclass(frozen=True)
class PruneOptions:
    """How much goes, ranked by what, and what is spared. The fields are the arguments of `fxprune.prune`.

    >>> PruneOptions(0.5, scope="layer").to_json()["scope"]
    'layer'
    >>> PruneOptions(macs=0.5, params=2_000_000).budgets
    {'macs': 0.5, 'params': 2000000}

    Raises:
        InputError: a value is out of range or of the wrong kind.
    """

    ratio: Ratio | None = None
    criterion: Criterion = "l2"
    scope: str = "global"
    ignore: Iterable[str] = ()  # a tuple, once checked
    max_ratio: Per = 0.95
    round_to: int | Any = 1  # or by pattern; or "auto", until a table of latencies is asked for the best
    attention: AttentionPolicy = "head_dim"
    seed: int = 0
    normalization: Normalization | None = None  # what suits the criterion
    exact_norms: bool = False
    macs: float | None = None
    params: float | None = None
    memory: float | str | None = None  # a number, once checked
    latency: float | str | None = None  # likewise, in nanoseconds
    branches: bool | str | Iterable[str] = False  # a truth value or a tuple, once checked
    min_width: int | Mapping[str, int] = 1

    def __post_init__(self) -> None:
        checked: dict[str, Any] = {
            "ratio": None if self.ratio is None else _ratio(self.ratio),
            **{name: _budget(name, value) for name, value in self.budgets.items()},
            "max_ratio": each_of("max_ratio", self.max_ratio, real, 1, "a fraction in (0, 1]"),
            "round_to": self.round_to
            if self.round_to == "auto"
            else each_of("round_to", self.round_to, whole, 1 << 62, "'auto', a whole number of at least 1"),
            "min_width": each_of("min_width", self.min_width, whole, 1 << 62, "a whole number of at least 1"),
            "seed": check_seed(self.seed),
            "ignore": check_names(self.ignore, "ignore"),
            "exact_norms": check_flag(self.exact_norms, "exact_norms"),
            "branches": _branches(self.branches),
        }
        by_name = isinstance(self.ratio, Mapping)  # beside budgets, ratios by name settle their groups
        if (self.ratio is None) == (not self.budgets) and not (by_name and self.budgets):
            given = "neither" if self.ratio is None else "both"
            raise InputError(
                "say how much goes by ratio, the fraction of the channels to remove, or by budgets, as macs=0.5, params=0.3; "
                f"{given} is given"
            )
        if checked["branches"] and not self.budgets:
            raise InputError("branches are candidates beside channels under a budget, as macs=0.5; by hand: fxprune.revise")
        check_attention(self.attention)
        if self.normalization is not None:
            one_of("normalization", self.normalization, get_args(Normalization))
        for name, value in checked.items():
            object.__setattr__(self, name, value)

    @property
    def budgets(self) -> dict[str, float]:
        """What may be kept at most: of each cost that is given, a fraction in (0, 1) of the model's own, or a count."""
        return {name: getattr(self, name) for name in BUDGETS if getattr(self, name) is not None}

    @property
    def criterion_name(self) -> str:
        """A callable criterion has no registered name: its own stands for it."""
        if isinstance(self.criterion, str):
            return self.criterion
        return str(getattr(self.criterion, "__name__", type(self.criterion).__name__))

    @property
    def passes(self) -> tuple[str, ...]:
        """The optional passes that the rewrite runs."""
        return ("exact-norms",) if self.exact_norms else ()

    def to_json(self) -> dict[str, Any]:
        """What a plan's document stores; of ratio and budgets, and of what is optional, what was asked for."""
        document = {field.name: getattr(self, field.name) for field in fields(self)}
        if not self.exact_norms:
            del document["exact_norms"]
        if not self.branches:
            del document["branches"]
        elif not isinstance(self.branches, bool):
            document["branches"] = list(self.branches)
        if self.min_width == 1:
            del document["min_width"]
        for name in BUDGETS:
            if document[name] is None:
                del document[name]
        if self.ratio is None:
            del document["ratio"]
            return document | {"criterion": self.criterion_name, "ignore": list(self.ignore)}
        ratio = dict(self.ratio) if isinstance(self.ratio, Mapping) else self.ratio
        return document | {"ratio": ratio, "criterion": self.criterion_name, "ignore": list(self.ignore)}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> PruneOptions:
        """Read the options of a plan back; what the document does not name has its default.

        Raises:
            InputError: a value is out of range or of the wrong kind, or neither ratio nor budget is there.
        """
        if not isinstance(document, Mapping) or not {"ratio", *BUDGETS} & document.keys():
            raise InputError("the options name no ratio and no budget")
        known = {field.name for field in fields(cls)}
        return cls(**{name: value for name, value in document.items() if name in known})


def check_form(form: Any) -> Form:
    """
    Raises:
        InputError: there is no such form of a result.
    """
    found: Form = one_of("form", form, get_args(Form))  # type: ignore[assignment]
    return found


def check_attention(policy: Any) -> AttentionPolicy:
    """The policy, if it is one.

    Raises:
        InputError: it is none.
    """
    found: AttentionPolicy = one_of("attention", policy, get_args(AttentionPolicy))  # type: ignore[assignment]
    return found


def one_of(argument: str, value: Any, known: Sequence[str]) -> str:
    """The value, if it is one of the known ones.

    Raises:
        InputError: it is none.
    """
    if not isinstance(value, str) or value not in known:
        names = f"{', '.join(map(repr, known[:-1]))} or {known[-1]!r}"
        raise InputError(f"{argument} must be {names}, not {shown(value)}{nearest(value, known)}")
    return value


def check_seed(seed: Any) -> int:
    """The seed as Python's own number.

    Raises:
        InputError: it is none that a random generator takes.
    """
    found = whole(seed)
    if found is None or not 0 <= found < 1 << 63:
        raise InputError(f"seed must be a whole number from 0 to 2**63 - 1, not {shown(seed)}")
    return found


def check_flag(given: Any, argument: str) -> bool:
    """A truth value as Python's own.

    Raises:
        InputError: it is none.
    """
    if isinstance(given, (bool, int)) or type(given).__name__ in ("bool", "bool_"):  # NumPy's, too
        return bool(given)
    raise InputError(f"{argument} must be True or False, not {shown(given)}")


def check_names(given: Any, argument: str) -> tuple[str, ...]:
    """Names or globs: a text is one, and any iterable of texts are several.

    Raises:
        InputError: these are no names.
    """
    names = []
    for name in (given,) if isinstance(given, str) else several(given, argument):
        if not isinstance(name, str):
            raise InputError(f"{argument} must name modules or parameters by text, as ['head', 'layer3.*'], not {shown(name)}")
        names.append(name)
    return tuple(names)


def several(given: Any, argument: str) -> Iterator[Any]:
    """The entries of what a user gave as an iterable, which may be of any kind, fail, or never end.

    Raises:
        InputError: it is none, or has too many.
    """
    try:
        for number, entry in enumerate(given):
            if number == _MOST:
                raise InputError(f"{argument} has more than {_MOST:,} entries")
            yield entry
    except (GeneratorExit, InputError):
        raise
    except Exception as error:
        why = f"{type(error).__name__}: {said(error)}"
        raise InputError(f"{argument} must be a list, not {shown(given)} ({why})") from error


def _branches(given: Any) -> bool | tuple[str, ...]:
    """
    Raises:
        InputError: it is neither a truth value nor names.
    """
    if isinstance(given, str) or not (isinstance(given, int) or type(given).__name__ in ("bool", "bool_")):
        return check_names(given, "branches") or False
    return check_flag(given, "branches")


def _ratio(given: Any) -> Ratio:
    """A ratio, or one for each pattern, in Python's own numbers.

    Raises:
        InputError: it is none.
    """
    if isinstance(given, Mapping):
        if not given:
            raise InputError("ratio names no layers: give a fraction, or one for each pattern, as {'layer3.*': 0.5}")
        if not all(isinstance(pattern, str) for pattern in given):
            raise InputError(f"ratio must name layers by text, as {{'layer3.*': 0.5}}, not {shown(given)}")
        return {pattern: _fraction(value, at_least_zero=True) for pattern, value in given.items()}
    return _fraction(given)


def _fraction(value: Any, at_least_zero: bool = False) -> float:
    number = real(value)
    if number is None or not 0 <= number < 1 or (number == 0 and not at_least_zero):  # a pattern may spare its groups
        raise InputError(f"ratio must be a fraction of the prunable channels between 0 and 1, not {shown(value)}")
    return number


def _budget(name: str, value: Any) -> float:
    """
    Raises:
        InputError: it is neither a fraction nor an amount.
    """
    number = quantity(name, value) if isinstance(value, str) and name in UNITS else real(value)
    least = 1000 if name == "latency" else 1  # no model takes less than a microsecond: whoever says 4 means a unit
    if number is None or not 0 < number < 1 << 62 or 1 <= number < least or number == 1:  # 1 could be all of it, or one
        amount = (
            f"an amount, as {name}=0.5 or {name}='{_AMOUNTS[name]}'"
            if name in UNITS
            else f"a count above 1, as {name}=0.5 or {name}=2e6"
        )
        raise InputError(f"{name} must be the fraction that is kept, between 0 and 1, or {amount}, not {shown(value)}")
    return number
