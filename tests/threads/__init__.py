"""A table of tests, each under the threads that it answers. `test_threads` runs them."""

from __future__ import annotations

from importlib import import_module

from threads.base import THREADS, thread

__all__ = ["FAMILIES", "THREADS", "thread"]

FAMILIES = "saving shapes silence coupling outputs tracing".split()

for _family in FAMILIES:
    import_module(f"threads.{_family}")
