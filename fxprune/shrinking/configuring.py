"""The object that a model was built from (``self.config``), for the slim model: from it alone the same architecture is made.

A model says what it was built from where the one argument that its constructor needs is an attribute of that name, of which the
class makes a model with the same tensors. Whole numbers in it that are an old size get the new one, as few of them as will do,
where the class then makes a model with the shapes of the slim one, which with its weights computes what the GraphModule does:
all layers agree on these numbers. Where they do not, or where something else hangs on a number (frequencies of rotary
positions), nothing is set, and a sentence says so.
"""

from __future__ import annotations

import contextlib
import copy
import inspect
import io
import itertools
import re
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from fxprune.labels.store import axes_in
from fxprune.rewrite import Rewritten
from fxprune.state import named_tensors, place_of

__all__ = ["ConfigField", "Configurations"]

_SECONDS = 15.0  # for models that are made on trial
_TOGETHER = 60  # pairs of numbers that are tried
_PROVED = 6  # configurations that are compared in numbers

ABSENT = object()  # the number of a field that an object does not have, and its reader has a default for
_SIZES = re.compile(r"(dim|size|width|channels|features)$")

Chosen = Mapping["ConfigField", int]


@dataclass(frozen=True)
class ConfigField:
    """One whole number, or None, or one that is not there, in what a model was built from.

    Attributes:
        path: ``("attribute", name)`` and ``("item", key)``, from the model's attribute down.
    """

    path: tuple[tuple[str, Any], ...]

    def put(self, module: nn.Module, number: Any) -> None:
        """Set it in a module's attribute."""
        *way, (kind, last) = self.path
        holder: Any = module
        for step, key in way:
            holder = getattr(holder, key) if step == "attribute" else holder[key]
        if number is ABSENT:
            delattr(holder, last)
        elif kind == "attribute":
            setattr(holder, last, number)
        else:
            holder[last] = number

    def __str__(self) -> str:
        return "".join(f".{key}" if kind == "attribute" else f"[{key!r}]" for kind, key in self.path[1:]).lstrip(".")


class Configurations:
    """What a model was built from, and the changes of it that make a model of the slim shapes.

    Attributes:
        fields: the numbers in it.
        choices: the changes, the smallest first.
        known: whether the class makes the model from it at all.
    """

    def __init__(self, model: nn.Module, slim: nn.Module, rewritten: Rewritten) -> None:
        name = _argument(model)
        self.fields: dict[ConfigField, Any] = {}
        self.choices: list[dict[ConfigField, int]] = []
        self.known = name is not None
        if name is None:
            return
        self.search = _Search(model, slim, name)
        self.known = self.search.fits({}, model)
        if not self.known:
            return
        self.fields = dict(_fields(getattr(model, name), (("attribute", name),)))
        sizes = _sizes(rewritten)
        numbers = {f: v for f, v in self.fields.items() if v is not None and v > 1 and v in sizes}
        options = {f: [n for n in sizes[v] if n != v] for f, v in numbers.items()}
        self.fields |= {ConfigField((("attribute", name), ("attribute", asked))): ABSENT for asked in self.search.asked()}
        empty = [f for f, v in self.fields.items() if v is None or v is ABSENT]
        news = sorted({n for found in sizes.values() for n in found if n > 1})
        self.choices = list(self.search.run({f: found for f, found in options.items() if found}, empty, news))

    def left(self, narrowed: bool) -> str:
        """Why none of them is taken; empty where there is nothing that a model is built from.

        Args:
            narrowed: whether heads stay, and have fewer channels now.
        """
        if not self.known:
            return ""
        why = "no numbers in it make the slim shapes, as where layers keep different widths (scope='layer' takes alike)"
        if self.choices:
            why = "with the numbers that make the slim shapes it computes something else, as where frequencies hang on a size"
        heads = "; attention='heads' takes whole heads, which it can say, and leaves their width" if narrowed else ""
        return f"what the model was built from stays as it was: {why}{heads}"

    def proved(self, proves: Callable[[nn.Module], bool]) -> dict[ConfigField, tuple[Any, int]]:
        """Before and after of the first change whose model computes what it should; none where there is none.

        Args:
            proves: whether a model that was made of these numbers does, given the slim weights.
        """
        for chosen in self.choices:
            with contextlib.suppress(Exception):  # of the model's own code
                if proves(self.search.made(chosen, meta=False)):
                    return {f: (self.fields[f], new) for f, new in chosen.items()}
        return {}


