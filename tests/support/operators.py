"""The table of operators, put back after a test that writes into it."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Iterator
from contextlib import contextmanager

from fxprune.labels import table

__all__ = ["operators_put_back"]

# Each of these writes a column of the table when it is imported, once: before anything is remembered.
WRITERS = (
    "passes.arguments",
    "passes.resize_leaves",
    "statistics.kinds",
    "tracing.labelling.quick_leaves",
    "tracing.labelling.quick_shapes",
)


@contextmanager
def operators_put_back() -> Iterator[None]:
    """Inside, rules and repairs may be registered; afterwards the table is what it was."""
    table.names()  # loads the package's rules
    for writer in WRITERS:
        importlib.import_module(f"fxprune.{writer}")
    before = {key: dataclasses.replace(entry) for key, entry in table._OPERATORS.items()}
    try:
        yield
    finally:
        table._OPERATORS.clear()
        table._OPERATORS.update(before)
        table._FOUND.clear()
