"""Run a function in a forked process with limits of processor time and memory."""

from __future__ import annotations

import contextlib
import math
import multiprocessing
import resource
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from measure import first_line

__all__ = ["limited"]


def limited(work: Callable[[], Any], seconds: float, gib: float) -> Any:
    """What `work` returns, or a line that says what went wrong.

    The child is forked: it has what this process holds, starts at once, and is stopped whatever it is doing. The caller must
    not have run a backward pass (its threads would be missing in the child).

    Args:
        seconds: of processor time.
        gib: of address space on top of what this process has (read from /proc: Linux).
    """
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe(duplex=False)
    child = context.Process(target=_run, args=(work, there, seconds, gib))
    child.start()
    there.close()
    result: Any = None
    with contextlib.suppress(EOFError):
        result = here.recv()
    child.join()
    here.close()
    if result is None:
        return f"over {seconds:g} s" if child.exitcode == -signal.SIGXCPU else f"stopped by signal {-(child.exitcode or 0)}"
    return result


def _run(work: Callable[[], Any], pipe: Connection, seconds: float, gib: float) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(seconds), math.ceil(seconds) + 10))
    with open("/proc/self/statm") as file:
        held = int(file.read().split()[0]) * resource.getpagesize()
    most = held + int(gib * 2**30)
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    try:
        result = work()
    except MemoryError:
        result = f"over {gib:g} GiB"
    except Exception as error:
        text = first_line(error)
        result = f"over {gib:g} GiB" if "allocate memory" in text else text
    pipe.send(result)
    pipe.close()
