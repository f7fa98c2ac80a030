"""User code around a random network: hooks, contexts, writes, state, wrappers, odd names, typed inputs and outputs.

A `UserCode` is a program and a list of ``(name, place, choice)``: what is done to the module at that place of the network.
"""

from __future__ import annotations

from collections import OrderedDict, namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st
from torch import Tensor, nn

from grammar.base import Program, programs

__all__ = ["WRAPS", "UserCode", "user_codes", "wrap"]

Wrap = tuple[str, int, int]

WRAPS: dict[str, Callable[[nn.Module, int], nn.Module | None]] = {}


def wrap(name: str) -> Callable[[Callable[[nn.Module, int], nn.Module | None]], Any]:
    """Register what changes a module in place (None), or makes another one to stand in its place."""

    def register(function: Callable[[nn.Module, int], nn.Module | None]) -> Any:
        WRAPS[name] = function
        return function

    return register


@dataclass(frozen=True)
class UserCode:
    """A network as a user has it.

    Attributes:
        program: the network inside.
        wraps: what is done to which of its modules.
        form: of the inputs and the output.
    """

    program: Program
    wraps: tuple[Wrap, ...] = ()
    form: int = 0

    def build(self) -> nn.Module:
        """The model; the same one each time under one seed."""
        inner = self.program.build()
        inner.program = self.program
        for name, place, choice in self.wraps:
            places = [(m, k) for m in inner.modules() for k, c in m._modules.items() if c is not None and _called(c)]
            parent, key = places[place % len(places)]
            made = WRAPS[name](parent._modules[key], choice)
            if made is not None:
                parent._modules[key] = made
        return User(inner, self.form)

    def inputs(self, batch: int) -> Any:
        """Positional inputs."""
        (x,) = self.program.inputs(batch)
        return (x, *EXTRA[self.form % len(EXTRA)])


def _called(module: nn.Module) -> bool:
    """Whether the network calls a module: its own pieces it does not."""
    return not hasattr(module, "apply_to") and not isinstance(module, nn.ModuleList)


Record = namedtuple("Record", "logits aux")


@dataclass
class Answer:
    """An output of a user's own class."""

    logits: Tensor
    hidden: Tensor | None = None


EXTRA: list[tuple[Any, ...]] = [(), (2,), (0.5,), (None,), ("sum",), (True,)]
FORMS: list[Callable[[Tensor], Any]] = [
    lambda y: y,
    lambda y: {"logits": y, "hidden": None},
    lambda y: OrderedDict(logits=y, twice=[y, y * 2]),
    lambda y: Record(y, y.sum(1)),
    lambda y: Answer(y),
    lambda y: (y, None, y.shape[0]),
]


class User(nn.Module):
    """The network with an input that is no tensor, and an output of some type."""

    def __init__(self, inner: nn.Module, form: int) -> None:
        super().__init__()
        self.inner, self.form = inner, form

    def forward(self, x: Tensor, extra: Any = None) -> Any:
        y = self.inner(x)
        if isinstance(extra, str):
            y = y + y.sum(1, keepdim=True)
        elif extra is True:
            y = y.relu()
        elif extra is not None:
            y = y * extra
        return FORMS[self.form // len(EXTRA) % len(FORMS)](y)


def user_codes() -> st.SearchStrategy[UserCode]:
    """Random user code; hypothesis shrinks it to few wraps around few steps."""
    number = st.integers(0, 11)
    wraps: Any = st.tuples(st.sampled_from(sorted(WRAPS)), number, number)
    listed: Any = st.lists(wraps, min_size=1, max_size=3).map(tuple)
    return st.builds(UserCode, programs(3), listed, st.integers(0, len(EXTRA) * len(FORMS) - 1))
