"""Time of ``fxprune.prune(verify=False)`` beside Torch-Pruning, in turns in one process, on one thread.

    python benchmarks/speed.py [--models torchvision:resnet50 ...] [--repeats 3] [--json]

Building and copying the model is not timed. Torch-Pruning's time is that of its dependency graph, pruner
and step.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import gc
import json
import os
import signal
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from lists import SPEED
from peers import ENVIRONMENT, build_for_peer, installed, prepare
from rich.console import Console
from rich.table import Table

os.environ.update(ENVIRONMENT)  # before timm is imported

import torch
from measure import count_macs, environment, first_line
from torch import nn

import fxprune
from fxprune.inputs.models import load_model
from fxprune.inputs.sizes import infer_example_inputs

Row = dict[str, Any]
Tool = Callable[[], Callable[[], nn.Module]]  # prepares one run, untimed, and returns what is timed

_HEAD = ("model", "fxprune, s", "Torch-Pruning, s", "ratio", "MACs", "MACs, Torch-Pruning")


def main(arguments: list[str] | None = None) -> None:
    """Time every model, print the table, write ``speed.json`` and ``speed.md``."""
    options = _options(arguments)
    torch.set_num_threads(1)
    rows: list[Row] = []
    for spec in options.models:
        rows.append(time_model(spec, options))
        if not options.json:
            model, ours, theirs, ratio, *_ = _cells(rows[-1])
            text = f"{model}: {ours} s, Torch-Pruning {theirs} s, ratio {ratio}"
            Console(stderr=True).print(text, highlight=False, markup=False)
    ratios = [row["ratio"] for row in rows if row["ratio"]]
    document = {
        "settings": {name: getattr(options, name) for name in ("ratio", "scope", "repeats")},
        "environment": environment(),
        "rows": rows,
        "median_ratio": median(ratios) if ratios else None,
        "largest_ratio": max(ratios, default=None),
    }
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "speed.json").write_text(json.dumps(document, indent=1) + "\n")
    (options.out / "speed.md").write_text(_markdown(document))
    if options.json:
        print(json.dumps(document))
    else:
        _show(document)


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    models = parser.add_argument("--models", nargs="+", default=list(SPEED), metavar="MODEL")
    models.help = "timm:NAME or torchvision:NAME"
    parser.add_argument("--repeats", type=int, default=3, help="timed runs of each, after one that is not")
    parser.add_argument("--ratio", type=float, default=0.5)
    parser.add_argument("--scope", choices=["global", "layer"], default="global", help="for both tools")
    parser.add_argument("--seconds", type=float, default=300, help="time limit of one run")
    parser.add_argument("--no-peer", action="store_true", help="leave Torch-Pruning out")
    parser.add_argument("--json", action="store_true", help="print one JSON document and nothing else")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    return parser.parse_args(arguments)


def time_model(spec: str, options: argparse.Namespace) -> Row:
    """Run both tools in turns, each on a fresh copy; one that fails or takes too long is not run again."""
    torch.manual_seed(0)
    model = load_model(spec).eval()
    inputs = infer_example_inputs(model)
    if inputs is None:
        raise SystemExit(f"the inputs of {spec} cannot be inferred")
    errors: dict[str, str] = {}
    seconds: dict[str, list[float]] = {"fxprune": [], "torch_pruning": []}
    macs: dict[str, list[int]] = {}

    def ours() -> Callable[[], nn.Module]:
        fresh = copy.deepcopy(model)
        return partial(fxprune.prune, fresh, options.ratio, inputs, scope=options.scope, verify=False)

    def theirs() -> Callable[[], nn.Module]:
        peer = prepare(spec, copy.deepcopy(base), inputs)
        return partial(peer.run, options.ratio, options.scope == "global")

    tools: dict[str, Tool] = {"fxprune": ours}
    originals = {"fxprune": model}
    if options.no_peer:
        errors["torch_pruning"] = "left out"
    elif not installed():
        errors["torch_pruning"] = "not installed: pip install 'fxprune[bench]'"
    else:
        base = originals["torch_pruning"] = build_for_peer(spec).eval()
        tools["torch_pruning"] = theirs
    for turn in range(options.repeats + 1):
        for tool in [name for name in tools if name not in errors]:
            taken, result = _timed(tools[tool](), options.seconds)
            if isinstance(result, Exception):
                errors[tool] = first_line(result)
            elif turn:
                seconds[tool].append(round(taken, 4))
            else:
                try:
                    macs[tool] = [count_macs(originals[tool], inputs), count_macs(result, inputs)]
                except Exception as error:  # what the tool made does not run
                    errors[tool] = first_line(error)
    row: Row = {"model": spec, "errors": errors, "macs": macs, "seconds": seconds}
    for tool, found in seconds.items():
        row[tool] = median(found) if found and tool not in errors else None
    row["ratio"] = row["fxprune"] / row["torch_pruning"] if row["fxprune"] and row["torch_pruning"] else None
    return row


def _timed(work: Callable[[], nn.Module], limit: float) -> tuple[float, nn.Module | Exception]:
    """Seconds and result of one run; whatever it raises is its result."""
    gc.collect()
    start = time.perf_counter()
    try:
        with warnings.catch_warnings(), _time_limit(limit):
            warnings.simplefilter("ignore")
            result: nn.Module | Exception = work()
    except Exception as error:
        result = error
    return time.perf_counter() - start, result


@contextlib.contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    """Raise TimeoutError in the body after `seconds` (in the main thread, on systems with alarms)."""
    if not hasattr(signal, "setitimer"):
        yield
        return

    def expire(*_: Any) -> None:
        raise TimeoutError(f"more than {seconds:g} s")

    before = signal.signal(signal.SIGALRM, expire)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _cells(row: Row) -> tuple[str, ...]:
    def seconds(tool: str) -> str:
        return f"{row[tool]:.2f}" if row[tool] else row["errors"].get(tool, "")

    def macs(tool: str) -> str:
        before, after = row["macs"].get(tool, (0, 0))
        return f"-{1 - after / before:.0%}" if before else ""

    ratio = f"{row['ratio']:.2f}" if row["ratio"] else ""
    times = (seconds("fxprune"), seconds("torch_pruning"), ratio)
    return (row["model"], *times, macs("fxprune"), macs("torch_pruning"))


def _show(document: dict[str, Any]) -> None:
    table = Table(title=_title(document), caption=_caption(document))
    for number, name in enumerate(_HEAD):
        table.add_column(name, justify="right" if number else "left", overflow="fold")
    for row in document["rows"]:
        table.add_row(*_cells(row))
    Console().print(table)


def _markdown(document: dict[str, Any]) -> str:
    lines = ["| " + " | ".join(_HEAD) + " |", "|---" + "|---:" * (len(_HEAD) - 1) + "|"]
    cells = [[cell.replace("|", "\\|") for cell in _cells(row)] for row in document["rows"]]
    lines += ["| " + " | ".join(row) + " |" for row in cells]
    machine = ", ".join(f"{k} {v}" for k, v in document["environment"].items())
    return f"# {_title(document)}\n\n{machine}\n\n" + "\n".join(lines) + f"\n\n{_caption(document)}\n"


def _title(document: dict[str, Any]) -> str:
    s = document["settings"]
    runs = f"median of {s['repeats']} runs in turns"
    return f"Seconds to prune at {s['ratio']:g}, scope {s['scope']}, one thread, {runs}"


def _caption(document: dict[str, Any]) -> str:
    if document["median_ratio"] is None:
        return "No model was timed with both."
    found = f"median {document['median_ratio']:.2f}, largest {document['largest_ratio']:.2f}"
    return f"Ratio of the times: {found}."


if __name__ == "__main__":
    main()
