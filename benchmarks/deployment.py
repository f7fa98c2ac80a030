"""What deployment does with dense and slim models, side by side: copies, compilers, exporters, wrappers, precisions.

    python benchmarks/deployment.py                                    # the 98 families of timm, smallest first
    python benchmarks/deployment.py --list timm:resnet18 --again all

Each model has random weights and small images, and three forms: dense, slim (`prune`) and slim in its own class (`shrink`).
Each figure is the relative difference of the outputs from those of the same form in eager PyTorch; a sentence is why there is
none. Each group of checks runs in a process of its own with a time limit. A model's row is appended to ``deployment.jsonl`` as
soon as it is there, and checks that have a result are skipped: stop and start as you like. ``deployment.md`` is made from that.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import resource
import signal
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lists
import torch
from deployment_checks import GROUPS, Result, checked, import_all
from deployment_table import FORMS, table
from measure import built, code_hash, environment, first_line

HERE = Path(__file__).parent
SMALL = 128  # pixels
PACKAGES = ("onnx", "onnxscript", "onnxruntime", "openvino", "torchao")

Row = dict[str, Any]


def main(arguments: list[str] | None = None) -> None:
    """Measure what has no result yet, and write the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--list", nargs="+", default=["timm-families"], dest="models", metavar="LIST|MODEL")
    parser.add_argument("--groups", nargs="+", default=[*GROUPS], choices=[*GROUPS])
    parser.add_argument("--forms", nargs="+", default=[*FORMS], choices=[*FORMS])
    parser.add_argument("--ratio", type=float, default=0.3)
    parser.add_argument("--seconds", type=int, default=300, help="of processor time, for one group of checks on one form")
    parser.add_argument("--again", choices=["failed", "all"], help="also checks that have a result")
    parser.add_argument("--report", action="store_true", help="run nothing: only write the table")
    parser.add_argument("--out", type=Path, default=HERE / "results")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    store = options.out / "deployment.jsonl"
    done = read(store)
    if not options.report:
        import_all()
    for model in [] if options.report else lists.names(options.models):
        known = done.get((model, options.ratio), {"model": model, "ratio": options.ratio, "forms": {}})
        if wanted := _missing(known, options):
            row = _measured(known, wanted, options)
            with store.open("a") as file:
                file.write(json.dumps(row, sort_keys=True) + "\n")
            print(_line(row), file=sys.stderr, flush=True)
    (options.out / "deployment.md").write_text(table([*read(store).values()], environment(PACKAGES)))


def read(store: Path) -> dict[tuple[str, float], Row]:
    """The last row of each model and ratio. A line cut short by an interruption is left out."""
    rows: dict[tuple[str, float], Row] = {}
    for line in store.read_text().splitlines() if store.exists() else ():
        with contextlib.suppress(json.JSONDecodeError):
            row = json.loads(line)
            rows[row["model"], row["ratio"]] = row
    return rows


def _missing(row: Row, options: argparse.Namespace) -> dict[str, list[str]]:
    """The groups to run, by form."""
    found: dict[str, list[str]] = {}
    for form in options.forms:
        had = row["forms"].get(form, {})
        for group in options.groups:
            results = [had.get(name) for name in GROUPS[group]]
            failed = any(r is not None and "why" in r for r in results)
            if options.again == "all" or None in results or (options.again == "failed" and failed):
                found.setdefault(form, []).append(group)
    return found


def _measured(known: Row, wanted: dict[str, list[str]], options: argparse.Namespace) -> Row:
    """A model's row with the results of some groups made anew, or ``failed``."""
    start = time.perf_counter()
    forms: dict[str, dict[str, Result]] = {form: dict(found) for form, found in known["forms"].items()}
    row = {**known, "forms": forms, "code": code_hash(HERE.parent)}
    row.pop("failed", None)
    for name, value in in_a_process(_model, (known["model"], wanted, options), options.seconds):
        if name in FORMS:
            forms.setdefault(name, {}).update(value)
        else:
            row[name] = value
    row["seconds"] = round(time.perf_counter() - start)
    return row


def in_a_process(run: Any, args: tuple[Any, ...], seconds: int) -> Iterator[tuple[str, Any]]:
    """What a forked process sends, pair by pair; ``failed`` and why, if it does not come to its end.

    Its limit is processor time, which other work on the machine does not change; it is stopped after ten times that, too.
    """
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    child = context.Process(target=_child, args=(theirs, run, args, seconds))
    child.start()
    theirs.close()
    end = time.monotonic() + seconds * 10 * (len(GROUPS) if run is _model else 1)
    try:
        while ours.poll(max(end - time.monotonic(), 0)):
            name, value = ours.recv()
            if name == "end":
                return
            yield name, value
        yield "failed", f"more than {seconds * 10} s"
    except EOFError:
        child.join()
        slow = child.exitcode == -signal.SIGXCPU
        yield "failed", f"more than {seconds} s of processor time" if slow else f"its process ended with {child.exitcode}"
    finally:
        child.kill()
        child.join()


def _child(pipe: Any, run: Any, args: tuple[Any, ...], seconds: int) -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 5))
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    try:
        run(lambda name, value: pipe.send((name, value)), *args)
    except Exception as error:
        pipe.send(("failed", first_line(error)[:300]))
    pipe.send(("end", None))


def _model(send: Any, spec: str, wanted: dict[str, list[str]], options: argparse.Namespace) -> None:
    """All of one model: its forms, and a process for each group of checks on each form."""
    import fxprune
    from fxprune.proofs.randomize import randomize

    dense, x = images_for(spec)
    dense = randomize(dense).eval()
    send("size", [*x.shape])
    slim = None if {*wanted} == {"dense"} else fxprune.prune(dense, options.ratio, x, verify=False)
    for form, groups in wanted.items():
        if form == "own":
            try:
                model: Any = fxprune.shrink(dense, slim, verify=False)
            except fxprune.PruneError as error:
                send("own", {name: {"why": f"no own class: {first_line(error)}"} for group in groups for name in GROUPS[group]})
                continue
        else:
            model = dense if form == "dense" else slim
        for group in groups:
            results: dict[str, Result] = {}
            reason = "not reached"
            for name, value in in_a_process(_group, (group, model, x), options.seconds):
                if name == "failed":
                    reason = value
                else:
                    results[name] = value
            send(form, {name: results.get(name, {"why": reason}) for name in GROUPS[group]})


def _group(send: Any, group: str, model: Any, x: Any) -> None:
    checked(group, model, x, send)


def images_for(spec: str) -> tuple[Any, Any]:
    """A model, and two random images as small as it takes them."""
    try:
        model, x = built(spec, SMALL)
    except Exception:  # images of that size are not for this model
        model, x = built(spec)
    return model, torch.randn(2, *x.shape[1:], generator=torch.Generator().manual_seed(0))


def _line(row: Row) -> str:
    bad = {form: [name for name, r in found.items() if "why" in r] for form, found in row["forms"].items()}
    return f"{row['seconds']:5} s  {row['model']}  {row.get('failed', '')} { {form: b for form, b in bad.items() if b} or '' }"


if __name__ == "__main__":
    main()
