"""Whether branches that go by the number of samples ask one question, so that two recordings have seen all their answers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import fx

from fxprune.tracing.graphs.guards import SCALARS

__all__ = ["one_question", "place_of"]

_MOST = 64  # samples that are tried; and the neighbours of every number that the code names


def one_question(
    asserted: Iterable[fx.Node], here: Mapping[fx.Node, Any], there: Mapping[fx.Node, Any], batches: tuple[int, int]
) -> bool:
    """Whether assertions hold together and fail together, whatever the number of samples is.

    One assertion has two outcomes, of which the recording has one and another recording the other. Several have more, unless
    they all say the same: ``n in (1, 2)`` asks two questions, and neither 1 nor 2 samples tell what 3 do.

    Args:
        asserted: nodes of assertions.
        here: what nodes are in a recording.
        there: what they are at the number of samples of the other.
        batches: the number of samples of each.
    """
    asserted = list(asserted)
    if len(asserted) == 1:
        return True
    named: set[int] = set()
    try:
        asks = [_question(node.args[0], (here, there), batches, named) for node in asserted]
        tried = {*range(1, _MOST), *(n for number in named for n in (number - 1, number, number + 1) if n > 0)}
        return all(len({bool(ask(n)) for ask in asks}) == 1 for n in tried)
    except (LookupError, TypeError, ValueError, ArithmeticError):
        return False


def _question(
    asked: Any, values: tuple[Mapping[fx.Node, Any], Mapping[fx.Node, Any]], batches: tuple[int, int], named: set[int]
) -> Callable[[int], Any]:
    """What an argument is for a number of samples, noting the numbers that it names.

    Raises:
        LookupError: that cannot be told.
    """
    if isinstance(asked, (*SCALARS, str, type(None))):
        named.update([asked] if type(asked) is int else [])
        return lambda n: asked
    if isinstance(asked, (list, tuple)):
        items = [_question(a, values, batches, named) for a in asked]
        return lambda n: [item(n) for item in items]
    if not isinstance(asked, fx.Node):
        raise LookupError(asked)
    if asked.op == "call_method" and asked.target == "size":
        size, other = values[0][asked], values[1][asked]
        if size == other:
            return lambda n: size
        if size * batches[1] != other * batches[0] or size % batches[0]:
            raise LookupError(asked)
        return lambda n: size // batches[0] * n
    if asked.op != "call_function" or asked.kwargs:
        raise LookupError(asked)
    parts, target = [_question(a, values, batches, named) for a in asked.args], asked.target
    return lambda n: target(*(part(n) for part in parts))  # type: ignore[operator]


def place_of(asserted: fx.Node) -> str:
    """What the code asked, and where: ``eq(x.size(0), 1) == False at net.py:18``."""
    text = str(asserted.args[1]).removeprefix("traced for inputs where ")
    source = asserted.meta.get("source", "")
    return f"{text} at {source}" if source else text