def _argument(model: nn.Module) -> str | None:
    """The one argument that the constructor needs, if the model has an attribute of that name that may hold numbers."""
    try:
        parameters = list(inspect.signature(type(model).__init__).parameters.values())[1:]
    except (TypeError, ValueError):
        return None
    needed = [p for p in parameters if p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    held = model.__dict__.get(needed[0].name) if len(needed) == 1 else None
    if held is None or isinstance(held, (nn.Module, torch.Tensor)) or not (hasattr(held, "__dict__") or isinstance(held, dict)):
        return None
    return needed[0].name


def _fields(value: Any, path: tuple[tuple[str, Any], ...], depth: int = 4) -> Iterator[tuple[ConfigField, int | None]]:
    """The whole numbers below a value, and what is None there."""
    if type(value) is int or value is None:
        yield ConfigField(path), value
    elif depth and isinstance(value, (dict, list)):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _fields(item, (*path, ("item", key)), depth - 1)
    elif depth and hasattr(value, "__dict__") and not isinstance(value, type) and not callable(value):
        for key, item in vars(value).items():
            if not key.startswith("_"):
                yield from _fields(item, (*path, ("attribute", key)), depth - 1)


def _sizes(rewritten: Rewritten) -> dict[int, list[int]]:
    """Sizes before -> after, the commonest first, of all axes of the graph and its tensors."""
    cut, traced = rewritten.cut, rewritten.cut.analysis.traced
    axes = [*axes_in(list(traced.axes.values())), *(a for t in traced.tensors.values() for a in traced.mode.axes(t))]
    counts: dict[int, Counter[int]] = {}
    for axis in axes:
        if axis.labels is not None and not axis.dynamic:
            counts.setdefault(axis.size, Counter())[cut.size(axis)] += 1
    return {old: [new for new, _ in found.most_common()] for old, found in counts.items()}


class _Search:
    """Models of the user's class, made on the meta device until one has the slim shapes."""

    def __init__(self, model: nn.Module, slim: nn.Module, name: str) -> None:
        self.model, self.slim, self.name = model, slim, name
        self.wanted = {n: tuple(t.shape) for n, t in named_tensors(slim).items()}
        self.known: dict[frozenset[tuple[ConfigField, int]], float] = {}
        self.until = time.monotonic() + _SECONDS

    def made(self, chosen: Chosen, meta: bool = True, given: Any = None) -> nn.Module:
        """A model of these numbers: without values, or with the weights of the slim one.

        Raises:
            Exception: whatever the constructor raises.
        """
        holder = nn.Module()
        holder.__dict__[self.name] = copy.deepcopy(getattr(self.model, self.name)) if given is None else given
        for field, number in chosen.items():
            field.put(holder, number)
        device, dtype = place_of(self.slim)
        quiet = warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO())
        with quiet[0], quiet[1], quiet[2], torch.device("meta" if meta else device):
            warnings.simplefilter("ignore")
            made: nn.Module = type(self.model)(getattr(holder, self.name))
        if not meta:
            made.to(dtype).load_state_dict(self.slim.state_dict())
            flags = {n: p.requires_grad for n, p in self.slim.named_parameters()}
            for name, parameter in made.named_parameters():
                parameter.requires_grad_(flags[name])
        return made

    def fits(self, chosen: Chosen, model: nn.Module) -> bool:
        """Whether a model of these numbers has the shapes of another one."""
        with contextlib.suppress(Exception):
            made = {n: tuple(t.shape) for n, t in named_tensors(self.made(chosen)).items()}
            return made == {n: tuple(t.shape) for n, t in named_tensors(model).items()}
        return False

    def asked(self) -> list[str]:
        """Names of sizes that the constructor asks the object for, and it does not have: ``getattr(config, "head_dim", 8)``."""
        names: dict[str, None] = {}

        def heard(thing: Any, name: str) -> Any:
            try:
                return super(kind, thing).__getattribute__(name)
            except AttributeError:
                names.setdefault(name)
                raise

        given = getattr(self.model, self.name)
        kind: Any = type(
            type(given).__name__, (type(given),), {"__getattribute__": heard, "__module__": type(given).__module__}
        )
        with contextlib.suppress(Exception):  # of an object whose class cannot be another
            spy = copy.deepcopy(given)
            spy.__class__ = kind
            self.made({}, given=spy)
        return [n for n in names if not n.startswith("_") and _SIZES.search(n)]

    def apart(self, chosen: Chosen) -> float:
        """How many tensors have other shapes; infinity where no model can be made, or the time is over."""
        key = frozenset(chosen.items())
        if key not in self.known:
            self.known[key] = float("inf")
            if time.monotonic() < self.until:
                with contextlib.suppress(Exception):
                    made = {n: tuple(t.shape) for n, t in named_tensors(self.made(chosen)).items()}
                    both = made.keys() | self.wanted.keys()
                    self.known[key] = sum(made.get(n) != self.wanted.get(n) for n in both)
        return self.known[key]

    def run(
        self, options: Mapping[ConfigField, Sequence[int]], empty: Sequence[ConfigField], sizes: Sequence[int]
    ) -> Iterator[dict[ConfigField, int]]:
        """Choices with the right shapes: the smallest, then those with more numbers that the shapes do not show.

        Args:
            options: what numbers may become.
            empty: where there is none, and any of these `sizes` or of the tensors' may be.
        """
        whole = {f: news[0] for f, news in options.items()}
        start: dict[ConfigField, int] = min(whole, {}, key=self.apart)
        found = self._nearer(start, options)
        if self.apart(found):
            either = {*sizes, *(size for shape in self.wanted.values() for size in shape if size > 1)}
            found = self._nearer(found, {f: sorted(either) for f in empty}, pairs=0)
        if self.apart(found):
            return
        for field in list(found):
            without = {f: n for f, n in found.items() if f != field}
            if not self.apart(without):
                found = without
        hidden = {f: n for f, n in whole.items() if f not in found and not self.apart({**found, f: n})}
        more = [{f: n} for f, n in hidden.items()] + ([hidden] if len(hidden) > 1 else [])
        yield from [{**found, **extra} for extra in ({}, *more)][:_PROVED]

    def _nearer(
        self, start: dict[ConfigField, int], options: Mapping[ConfigField, Sequence[int]], pairs: int = _TOGETHER
    ) -> dict[ConfigField, int]:
        """Change one number at a time, or two, as long as fewer shapes are wrong."""
        while self.apart(start):
            ones = [(f, n) for f, news in options.items() for n in (*news, None) if start.get(f) != n]
            twos = ((a, b) for i, a in enumerate(ones) for b in ones[i + 1 :] if a[0] != b[0])
            tries = [*((one,) for one in ones), *itertools.islice(twos, pairs)]
            for changes in tries:
                chosen = {f: n for f, n in {**start, **dict(changes)}.items() if n is not None}
                if self.apart(chosen) < self.apart(start):
                    start = chosen
                    break
            else:
                return start
        return start
