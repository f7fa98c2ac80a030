"""How long is the source of a saved model? Lines of its flat form (one forward) beside those of the form with classes.

Each model is pruned with fresh weights; lines of what loads the weights, of the imports and of the header do not count.
``results/source_lines.jsonl`` keeps a line for each model and what is there is skipped, so the command can be stopped at any
time; ``results/source_lines.md`` is its table.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
import warnings
from pathlib import Path
from typing import Any

import lists

Row = dict[str, Any]
RESULTS = Path(__file__).parent / "results"


def main(arguments: list[str] | None = None) -> None:
    """Measure what is missing, then write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=["timm-families"], help=f"{', '.join(lists.LISTS)}, or timm:NAME ...")
    parser.add_argument("--ratio", type=float, default=0.3, help="of the channels that go (default 0.3)")
    parser.add_argument("--limit", type=int, default=60, help="million parameters that a model may have (default 60)")
    parser.add_argument("--store", type=Path, default=RESULTS / "source_lines.jsonl")
    parser.add_argument("--keep", type=Path, help="a folder for the sources themselves")
    options = parser.parse_args(arguments)
    known = read(options.store)
    counts = lists.sizes()
    for spec in lists.names(options.models):
        if spec in known or counts.get(spec, 0) > options.limit * 1_000_000:
            continue
        known[spec] = row = measured(spec, options.ratio, options.keep)
        print(row, flush=True)
        with open(options.store, "a") as file:
            file.write(json.dumps(row) + "\n")
    options.store.with_suffix(".md").write_text(table([*known.values()]))


def read(store: Path) -> dict[str, Row]:
    """The rows of earlier runs, by model."""
    lines = store.read_text().splitlines() if store.exists() else []
    return {row["model"]: row for row in map(json.loads, lines)}


def measured(spec: str, ratio: float, keep: Path | None = None) -> Row:
    """The row of one model; ``error`` where it cannot be pruned or written."""
    import torch

    import fxprune
    from fxprune.codegen.source import source_of
    from fxprune.codegen.source_files import generated
    from fxprune.inputs.models import load_model

    row: Row = {"model": spec}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.manual_seed(0)
            model = load_model(spec)
            size = (getattr(model, "default_cfg", None) or {}).get("input_size", (3, 224, 224))
            slim = fxprune.prune(model.eval(), ratio, torch.randn(2, *size), verify=False)
            start = time.perf_counter()
            source, _ = generated(slim)
            row["seconds"] = round(time.perf_counter() - start, 2)
        row["flat"], row["lines"] = len(model_lines(source_of(slim))), len(model_lines(source))
        note = [line for line in source.splitlines() if line.startswith("Written as one forward")]
        row |= {"why_flat": note[0]} if note else {}
        if keep is not None:
            keep.mkdir(parents=True, exist_ok=True)
            (keep / f"{spec.replace(':', '_')}.py").write_text(source)
    except Exception as error:
        row["error"] = f"{type(error).__name__}: {error!s:.200}"
    return row


def model_lines(source: str) -> list[str]:
    """The lines of the classes and tables: what stands between the imports and the functions that load."""
    return source.split("\nfrom torch import nn\n", 1)[1].split("\ndef slim_", 1)[0].strip().splitlines()


def table(rows: list[Row]) -> str:
    """The page of results."""
    done = sorted((r for r in rows if "lines" in r), key=lambda r: r["lines"] / r["flat"])
    failed = [r for r in rows if "error" in r]
    shares = [r["lines"] / r["flat"] for r in done]
    flat = [r for r in done if "why_flat" in r]
    text = [
        "# Lines of generated source\n",
        f"{len(done)} models with 30 % of their channels gone; the form with classes takes a median of "
        f"{statistics.median(shares):.0%} of the lines of the flat form (from {min(shares):.0%} to {max(shares):.0%}); "
        f"{len(flat)} are written flat; {len(failed)} could not be pruned or written.\n"
        if done
        else "Nothing was measured.\n",
        "| model | flat | with classes | share | |",
        "|---|---|---|---|---|",
    ]
    for row in done:
        why = row.get("why_flat", "").partition("would not do the same: ")[2].replace("|", "/")
        text.append(f"| {row['model']} | {row['flat']} | {row['lines']} | {row['lines'] / row['flat']:.0%} | {why:.120} |")
    return "\n".join([*text, *(f"| {row['model']} | | | | {row['error']:.120} |" for row in failed)]) + "\n"


if __name__ == "__main__":
    main()
