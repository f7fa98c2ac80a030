"""Every model pruned and checked, one process each, beside Torch-Pruning.

    python benchmarks/coverage.py --list families --scope layer            # ours
    python benchmarks/coverage.py --list families --scope layer --peer     # and Torch-Pruning

Each result is appended to ``coverage.jsonl`` as soon as it is there, and a model that has one is skipped:
stop and start as you like. ``coverage.json`` and ``coverage.md`` are made from that file at the end.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import lists
from measure import code_hash, environment
from peers import ENVIRONMENT
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from table import passed, write_tables

HERE = Path(__file__).parent
KEY = ("tool", "model", "ratio", "scope", "attention")
_POLL = 0.2  # seconds between looks at a child's memory
_running: set[subprocess.Popen[bytes]] = set()  # children of this process, to be stopped with it

Row = dict[str, Any]


def main(arguments: list[str] | None = None) -> None:
    """Parse the options, run what has no result yet, write the tables."""
    options = _options(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that children are stopped then, too
    options.out.mkdir(parents=True, exist_ok=True)
    store = options.out / "coverage.jsonl"
    code = code_hash(HERE.parent)
    done = read(store)
    jobs = [job for job in _jobs(options) if _is_due(done.get(key(job)), options.again, code)]
    console = Console(stderr=True)
    if jobs and not options.report:
        _run_all(jobs, store, options, code, console)
    written = write_tables(list(read(store).values()), options.out, environment())
    for line in written:
        console.print(line, highlight=False)


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument(
        "--list",
        nargs="+",
        default=["families"],
        metavar="LIST|MODEL",
        dest="models",
        help=f"{', '.join(lists.LISTS)}, or names such as timm:resnet50 (default: families)",
    )
    parser.add_argument("--scope", choices=["layer", "global"], default="layer")
    parser.add_argument("--attention", choices=["head_dim", "heads", "both", "none"], default="head_dim")
    parser.add_argument("--ratio", type=float, default=0.5)
    parser.add_argument("--peer", action="store_true", help="run Torch-Pruning too")
    parser.add_argument("--workers", type=int, default=1, help="models at a time, one thread each")
    parser.add_argument("--seconds", type=float, default=600, help="time limit of one model and one tool")
    parser.add_argument("--memory", type=float, default=12, help="memory limit likewise, in GiB")
    parser.add_argument(
        "--again",
        choices=["failed", "stale", "all"],
        help="also run models that have a result: those that failed, those made by other code, or all",
    )
    parser.add_argument("--out", type=Path, default=HERE / "results")
    parser.add_argument("--report", action="store_true", help="run nothing: only write the tables")
    return parser.parse_args(arguments)


def key(row: Row) -> str:
    """What identifies a result: a later one with the same key replaces it."""
    return json.dumps([row[name] for name in KEY])


def read(store: Path) -> dict[str, Row]:
    """The last result of every key."""
    return read_rows(store, KEY)


def read_rows(store: Path, names: Sequence[str]) -> dict[str, Row]:
    """The last row of every key, which is what a row holds under `names`. A line cut short by an interruption is left out."""
    rows: dict[str, Row] = {}
    for line in store.read_text().splitlines() if store.exists() else ():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue
        rows[json.dumps([row[name] for name in names])] = row
    return rows


def _jobs(options: argparse.Namespace) -> Iterable[Row]:
    for model in lists.names(options.models):
        job = {"model": model, "ratio": options.ratio, "scope": options.scope}
        yield {"tool": "fxprune", **job, "attention": options.attention}
        if options.peer:
            yield {"tool": "torch-pruning", **job, "attention": "head_dim"}


def _is_due(row: Row | None, again: str | None, code: str) -> bool:
    if row is None or again == "all":
        return True
    if again == "stale":
        return row["tool"] == "fxprune" and row.get("code") != code
    return again == "failed" and row["tool"] == "fxprune" and not passed(row)


def _run_all(jobs: list[Row], store: Path, options: argparse.Namespace, code: str, console: Console) -> None:
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    pool = ThreadPoolExecutor(options.workers)
    with Progress(*columns, console=console) as progress, pool:
        task = progress.add_task("", total=len(jobs))
        futures = [pool.submit(run_one, job, options.seconds, options.memory * 2**30) for job in jobs]
        try:
            for future in as_completed(futures):
                row = {**future.result(), "code": code}
                with store.open("a") as file:
                    file.write(json.dumps(row) + "\n")
                progress.update(task, advance=1, description=f"{row['tool']} {row['model']}")
                if not passed(row):
                    progress.console.print(_complaint(row), highlight=False, markup=False)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for child in list(_running):
                _stop(child)
            raise


def _complaint(row: Row) -> str:
    errors = "; ".join(f"{stage}: {text}" for stage, text in row.get("errors", {}).items())
    found = f"permutation {row.get('permutation_error')}, masked {row.get('masked_error')}"
    return f"{row['tool']} {row['model']}: {errors or found}"


def run_one(job: Row, seconds: float, limit: float) -> Row:
    """Run one model in a process of its own, stopped when it takes more than `seconds` or `limit` bytes."""
    with tempfile.TemporaryDirectory() as folder:
        events = Path(folder) / "events.jsonl"
        environ = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        if job["tool"] == "torch-pruning":
            environ.update(ENVIRONMENT)
        start = time.monotonic()
        with (Path(folder) / "output").open("w+") as output:
            child = subprocess.Popen(
                [sys.executable, str(HERE / "one_model.py"), str(events), json.dumps(job)],
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environ,
                start_new_session=True,
            )
            _running.add(child)
            try:
                stopped = _watch(child, start + seconds, seconds, limit)
            finally:
                _stop(child)
                _running.discard(child)
            output.seek(0)
            said = output.read().strip().splitlines()
        row: Row = {**job, "total_seconds": round(time.monotonic() - start, 1)}
        for line in events.read_text().splitlines() if events.exists() else ():
            row.update(json.loads(line))
    if not row.pop("done", False):
        stage = row.get("stage", "start")
        reason = stopped or f"the process ended with code {child.returncode}: {said[-1] if said else ''}"
        row.setdefault("errors", {})[stage] = reason
    row.pop("stage", None)
    return row


def _watch(child: subprocess.Popen[bytes], deadline: float, seconds: float, limit: float) -> str:
    """Wait for a child; return why it must be stopped, or an empty string."""
    while child.poll() is None:
        if time.monotonic() > deadline:
            return f"timeout: more than {seconds:g} s"
        if _resident(child.pid) > limit:
            return f"memory: more than {limit / 2**30:g} GiB"
        time.sleep(_POLL)
    return ""


def _resident(pid: int) -> int:
    """Resident bytes of a process, by /proc; 0 where there is none."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def _stop(child: subprocess.Popen[bytes]) -> None:
    """End a child and what it started (they share its session)."""
    if child.poll() is None:
        with contextlib.suppress(ProcessLookupError):  # it ended between the two lines
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()


if __name__ == "__main__":
    main()
