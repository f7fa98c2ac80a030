"""The source of saved models: how long it is, whether it computes what the model does, and what checkers say of it.

Each model is pruned with fresh weights and written in both forms, with classes and as one forward. Each file runs in a fresh
process where timm, torchvision, fxprune and others cannot be imported; its outputs and the names of its state must be the slim
model's, and these names the original's. ``ruff format --check`` and ``ruff check`` run with ruff's defaults, mypy with
``--strict``. Lines are those of classes and tables: what loads the weights, imports and header do not count.
``results/sources.jsonl`` keeps a line for each model, and what is there is skipped, so the command can be stopped at any time;
``results/sources.md`` is its table.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lists

Row = dict[str, Any]
Saved = tuple[Path, Any, tuple[Any, ...]]  # a file, what it was written from, and inputs of that
BATCH = 12  # models whose files go to the checkers together: a checker takes long to start
RESULTS = Path(__file__).parent / "results"
FORMS = {"classes": "with classes", "flat": "as one forward"}
CHECKS = {
    "layout": ["ruff", "format", "--isolated", "--check"],
    "lint": ["ruff", "check", "--isolated"],
    "types": ["mypy", "--strict", "--scripts-are-modules"],
}


def main(arguments: list[str] | None = None) -> None:
    """Measure what is missing, then write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=["timm-families"], help=f"{', '.join(lists.LISTS)}, or timm:NAME ...")
    parser.add_argument("--ratio", type=float, default=0.3, help="of the channels that go (default 0.3)")
    parser.add_argument("--limit", type=int, default=500, help="million parameters that a model may have (default 500)")
    parser.add_argument("--store", type=Path, default=RESULTS / "sources.jsonl")
    parser.add_argument("--keep", type=Path, help="a folder for the sources themselves")
    options = parser.parse_args(arguments)
    known = read(options.store)
    counts = lists.sizes()
    todo = [s for s in lists.names(options.models) if s not in known and counts.get(s, 0) <= options.limit * 1_000_000]
    with tempfile.TemporaryDirectory() as work:
        for start in range(0, len(todo), BATCH):
            folder = (options.keep or Path(work)) / str(start)
            folder.mkdir(parents=True)
            saved: list[Saved] = []
            rows = {spec: measured(spec, options.ratio, folder, saved) for spec in todo[start : start + BATCH]}
            run(rows, saved)
            check([*rows.values()], folder, Path(work) / "mypy")
            print(*rows.values(), sep="\n", flush=True)
            known |= rows
            with open(options.store, "a") as file:
                file.writelines(json.dumps(row) + "\n" for row in rows.values())
    options.store.with_suffix(".md").write_text(table([*known.values()]))


def read(store: Path) -> dict[str, Row]:
    """The rows of earlier runs, by model."""
    lines = store.read_text().splitlines() if store.exists() else []
    return {row["model"]: row for row in map(json.loads, lines)}


def measured(spec: str, ratio: float, folder: Path, saved: list[Saved]) -> Row:
    """The row of one model; ``error`` where it cannot be pruned or written. Its files are added to `saved`."""
    import torch

    import fxprune
    from fxprune.codegen.source_files import SourceFiles
    from fxprune.inputs.models import load_model

    class Flat(SourceFiles):
        classes = False

    row: Row = {"model": spec}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.manual_seed(0)
            model = load_model(spec)
            inputs = torch.randn(2, *(getattr(model, "default_cfg", None) or {}).get("input_size", (3, 224, 224)))
            slim = fxprune.prune(model.eval(), ratio, inputs, verify=False)
            row["names"] = [*slim.state_dict()] == [*model.state_dict()]
            del model
            for form, writer in (("classes", SourceFiles()), ("flat", Flat())):
                start = time.process_time()
                file = writer.write(slim, folder / name_of(spec, form))
                row[f"{form}_seconds"] = round(time.process_time() - start, 2)
                text = file.read_text()
                row[f"{form}_lines"], row[form] = len(model_lines(text)), {}
                why = [line for line in text.splitlines() if line.startswith("Written as one forward")]
                row |= {"why_flat": why[0]} if why else {}
                saved.append((file, slim, (inputs,)))
    except Exception as error:
        row["error"] = f"{type(error).__name__}: {error!s:.200}"
    return row


