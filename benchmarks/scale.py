"""Time and memory of fxprune on models of about a billion parameters, one process a measurement, on one thread.

    python benchmarks/scale.py [--models timm:vit_giant_patch14_224 ...] [--json]

``analyze`` runs on a model that was built on the meta device; its memory is that of the whole process. ``prune`` runs on
real random weights; its memory is what it needs at most above the loaded model, in units of the model's weights.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from measure import environment, memory, reset_peak
from rich.console import Console

import fxprune
from fxprune.inputs.models import load_model

MODELS = ("timm:vit_giant_patch14_224", "timm:eva_giant_patch14_224")
GIB = 2**30
_HEAD = ("model", "parameters", "analyze, s", "process, GiB", "prune, s", "above the model, x weights", "parameters after")

Row = dict[str, Any]


def main(arguments: list[str] | None = None) -> None:
    """Measure every model, print the table, write ``scale.json`` and ``scale.md``."""
    options = _options(arguments)
    if options.child:
        print(json.dumps({"analyze": analyze, "prune": prune}[options.child](options.models[0])))
        return
    rows: list[Row] = []
    for model in options.models:
        row: Row = {"model": model}
        for work in ("analyze", "prune"):
            done = subprocess.run(
                [sys.executable, __file__, "--models", model, "--child", work], capture_output=True, text=True
            )
            if done.returncode:
                raise SystemExit(f"{model}: {work} failed: {done.stderr.strip()[-500:]}")
            row |= json.loads(done.stdout.splitlines()[-1])
        rows.append(row)
    document = {"environment": environment(), "rows": rows}
    text = _markdown(document)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "scale.json").write_text(json.dumps(document, indent=1) + "\n")
    (options.out / "scale.md").write_text(text)
    if options.json:
        print(json.dumps(document))
    else:
        Console().print(text, highlight=False, markup=False, soft_wrap=True)


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--models", nargs="+", default=list(MODELS), metavar="MODEL", help="timm:NAME or torchvision:NAME")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--child", choices=["analyze", "prune"], help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def analyze(model: str) -> Row:
    """Analyze a model on the meta device."""
    _quiet()
    with torch.device("meta"):
        net = load_model(model).eval()
    start = time.perf_counter()
    found = fxprune.analyze(net, attention="both")
    seconds = time.perf_counter() - start
    return {
        "parameters": sum(p.numel() for p in net.parameters()),
        "free_groups": len(found.free),
        "analyze_seconds": round(seconds, 2),
        "process_gib": round(memory()[1] / GIB, 2),
    }


def prune(model: str) -> Row:
    """Prune a model with weights to half of every group."""
    _quiet()
    net = load_model(model).eval()
    weights = sum(p.numel() * p.element_size() for p in net.parameters())
    before, _ = memory()
    reset_peak()
    start = time.perf_counter()
    slim = fxprune.prune(net, 0.5, attention="both", verify=False)
    seconds = time.perf_counter() - start
    return {
        "prune_seconds": round(seconds, 2),
        "above_model": round((memory()[1] - before) / weights, 3),
        "parameters_after": sum(p.numel() for p in slim.parameters()),
    }


def _quiet() -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")


def _markdown(document: Row) -> str:
    lines = ["# Scale\n", ", ".join(f"{k} {v}" for k, v in document["environment"].items()) + "\n"]
    lines += ["| " + " | ".join(_HEAD) + " |", "|---" + "|---:" * (len(_HEAD) - 1) + "|"]
    for row in document["rows"]:
        cells = (
            row["model"],
            f"{row['parameters'] / 1e9:.2f} B",
            f"{row['analyze_seconds']:.1f}",
            f"{row['process_gib']:.2f}",
            f"{row['prune_seconds']:.1f}",
            f"{row['above_model']:.2f}",
            f"{row['parameters_after'] / 1e9:.2f} B",
        )
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
