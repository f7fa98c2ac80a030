"""Branches that follow values of tensors, where either way the model computes the same: it only warns, or counts.

The first recording answers no. Every other combination of answers is recorded, too; where all come to the same graph, the
branches made no difference.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, fx

from fxprune.errors import TraceError
from fxprune.tracing.graphs.guards import SCALARS

__all__ = ["Questions", "check_either_way", "same_graph"]

_MOST = 3  # questions of one recording: all combinations of answers are tried


class Questions:
    """What the model's code asks of values while it is recorded, and the answers that it gets.

    Attributes:
        answers: to the first questions; no to all others. None in a first recording.
        errors: for each question, the sentence that refuses it.
    """

    def __init__(self, answers: Sequence[bool] | None = None) -> None:
        self.answers = answers
        self.errors: list[TraceError] = []

    def ask(self, error: TraceError) -> bool:
        """The answer to the next question.

        Raises:
            TraceError: there are more than can be tried; `error` itself.
        """
        if len(self.errors) == _MOST:
            raise error
        self.errors.append(error)
        return self.answers is not None and any(self.answers[len(self.errors) - 1 : len(self.errors)])


class Run(Protocol):
    """A recording, as far as two are compared."""

    @property
    def graph(self) -> fx.Graph: ...
    @property
    def constants(self) -> dict[str, Tensor]: ...
    @property
    def values(self) -> Mapping[fx.Node, Any]: ...


def check_either_way(run: Run, questions: Questions, record: Callable[[Questions], Run]) -> bool:
    """Record again with all other answers to the questions of a first recording; whether there were any.

    Raises:
        TraceError: the graph depends on an answer; the error of the first question.
    """
    if questions.answers is not None or not questions.errors:
        return False
    for answers in itertools.islice(itertools.product((False, True), repeat=len(questions.errors)), 1, None):
        try:
            with warnings.catch_warnings():  # of what is not the case
                warnings.simplefilter("ignore")
                same = same_graph(run, record(Questions(answers)))
        except Exception:  # what the model raises then, the slim model would not
            same = False
        if not same:
            raise questions.errors[0]
    return True


def same_graph(a: Run, b: Run, *, narrower: bool = False) -> bool:
    """Whether two recordings hold the same operations on the same tensors.

    Args:
        narrower: the first may assert more of its inputs than the second.
    """
    pending, twins = _on_tensors(b), _Twins(a, b)
    pending.reverse()
    for node in _on_tensors(a):
        if pending and twins.same_node(node, pending[-1]):
            twins.add(node, pending.pop())
        elif not narrower or node.target is not torch._assert:
            return False
    return not pending


def _on_tensors(run: Run) -> list[fx.Node]:
    """All nodes but sizes and what is reckoned from them, which count where they are used."""
    return [n for n in run.graph.nodes if not (n.op.startswith("call_") and _is_reckoned(n, run))]


def _is_reckoned(node: fx.Node, run: Run) -> bool:
    pure = node.target == "size" if node.op == "call_method" else getattr(node.target, "__module__", "") == "_operator"
    return pure and isinstance(run.values.get(node), SCALARS)


class _Twins:
    """Nodes of one recording with those of another that do the same."""

    def __init__(self, left: Run, right: Run) -> None:
        self.left, self.right = left, right
        self._found: set[tuple[fx.Node, fx.Node]] = set()
        self._paired: set[fx.Node] = set()

    def add(self, a: fx.Node, b: fx.Node) -> None:
        self._found.add((a, b))
        self._paired.add(a)

    def same_node(self, a: fx.Node, b: fx.Node) -> bool:
        return a.op == b.op and self._same_target(a, b) and self._same((a.args, a.kwargs), (b.args, b.kwargs))

    def _same_target(self, a: fx.Node, b: fx.Node) -> bool:
        x, y = self.left.constants.get(str(a.target)), self.right.constants.get(str(b.target))
        if a.op == "get_attr" and x is not None and y is not None:
            return x.dtype is y.dtype and x.device == y.device and (x is y or torch.equal(x, y))
        return bool(a.target == b.target)

    def _same(self, a: Any, b: Any) -> bool:
        if isinstance(a, fx.Node):
            return isinstance(b, fx.Node) and self._same_input(a, b)
        if type(a) is not type(b):
            return False
        if isinstance(a, (list, tuple)):
            return len(a) == len(b) and all(map(self._same, a, b))
        if isinstance(a, Mapping):
            return list(a) == list(b) and all(self._same(a[k], b[k]) for k in a)
        if isinstance(a, slice):
            return self._same((a.start, a.stop, a.step), (b.start, b.stop, b.step))
        return bool(a == b)

    def _same_input(self, a: fx.Node, b: fx.Node) -> bool:
        if (a, b) in self._found:
            return True
        if a in self._paired or not (_is_reckoned(a, self.left) and self.same_node(a, b)):
            return False
        self._found.add((a, b))
        return True
