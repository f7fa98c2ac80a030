"""Models of ten libraries pruned and checked, one process each, beside Torch-Pruning.

    python benchmarks/libraries.py --jobs 2                     # all of them
    python benchmarks/libraries.py --library transformers       # those of one library
    python benchmarks/libraries.py --model yolov8n gpt2 --again all

Small configurations of the real classes with random weights (`zoo/`); nothing is downloaded. The ratio is 0.5 in every
layer (scope "layer", as in coverage.py, so that no ranking of random weights decides), all other options are the
defaults; the example has a batch of two. Each result is appended to ``libraries.jsonl`` as soon as it is there, and a
model that has one is skipped: stop and start as you like.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import zoo
from coverage import read_rows
from library_table import passed, write_tables
from measure import code_hash, environment
from peers import installed
from rich.console import Console

HERE = Path(__file__).parent
KEY = ("library", "model", "ratio", "scope", "batch")
Row = dict[str, Any]


def main(arguments: list[str] | None = None) -> None:
    """Parse the options, run what has no result yet, write the table."""
    options = _options(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that children are stopped then, too
    options.out.mkdir(parents=True, exist_ok=True)
    store, code = options.out / "libraries.jsonl", code_hash(HERE.parent)
    console = Console(stderr=True)
    done = read_rows(store, KEY)
    jobs = [job for job in _jobs(options, console) if _is_due(done.get(_key(job)), options.again, code)]
    if jobs and not options.report:
        _run_all(jobs, store, options.jobs, code, console)
    for line in write_tables(list(read_rows(store, KEY).values()), options.out, environment(zoo.PACKAGES)):
        console.print(line, highlight=False)


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--library", nargs="+", choices=[*zoo.LIBRARIES], default=[*zoo.LIBRARIES])
    parser.add_argument("--model", nargs="+", default=[], help="only models whose name holds one of these texts")
    parser.add_argument("--exactly", nargs="+", default=[], help="only models of these names", metavar="MODEL")
    parser.add_argument("--jobs", type=int, default=1, help="models at a time, one thread each")
    parser.add_argument("--ratio", type=float, default=0.5)
    parser.add_argument("--scope", choices=["layer", "global"], default="layer")
    parser.add_argument("--batch", type=int, default=2, help="of the example inputs")
    parser.add_argument("--seconds", type=float, default=150, help="time limit of one model")
    parser.add_argument("--no-peer", action="store_true", help="leave Torch-Pruning out")
    parser.add_argument(
        "--again",
        choices=["failed", "stale", "all"],
        help="also run models that have a result: those that failed, those made by other code, or all",
    )
    parser.add_argument("--out", type=Path, default=HERE / "results")
    parser.add_argument("--report", action="store_true", help="run nothing: only write the table")
    return parser.parse_args(arguments)


def _jobs(options: argparse.Namespace, console: Console) -> Iterable[Row]:
    settings = {name: getattr(options, name) for name in ("ratio", "scope", "batch")} | {"limit": options.seconds}
    for library in options.library:
        if find_spec(library) is None:
            console.print(f"{library} is not installed: left out", highlight=False)
            continue
        for model in zoo.entries(library):
            if _is_asked(model, options):
                yield {"library": library, "model": model, **settings, "peer": installed() and not options.no_peer}


def _is_asked(model: str, options: argparse.Namespace) -> bool:
    part = any(text.lower() in model.lower() for text in options.model)
    return part or model in options.exactly or not (options.model or options.exactly)


def _key(row: Row) -> str:
    return json.dumps([row[name] for name in KEY])


def _is_due(row: Row | None, again: str | None, code: str) -> bool:
    if row is None or again == "all":
        return True
    return row.get("code") != code if again == "stale" else again == "failed" and not passed(row)


def _run_all(jobs: list[Row], store: Path, count: int, code: str, console: Console) -> None:
    waiting: queue.SimpleQueue[Row] = queue.SimpleQueue()
    for job in jobs:
        waiting.put(job)
    done: queue.SimpleQueue[Row | None] = queue.SimpleQueue()
    nests = [Nest() for _ in range(min(count, len(jobs)))]
    for nest in nests:
        threading.Thread(target=_serve, args=(nest, waiting, done), daemon=True).start()
    try:
        for number in range(1, len(jobs) + 1):
            row = {**done.get(), "code": code}  # type: ignore[dict-item]
            with store.open("a") as file:
                file.write(json.dumps(row) + "\n")
            console.print(f"{number}/{len(jobs)} {_told(row)}", highlight=False, markup=False)
    finally:
        for nest in nests:
            nest.stop()


def _serve(nest: Nest, waiting: queue.SimpleQueue[Row], done: queue.SimpleQueue[Row | None]) -> None:
    with contextlib.suppress(queue.Empty):
        while True:
            done.put(nest.run(waiting.get_nowait()))


def _told(row: Row) -> str:
    name = f"{row['library']} {row['model']}"
    errors = "; ".join(f"{stage}: {text}" for stage, text in row.get("errors", {}).items())
    return f"{name}: {errors or ('ok' if passed(row) else 'not proved')}"


class Nest:
    """A process of `library_nest.py`, started again where it ends by itself."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    def run(self, job: Row) -> Row:
        """The row of one job."""
        if self._process is None or self._process.poll() is not None:
            environ = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "YOLO_VERBOSE": "False"}
            environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error", "NO_ALBUMENTATIONS_UPDATE": "1"}
            command = [sys.executable, str(HERE / "library_nest.py")]
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=environ,
                text=True,
                start_new_session=True,
            )
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(job) + "\n")
            self._process.stdin.flush()
            return json.loads(self._process.stdout.readline())  # type: ignore[no-any-return]
        except (json.JSONDecodeError, BrokenPipeError):
            return {**job, "errors": {"import": f"the process ended with code {self._process.wait()}"}}

    def stop(self) -> None:
        """End the process; a model that it is trying ends by its limit of time."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()


if __name__ == "__main__":
    main()
