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


def same_graph(a: Run, b: Run) -> bool:
    """Whether two recordings hold the same operations on the same tensors."""
    if len(a.graph.nodes) != len(b.graph.nodes):
        return False
    table: dict[fx.Node, fx.Node] = {}
    for left, right in zip(a.graph.nodes, b.graph.nodes, strict=True):
        if left.op != right.op or not _same_target(left, right, a.constants, b.constants):
            return False
        if not _same_value((left.args, left.kwargs), (right.args, right.kwargs), table):
            return False
        table[left] = right
    return True


def _same_target(a: fx.Node, b: fx.Node, left: Mapping[str, Tensor], right: Mapping[str, Tensor]) -> bool:
    x, y = left.get(str(a.target)), right.get(str(b.target))
    if a.op == "get_attr" and x is not None and y is not None:
        return x.dtype is y.dtype and x.device == y.device and (x is y or torch.equal(x, y))
    return bool(a.target == b.target)


def _same_value(a: Any, b: Any, table: Mapping[fx.Node, fx.Node]) -> bool:
    if isinstance(a, fx.Node):
        return table.get(a) is b
    if type(a) is not type(b):
        return False
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(_same_value(x, y, table) for x, y in zip(a, b, strict=True))
    if isinstance(a, Mapping):
        return list(a) == list(b) and all(_same_value(a[k], b[k], table) for k in a)
    if isinstance(a, slice):
        return _same_value((a.start, a.stop, a.step), (b.start, b.stop, b.step), table)
    return bool(a == b)
