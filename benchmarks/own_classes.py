"""Slim models in the classes of their library: how many families of timm follow with numbers set, with numbers in their code,
or with generated code; and what a plain copy with resized layers would do.

    python benchmarks/own_classes.py                      # the families, at scope=layer
    python benchmarks/own_classes.py --scope global

Each model runs in a process of its own, and its row is appended to ``own_classes.jsonl`` at once; a model that has a row is
skipped, so stop and start as you like. ``own_classes.md`` is made from that file at the end. Images are small where the
model's constructor takes ``img_size`` or its code any size.
"""

from __future__ import annotations

import argparse
import importlib
import json
import multiprocessing
import sys
import time
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import lists
import torch
from coverage import read_rows
from measure import built, code_hash, first_line
from torch import Tensor, nn

HERE = Path(__file__).parent
KEY = ("model", "scope", "ratio")
SMALL = 128  # pixels
# What a row counts as, best first.
KINDS = ("own code", "own code with sizes in it", "generated code", "no slim model")

Row = dict[str, Any]


def main(arguments: list[str] | None = None) -> None:
    """Run what has no row yet, and write the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--list", nargs="+", default=["timm-families"], dest="models", metavar="LIST|MODEL")
    parser.add_argument("--scope", choices=["layer", "global"], default="layer")
    parser.add_argument("--ratio", type=float, default=0.5)
    parser.add_argument("--seconds", type=float, default=600, help="time limit of one model")
    parser.add_argument("--out", type=Path, default=HERE / "results")
    parser.add_argument("--again", choices=["failed", "all"], help="also run models that have a row")
    parser.add_argument("--report", action="store_true", help="run nothing: only write the table")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    for name in ("timm", "fxprune.api", "fxprune.shrinking.verb"):
        importlib.import_module(name)
    options.out.mkdir(parents=True, exist_ok=True)
    store = options.out / "own_classes.jsonl"
    done = read_rows(store, KEY)
    for model in [] if options.report else lists.names(options.models):
        row = done.get(json.dumps([model, options.scope, options.ratio]))
        if row is None or options.again == "all" or (options.again and kind_of(row) != KINDS[0]):
            row = _in_a_process(model, options)
            with store.open("a") as file:
                file.write(json.dumps(row) + "\n")
            print(f"{kind_of(row):26} {row.get('seconds', 0):6.1f} s  {model}  {row.get('failed', '')}", file=sys.stderr)
    text = table([r for r in read_rows(store, KEY).values() if r["scope"] == options.scope])
    (options.out / f"own_classes_{options.scope}.md").write_text(text)
    print(text)


def _in_a_process(model: str, options: argparse.Namespace) -> Row:
    """A process that is forked: what is imported is there at once."""
    row = {"model": model, "scope": options.scope, "ratio": options.ratio, "code": code_hash(HERE.parent)}
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    child = context.Process(target=_child, args=(theirs, model, options.scope, options.ratio))
    child.start()
    theirs.close()
    try:
        found = ours.recv() if ours.poll(options.seconds) else {"failed": f"more than {options.seconds:.0f} s"}
    except EOFError:
        child.join()
        found = {"failed": f"its process ended with {child.exitcode}"}
    child.kill()
    child.join()
    return row | found


def _child(pipe: Any, model: str, scope: str, ratio: float) -> None:
    try:
        pipe.send(trial(model, scope, ratio))
    except Exception as error:
        pipe.send({"failed": f"{type(error).__name__}: {first_line(error)}"[:300]})


def trial(spec: str, scope: Any, ratio: float) -> Row:
    """Prune one model, and have it in its own class."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    import fxprune

    start = time.perf_counter()
    try:
        model, x = built(spec, SMALL)
        slim = fxprune.prune(model, ratio, x, scope=scope, verify=False)
    except Exception:  # images of that size are not for this model
        model, x = built(spec)
        slim = fxprune.prune(model, ratio, x, scope=scope, verify=False)
    pruned = time.perf_counter()
    try:
        made = fxprune.shrink(model, slim)
    except fxprune.PruneError as error:
        return {"failed": first_line(error)[:300], "plain_copy": plain_copy(model, slim, x)}
    own = made.meta["fxprune"].own_class
    return {
        "size": list(x.shape),
        "prune_seconds": round(pruned - start, 1),
        "seconds": round(time.perf_counter() - pruned, 1),
        "numbers": sum(map(len, own.settings.values())),
        "folded": len(own.folded),
        "sized": {name: {k[:80]: str(v)[:20] for k, v in found.items()} for name, found in list(own.sized.items())[:3]},
        "sized_parts": len(own.sized),
        "generated": {name: why[:300] for name, why in list(own.generated.items())[:5]},
        "generated_parts": len(own.generated),
        "error": own.error,
        "calls": len(own.errors),
        "methods": _methods(made, x),
        "plain_copy": plain_copy(model, slim, x),
    }


def _methods(made: nn.Module, x: Tensor) -> bool | None:
    """Whether timm's two halves make the whole, and the head can be replaced; None where the model has no such methods."""
    if not hasattr(made, "forward_features") or not hasattr(made, "forward_head"):
        return None
    try:
        with torch.no_grad():
            x = torch.randn(x.shape)
            same = torch.allclose(made.forward_head(made.forward_features(x)), made(x), atol=1e-4, rtol=1e-3)  # type: ignore[operator]
            made.reset_classifier(7)  # type: ignore[operator]
            return same and made(x).shape[-1] == 7
    except Exception:
        return False


def plain_copy(model: nn.Module, slim: Any, x: Tensor) -> bool:
    """Whether a copy with sliced tensors and resized layers, and nothing else, computes what the slim model does."""
    import copy

    from fxprune.proofs.errors import relative_error
    from fxprune.proofs.randomize import randomize
    from fxprune.shrinking.copying import resized_copy

    slim = randomize(copy.deepcopy(slim)).eval()
    made, x = resized_copy(model, slim).eval(), torch.randn(x.shape)
    try:
        with torch.no_grad():
            return relative_error(made(x), slim(x)) <= 1e-4
    except Exception:
        return False


def kind_of(row: Row) -> str:
    """What a row counts as."""
    if "generated_parts" not in row:
        return KINDS[3]
    return KINDS[2] if row["generated_parts"] else KINDS[1] if row["sized_parts"] else KINDS[0]


def table(rows: list[Row]) -> str:
    """The counts, then a line a model."""
    counts = Counter(map(kind_of, rows))
    lines = [f"{len(rows)} models: " + ", ".join(f"{counts[kind]} {kind}" for kind in KINDS)]
    tried = [r for r in rows if r.get("methods") is not None]
    lines += [f"`forward_head(forward_features(x))` and `reset_classifier`: {sum(r['methods'] for r in tried)} of {len(tried)}"]
    plain = [r for r in rows if "plain_copy" in r]
    lines += [f"A plain copy with resized layers: {sum(r['plain_copy'] for r in plain)} of {len(plain)}", ""]
    lines += ["| model | runs | numbers set | scales folded | parts with sizes in code | generated parts | error | seconds |"]
    lines += ["|---|---|---|---|---|---|---|---|"]
    for r in sorted(rows, key=lambda r: (KINDS.index(kind_of(r)), r["model"])):
        cells = [r["model"], kind_of(r), *(r.get(k, "") for k in ("numbers", "folded", "sized_parts", "generated_parts"))]
        cells += [f"{r['error']:.0e}" if "error" in r else "", r.get("seconds", "")]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
