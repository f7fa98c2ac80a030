"""What forward writes into Python objects around it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from tests.kinds.base import Case, Written, rows

__all__ = ["CASES"]

COUNT, LOG, TOTALS = 0, [], {"calls": 0}


def _case(name: str, between: Callable[[Any, Tensor], Tensor], refused: str = "", **attributes: Any) -> Case:
    """A model with these attributes; tensors among them are buffers, functions make the value."""

    def make() -> nn.Module:
        model = Written(between)
        for key, value in attributes.items():
            value = value() if callable(value) else value
            model.register_buffer(key, value.clone()) if isinstance(value, Tensor) else setattr(model, key, value)
        return model

    return Case(name, make, rows, refused=refused)


def _average(model: Any, h: Tensor) -> Tensor:
    model.average = 0.9 * model.average + 0.1 * h.detach().mean(0)
    return h + model.average


def _average_in_training(model: Any, h: Tensor) -> Tensor:
    if model.training:
        model.average = torch.lerp(model.average, h.detach().mean(0), 0.1)
    return h - model.average


def _reads_before_it_writes(model: Any, h: Tensor) -> Tensor:
    before = model.average
    model.average = before + h.detach().sum(0)
    return h * before


def _resets(model: Any, h: Tensor) -> Tensor:
    model.average = torch.zeros_like(model.average)
    return h + model.average


def _counts(model: Any, h: Tensor) -> Tensor:
    model.step += 1
    return h


def _goes_by_the_count(model: Any, h: Tensor) -> Tensor:
    model.step += 1
    return h * 2 if model.step > 100 else h


def _multiplies_by_the_count(model: Any, h: Tensor) -> Tensor:
    model.step += 1
    return h * model.step


def _keeps_for_viewing(model: Any, h: Tensor) -> Tensor:
    model.last = h.softmax(1)
    return h * model.last


def _appends(model: Any, h: Tensor) -> Tensor:
    model.history.append(h)
    return h


def _reads_history(model: Any, h: Tensor) -> Tensor:
    model.history.append(h)
    return h + model.history[0]


def _keeps_a_table(model: Any, h: Tensor) -> Tensor:
    if model.table is None or model.table.shape[0] < h.shape[0]:
        model.table = torch.arange(h.shape[0]).unsqueeze(1) * 0.1
    return h + model.table[: h.shape[0]]


def _keeps_tables_by_size(model: Any, h: Tensor) -> Tensor:
    size = h.shape[0]
    if size not in model.tables:
        model.tables[size] = torch.zeros(size, 1)
    return h + model.tables[size]


def _keeps_the_first_input(model: Any, h: Tensor) -> Tensor:
    if model.table is None:
        model.table = h.detach().mean()
    return h + model.table


def _first_call(model: Any, h: Tensor) -> Tensor:
    if model.first:
        model.first = False
        return h * 2
    return h


def _counts_in_globals(model: Any, h: Tensor) -> Tensor:
    global COUNT
    COUNT += 1
    LOG.append(h.shape)
    TOTALS["calls"] += 1
    return h


def _goes_by_a_global(model: Any, h: Tensor) -> Tensor:
    TOTALS["calls"] += 1
    return h if TOTALS["calls"] < 3 else h * 2


def _average_in_a_number(model: Any, h: Tensor) -> Tensor:
    model.level = 0.9 * model.level + 0.1 * h.mean()
    return h * model.level


def _counts_in_the_class(model: Any, h: Tensor) -> Tensor:
    type(model).calls = getattr(type(model), "calls", 0) + 1
    return h


def _counter() -> Callable[[Any, Tensor], Tensor]:
    calls = 0

    def between(model: Any, h: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return h * calls

    return between


def _queue(model: Any, h: Tensor) -> Tensor:
    model.queue.append(h.detach().mean())
    return h * sum(model.queue)


ZEROS = torch.zeros(16)
CASES = [
    _case("a buffer is bound to an average", _average, average=ZEROS),
    _case("a buffer is bound to an average in training", _average_in_training, average=ZEROS),
    _case("a buffer is read before it is bound", _reads_before_it_writes, average=ZEROS),
    _case("a buffer is reset", _resets, average=ZEROS),
    _case("counts calls", _counts, step=0),
    _case("goes by the number of calls", _goes_by_the_count, "keeps 'step' from one call", step=0),
    _case("multiplies by the number of calls", _multiplies_by_the_count, "keeps 'step' from one call", step=1),
    _case("keeps what it shows", _keeps_for_viewing),
    _case("appends to a list", _appends, history=list),
    _case("reads what it appended", _reads_history, r"keeps 'history\.0' from one call", history=list),
    _case("keeps a table", _keeps_a_table, table=None),
    _case("keeps tables by size", _keeps_tables_by_size, tables=dict),
    _case("keeps the first input", _keeps_the_first_input, "keeps 'table' from one call", table=None),
    _case("does otherwise in the first call", _first_call, "keeps 'first' from one call", first=True),
    _case("counts in globals", _counts_in_globals),
    _case("goes by a global", _goes_by_a_global, "keeps 'TOTALS.calls' from one call"),
    _case("averages in a number", _average_in_a_number, "keeps 'level' from one call", level=0.0),
    _case("counts in the class", _counts_in_the_class),
    _case("multiplies by a count in a closure", _counter(), "keeps 'between.calls.cell' from one call"),
    _case("a queue of means", _queue, "keeps 'queue.0' from one call", queue=lambda: deque(maxlen=3)),
]
