"""What forward returns: the model's own classes come back."""

from __future__ import annotations

import types
from collections import OrderedDict, UserDict, defaultdict, namedtuple
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from tests.kinds.base import Case, output_of_transformers, rows, with_transformers

__all__ = ["CASES"]


@dataclass
class Plain:
    logits: Any
    hidden: Any = None
    count: int = 3
    names: list[str] = field(default_factory=lambda: ["a"])


@dataclass(frozen=True)
class Frozen:
    logits: Any
    hidden: Any = None


@dataclass(slots=True)
class Slotted:
    logits: Any


@dataclass
class Checked:
    logits: Any
    size: Any = field(init=False)

    def __post_init__(self) -> None:
        self.size = self.logits.shape[-1]


class Pair(NamedTuple):
    first: Any
    second: Any = None


Old = namedtuple("Old", "x y")


class Own(OrderedDict[str, Any]):
    pass


class Attributes(dict[str, Any]):
    """As many libraries have one: entries are attributes."""

    def __init__(self, **entries: Any) -> None:
        super().__init__(**entries)
        self.__dict__.update(entries)

    def update(self, *_: Any, **__: Any) -> None:
        raise RuntimeError("not by update")


class User(UserDict[str, Any]):
    pass


class Items(list[Any]):
    pass


class Object:
    def __init__(self, x: Any, more: Any) -> None:
        self.x, self.more, self.rate, self.kind = x, more, 0.5, Object


class Spaced:
    __slots__ = ("x", "y")

    def __init__(self, x: Any) -> None:
        self.x = x  # y stays empty


class Layer(nn.Module):
    def __init__(self, made: Callable[..., Any]) -> None:
        super().__init__()
        self.fc, self.made = nn.Linear(16, 16), made

    def forward(self, x: Tensor) -> Any:
        return self.made(self.fc(x), x)


class Returns(nn.Module):
    """What `made` makes of the logits and the hidden values is the output."""

    def __init__(self, made: Callable[[Tensor, Tensor], Any]) -> None:
        super().__init__()
        self.a, self.b, self.made = nn.Linear(8, 16), nn.Linear(16, 4), made

    def forward(self, x: Tensor) -> Any:
        hidden = self.a(x).relu()
        return self.made(self.b(hidden), x)


class Between(nn.Module):
    """An object between two parts, which the second reads with `read`."""

    def __init__(self, made: Callable[..., Any], read: Callable[[Any], Any]) -> None:
        super().__init__()
        self.a, self.layer, self.b, self.read = nn.Linear(8, 16), Layer(made), nn.Linear(16, 4), read

    def forward(self, x: Tensor) -> Any:
        return self.b(self.read(self.layer(self.a(x))))


def returned(name: str, made: Callable[[Tensor, Tensor], Any]) -> Case:
    return Case(name, lambda: Returns(made), rows)


def between(name: str, made: Callable[..., Any], read: Callable[[Any], Any]) -> Case:
    return Case(f"{name} between parts", lambda: Between(made, read), rows)


def hf(x: Tensor, h: Tensor | None = None) -> Any:
    states = None if h is None else (h, h)
    return output_of_transformers("BaseModelOutputWithPooling", last_hidden_state=x, hidden_states=states)


def pooled(y: Tensor) -> Any:
    return output_of_transformers("BaseModelOutputWithPooling", pooler_output=y)


class ByMode(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(8, 16), nn.Linear(16, 4), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Any:
        hidden = self.a(x).relu()
        if self.training:
            return Plain(self.b(hidden), self.c(hidden))
        return Pair(self.b(hidden))


CASES = [
    returned("dataclass", lambda y, x: Plain(y, [x, None, "text", 2])),
    returned("frozen dataclass in itself", lambda y, x: Frozen(y, Frozen(x))),
    returned("dataclass with slots", lambda y, x: Slotted(y)),
    returned("dataclass with a field of its own", lambda y, x: Checked(y)),
    returned("named tuples", lambda y, x: (Pair(y), Old(x, y))),
    returned("named tuple in a named tuple", lambda y, x: Pair(y, Pair(x))),
    returned("named tuple in a dict", lambda y, x: {"pair": Pair(y), "list": [Old(x, y)]}),
    returned("ordered dict", lambda y, x: OrderedDict(b=y, a=x)),
    returned("subclass of OrderedDict", lambda y, x: Own(b=y, a=x)),
    returned("defaultdict", lambda y, x: defaultdict(list, y=y, x=[x])),
    returned("dict with attributes", lambda y, x: Attributes(y=y, x=x)),
    returned("user dict", lambda y, x: User(y=y, x=x)),
    returned("subclass of list", lambda y, x: Items([y, x])),
    returned("namespace", lambda y, x: types.SimpleNamespace(y=y, more=[x], name="n", none=None)),
    returned("object", lambda y, x: Object(y, (x, "text"))),
    returned("object with slots", lambda y, x: Spaced(y)),
    returned("return type of torch", lambda y, x: y.sort(0)),
    returned("return type of torch in a dict", lambda y, x: {"max": y.max(1), "y": y}),
    returned("nested plain values", lambda y, x: [{"y": y, 3: (x, None)}, 1.5, "text", True, None, y.shape[0], ()]),
    returned("ModelOutput", lambda y, x: hf(y, x)),
    returned("ModelOutput whose first is None", lambda y, x: pooled(y)),
    returned("ModelOutput in a list", lambda y, x: [hf(y), {"again": hf(y, x)}]),
    Case("another class in each mode", ByMode, rows),
    between("ModelOutput by attribute", hf, lambda o: o.last_hidden_state + o.hidden_states[0]),
    between("ModelOutput by place", hf, lambda o: o[0]),
    between("ModelOutput by key", hf, lambda o: o["last_hidden_state"]),
    between("ModelOutput as a tuple", hf, lambda o: o.to_tuple()[0]),
    between("ModelOutput unpacked", hf, lambda o: (lambda last_hidden_state, **_: last_hidden_state)(**o)),
    between("dataclass", Plain, lambda o: o.logits * o.hidden),
    between("named tuple", Pair, lambda o: torch.add(*o)),
    between("object", Object, lambda o: o.x + o.more * o.rate),
    between("user dict", lambda y, x: User(y=y, x=x), lambda o: sum(o.values())),
]
CASES = with_transformers(CASES)