def run(rows: Mapping[str, Row], saved: Sequence[Saved]) -> None:
    """Add how files fail in a process that has torch alone to the rows of their models."""
    from fxprune.codegen.roundtrip import check_files

    for (file, *_), problem in zip(saved, check_files(saved), strict=True):
        for spec in rows:
            for form in FORMS:
                if problem and file.name == name_of(spec, form):
                    rows[spec][form]["round trip"] = f"{problem:.300}"
        file.with_suffix(".safetensors").unlink()


def check(rows: list[Row], folder: Path, cache: Path) -> None:
    """Add what the checkers say of the files in a folder to the rows of their models."""
    for name, command in CHECKS.items():
        files = sorted(path.name for path in folder.glob("*.py"))
        kept = ["--cache-dir", str(cache)] if command[0] == "mypy" else []
        done = subprocess.run([sys.executable, "-m", *command, *kept, *files], cwd=folder, capture_output=True, text=True)
        said = (done.stdout + done.stderr).splitlines() if done.returncode else []
        for row in rows:
            for form in FORMS:
                own = [line for line in said if name_of(row["model"], form) in line]
                if own and form in row:
                    row[form][name] = f"{len(own)}: {own[0]:.200}"
        if said and not any(name in row.get(form, {}) for row in rows for form in FORMS):
            raise SystemExit(f"{' '.join(command)} fails: {said[:5]}")


def name_of(spec: str, form: str) -> str:
    """The file of a model in one of the forms."""
    return f"{spec.replace(':', '_')}_{form}.py"


def model_lines(source: str) -> list[str]:
    """The lines of the classes and tables: what stands between the imports and the functions that load."""
    return source.split("\nfrom torch import nn\n", 1)[1].split("\ndef slim_", 1)[0].strip().splitlines()


def table(rows: list[Row]) -> str:
    """The page of results."""
    done = sorted((r for r in rows if "error" not in r), key=share)
    text = ["# Source of saved models\n"]
    if done:
        shares = [share(row) for row in done]
        text.append(
            f"{len(done)} models with 30 % of their channels gone. The form with classes takes a median of "
            f"{statistics.median(shares):.0%} of the lines of one flat forward (from {min(shares):.0%} to {max(shares):.0%}), "
            f"{statistics.median(row['classes_lines'] for row in done):.0f} lines at the median; "
            f"{sum('why_flat' in row for row in done)} models are written flat; "
            f"{sum(row['names'] for row in done)} have the names of the original in their state, all and in their order. "
            f"{len(rows) - len(done)} could not be pruned or written.\n"
        )
        text += [
            "| files without a complaint | of | round trip | ruff format | ruff check | mypy --strict |",
            "|---|---|---|---|---|---|",
        ]
        for form, title in FORMS.items():
            clean = [sum(check not in row[form] for row in done) for check in ("round trip", *CHECKS)]
            text.append(f"| {title} | {len(done)} | {' | '.join(map(str, clean))} |")
        text.append("")
    text += ["| model | one forward | with classes | share | seconds | |", "|---|---|---|---|---|---|"]
    for row in done:
        said = [row.get("why_flat", "").partition(": ")[2]]
        said += [f"{FORMS[form]}: {check}" for form in FORMS for check in row[form]]
        what = "; ".join(filter(None, said)).replace("|", "/").replace("\n", " ")
        lines = f"{row['flat_lines']} | {row['classes_lines']} | {share(row):.0%} | {row['classes_seconds']}"
        text.append(f"| {row['model']} | {lines} | {what:.200} |")
    return "\n".join([*text, *(f"| {row['model']} | | | | | {row['error']:.120} |" for row in rows if "error" in row)]) + "\n"


def share(row: Row) -> float:
    """Lines with classes, of those of the flat form."""
    return float(row["classes_lines"] / row["flat_lines"])


if __name__ == "__main__":
    main()
