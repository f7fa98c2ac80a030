"""Python's garbage collector waits while a model is recorded, rewritten or proved.

These make some hundred thousand objects, nearly all of which are needed to the end or go when nothing refers to them any
more. To look for circles among them over and over again, and now and then among all objects of the process, takes a quarter
of the time of `fxprune.prune`, and finds nothing. What circles there are go with the first collection afterwards, for all of
them are young then.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["uncollected"]

_lock = threading.Lock()
_inside = 0
_enabled = False  # before the first of those who are inside


@contextmanager
def uncollected() -> Iterator[None]:
    """Inside, no garbage is collected, in any thread; where it was not before, it is not afterwards.

    >>> import gc
    >>> with uncollected():
    ...     gc.isenabled()
    False
    >>> gc.isenabled()
    True
    """
    global _inside, _enabled
    with _lock:
        if not _inside:
            _enabled = gc.isenabled()
            gc.disable()
        _inside += 1
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if not _inside and _enabled:
                gc.enable()
