"""A process that imports libraries once and forks one child a model: importing takes longer than most models do.

Lines of standard input are jobs as JSON; each is answered by one line of standard output, the finished row.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from zoo.torchaudio_import import import_torchaudio

__all__ = ["answer"]

_POLL = 0.05  # seconds between looks at a child
Row = dict[str, Any]


def main() -> None:
    """Answer jobs until the input ends."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    import_torchaudio()
    _warm_up()
    for line in sys.stdin:
        job = json.loads(line)
        try:
            _import(job["library"])
        except ImportError as error:
            row = {**job, "errors": {"import": f"{type(error).__name__}: {error}"[:300]}}
        else:
            row = answer(job, _try)
        answers.write(json.dumps(row) + "\n")
        answers.flush()


def _warm_up() -> None:
    """Import what pruning imports when it first needs it."""
    import fxprune

    model, inputs = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2)), torch.zeros(2, 4)
    fxprune.verify(model, fxprune.prune(model, 0.5, inputs), inputs, latency=False)


def _import(library: str) -> None:
    """What every child of this library needs, so that it is there when they start."""
    import_of = {"torch": ("torch.nn",), "ultralytics": ("ultralytics.nn.tasks",), "monai": ("monai.networks.nets",)}
    for name in ("library_trial", "torch_pruning", *import_of.get(library, (library,))):
        with contextlib.suppress(ImportError if name == "torch_pruning" else ()):
            importlib.import_module(name)


def _try(job: Row, events: Path) -> None:
    from library_trial import try_model

    try_model(job, events)


def answer(job: Row, work: Callable[[Row, Path], None]) -> Row:
    """Run `work` in a forked child, stopped after ``job["limit"]``; the row is what it wrote down."""
    with tempfile.TemporaryDirectory() as folder:
        events = Path(folder) / "events.jsonl"
        start = time.monotonic()
        sys.stdout.flush()
        child = os.fork()
        if not child:
            _live(job, events, work)
        code = _wait(child, start + job["limit"])
        row: Row = {**job, "total_seconds": round(time.monotonic() - start, 1)}
        for line in events.read_text().splitlines() if events.exists() else ():
            row.update(json.loads(line))
    if not row.pop("done", False):
        reason = f"more than {job['limit']:g} s" if code is None else _ending(code)
        row.setdefault("errors", {})[row.get("stage", "start")] = reason
    row.pop("stage", None)
    return row


def _live(job: Row, events: Path, work: Callable[[Row, Path], None]) -> None:
    """The life of a child."""
    code = 1
    try:
        os.setsid()  # so that what it starts can be stopped with it
        work(job, events)
        code = 0
    finally:
        os._exit(code)


def _wait(child: int, deadline: float) -> int | None:
    """The status that a child ended with; None of one that was stopped."""
    while time.monotonic() < deadline:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return status
        time.sleep(_POLL)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def _ending(status: int) -> str:
    """How a process ended that did not finish."""
    if os.WIFSIGNALED(status):
        return f"the interpreter died of signal {os.WTERMSIG(status)}"
    return f"the process ended with code {os.WEXITSTATUS(status)}"


if __name__ == "__main__":
    main()
