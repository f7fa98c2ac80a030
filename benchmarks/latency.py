"""Is latency predicted, met, and worth a budget of its own? Six networks, eager PyTorch and ONNX Runtime, on the CPU.

    python benchmarks/latency.py [--parts plans targets] [--models timm:convnext_tiny ...] [--engines eager onnxruntime]
                                 [--plans 17] [--samples 24] [--size 128] [--threads 1] [--out FOLDER]

To be run on a machine that does nothing else. Weights are fresh, and scores are drawn (log-normal, as unequal as those of
trained networks): neither changes the time.

``plans``: random plans that the tables were not learnt from (half of them multiples of 8), predicted against measured. A table
is learnt from `--samples` other random designs of the same network, whole models among them; the plans judge it.

``targets``: `latency` of 0.7 and 0.5, with ``round_to="auto"``: what the slim model takes as a share of what was asked; and, at
equal measured time, the saliency that is kept beside a plan under `macs` with the same multiples (between two plans of such
budgets, measured on either side, it is interpolated).

Dense and slim models are timed in turns; a time is the mean of the middle half. Rows are appended to ``latency.jsonl`` as they
come, and what is there, tables included, is not measured again.
"""

from __future__ import annotations

import argparse
import json
import math
import time
import warnings
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measure import environment, first_line
from torch import nn

import fxprune
from fxprune.analysis.analysis import Analysis
from fxprune.inputs.models import load_model
from fxprune.profiling.designs import gone_of
from fxprune.profiling.engines.registry import engine_of
from fxprune.profiling.measuring import Bench
from fxprune.profiling.predicted import Predicted
from fxprune.profiling.segments import segments_of
from fxprune.profiling.steps import step_of
from fxprune.profiling.table import LatencyTable

__all__ = ["main", "table"]

Row = dict[str, Any]

TARGETED = """
    torchvision:resnet50 torchvision:mobilenet_v3_large torchvision:efficientnet_b0 timm:vit_small_patch16_224
""".split()
MODELS = [*TARGETED, "torchvision:densenet121", "timm:convnext_tiny"]
ENGINES = ["eager", "onnxruntime"]
TARGETS = [0.7, 0.5]
NEAR = 0.1
_TRIES = 4  # plans under `macs` until two lie on either side


def main(arguments: list[str] | None = None) -> None:
    """Measure what is missing, write ``latency.json`` and ``latency.md``."""
    options = _options(arguments)
    torch.set_num_threads(options.threads)
    options.out.mkdir(parents=True, exist_ok=True)
    log = options.out / "latency.jsonl"
    rows = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    seen = {_key(row) for row in rows}
    for name in options.models:
        for engine in options.engines:
            for row in _rows(name, engine, options, seen):
                with log.open("a") as file:
                    file.write(json.dumps(row) + "\n")
                rows.append(row)
                print(_told(row), flush=True)
    settings = {key: getattr(options, key) for key in ("samples", "size", "threads")}
    document = {"environment": environment(["onnx", "onnxruntime"]), "settings": settings, "rows": rows}
    (options.out / "latency.json").write_text(json.dumps(document, indent=1) + "\n")
    (options.out / "latency.md").write_text("\n".join(table(rows)) + "\n")
    print(f"wrote {options.out / 'latency.md'}")


def _key(row: Row) -> tuple[Any, ...]:
    return tuple(row.get(name) for name in ("part", "model", "engine", "number", "target"))


def _rows(name: str, engine: str, options: argparse.Namespace, seen: set[tuple[Any, ...]]) -> Iterator[Row]:
    """What is missing of one network on one engine."""
    base = {"model": name, "engine": engine}
    wanted = [{"part": "plans", **base, "number": n} for n in range(options.plans) if "plans" in options.parts]
    if "targets" in options.parts and name in TARGETED:
        wanted += [{"part": "targets", **base, "target": target} for target in TARGETS]
    wanted = [row for row in wanted if _key(row) not in seen]
    if not wanted:
        return
    trial, why = None, ""
    try:
        trial = _Trial(name, engine, options)
    except Exception as error:
        why = first_line(error)
    for row in wanted:
        yield {**row, **({"error": why} if trial is None else _measured(trial, row))}


def _measured(trial: _Trial, row: Row) -> Row:
    try:
        return trial.plan(row["number"]) if row["part"] == "plans" else trial.target(row["target"])
    except Exception as error:
        return {"error": first_line(error)}


class _Trial:
    """One network on one engine, with its table."""

    def __init__(self, name: str, engine: str, options: argparse.Namespace) -> None:
        torch.manual_seed(0)
        self.name, self.model = name, _built(name, options.size).eval()
        self.example = torch.zeros(1, 3, options.size, options.size)
        start = time.perf_counter()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.table: LatencyTable = fxprune.profile(
                self.model,
                self.example,
                engine=engine,
                threads=options.threads,
                samples=options.samples,
                cache=options.out / "latency-tables",
                told=lambda sentence, done, total: None if done else print(f"{name}: {sentence}", flush=True),
            )
            self.analysis: Analysis = fxprune.analyze(self.model, self.example)
        print(f"{name}, {engine}: table in {time.perf_counter() - start:.0f} s\n{self.table}", flush=True)
        segments = segments_of(self.analysis)
        self.predicted: Predicted = self.table.predicted(self.analysis, segments)
        self.bench = Bench(self.analysis, self.model, segments, engine_of(engine, None, options.threads))
        self.sizes = np.array([group.size for group in self.analysis.free], np.int64)

    def plan(self, number: int) -> Row:
        """One random plan: every group keeps a share of its own, and every other plan keeps multiples of 8."""
        random = np.random.default_rng([number, zlib.crc32(self.name.encode())])
        shares = random.uniform(random.uniform(0.1, 0.7), 1, len(self.sizes))
        multiple = (1, 8)[number % 2]
        kept = np.maximum(1, np.round(self.sizes * shares / multiple) * multiple)
        kept = np.minimum(np.where(kept < multiple, self.sizes, kept), self.sizes).astype(np.int64)
        for place, group in enumerate(self.analysis.free):  # of groups that exclude each other the first may lose channels
            if any(other < group.id for other in self.analysis.exclusive.get(group.id, ())):
                kept[place] = group.size
        rewritten, module = self.bench.slim(gone_of(self.analysis, kept))
        kept = self.sizes - [len(rewritten.cut.gone.get(group.id, ())) for group in self.analysis.free]
        slim, dense = self.bench.beside_dense(module)
        predicted, whole = (self.predicted.seconds(each.astype(np.float64)) for each in (kept, self.sizes))
        return {
            "multiple": multiple,
            "macs": rewritten.cut.macs / self.analysis.macs(),
            "seconds": [dense, slim],
            "predicted": [whole, predicted],
            "error": predicted / slim - 1,
            "share_error": predicted / whole / (slim / dense) - 1,
        }

    def target(self, target: float) -> Row:
        """A budget of latency; and plans under `macs` of about the same time."""
        step = step_of(self.predicted, self.analysis)
        found = self._pruned(step, latency=target)
        others, asked = [], target
        for _ in range(_TRIES):
            others.append(self._pruned(step, macs=min(asked, 0.99)))
            above = [o for o in others if o["share"] >= found["share"]]
            if above and len(above) < len(others):
                break
            far = found["share"] / others[-1]["share"]
            asked = others[-1]["asked"] * far ** (1.5 if len(others) == 1 else 2.5)
        return {"step": step, **found, "met": found["share"] / target, "by_macs": others, "beside": _at(others, found["share"])}

    def _pruned(self, step: int, **budget: float) -> Row:
        start = time.process_time()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            plan = fxprune.plan(
                self.model,
                example_inputs=self.example,
                criterion=drawn,
                normalization="none",
                round_to=step,
                profile=self.table,
                **budget,
            )
        spent = time.process_time() - start
        cut = self.analysis.cut({g.id: g.removed for g in plan.groups if len(g.kept) < g.size})
        slim, dense = self.bench.beside_dense(self.bench.slim(cut.gone)[1])
        [asked] = budget.values()
        kept = self.sizes - [len(cut.gone.get(group.id, ())) for group in self.analysis.free]
        whole, predicted = (self.predicted.seconds(each.astype(np.float64)) for each in (self.sizes, kept))
        return {
            "asked": asked,
            "share": slim / dense,
            "seconds": [dense, slim],
            "predicted_share": predicted / whole,
            "macs": cut.macs / self.analysis.macs(),
            "saliency": plan.account.saliency if plan.account else 1.0,
            "scores": _scores_kept(self.analysis, cut.gone),
            "search_seconds": round(spent, 2),
        }


def drawn(group: Any, tensors: Any) -> np.ndarray:
    """Scores of a group: log-normal, the same every time."""
    return np.random.default_rng(zlib.crc32(group.id.encode())).lognormal(0.0, 0.8, group.size)


def _scores_kept(analysis: Analysis, gone: Any) -> float:
    """Mean over groups of the share of the scores that is kept."""
    shares = []
    for group in analysis.free:
        scores = drawn(group, None)
        shares.append(1 - scores[gone.get(group.id, [])].sum() / scores.sum())
    return float(np.mean(shares))


def _at(others: list[Row], share: float) -> Row | None:
    """What plans under `macs` keep at a measured share of the time, between the two nearest; None if all lie on one side."""
    below = max((o for o in others if o["share"] <= share), key=lambda o: o["share"], default=None)
    above = min((o for o in others if o["share"] >= share), key=lambda o: o["share"], default=None)
    if below is None or above is None:
        return None
    width = above["share"] - below["share"]
    part = (share - below["share"]) / width if width else 0.0
    return {name: below[name] + part * (above[name] - below[name]) for name in ("saliency", "scores", "macs")}


def _built(name: str, size: int) -> nn.Module:
    if "vit" in name:  # whose tables of positions are made for one size
        import timm

        model: nn.Module = timm.create_model(name.removeprefix("timm:"), img_size=size)
        return model
    return load_model(name)


def _told(row: Row) -> str:
    where = f"{row['part']} {row['model']} {row['engine']} {row.get('number', row.get('target'))}"
    if "error" in row and isinstance(row["error"], str):
        return f"{where}: {row['error']}"
    dense, slim = (s * 1e3 for s in row["seconds"])
    what = f"error {row['error']:+.1%}" if row["part"] == "plans" else f"met {row['met']:.3f}, beside macs {row['beside']}"
    return f"{where}: {dense:.2f} -> {slim:.2f} ms, {what}"


def table(rows: list[Row]) -> Iterator[str]:
    """Markdown: how well plans are predicted, then how targets are met."""
    failed = [row for row in rows if isinstance(row.get("error"), str)]
    plans = [row for row in rows if row["part"] == "plans" and row not in failed]
    targets = [row for row in rows if row["part"] == "targets" and row not in failed]
    yield "# Latency\n"
    if failed:
        yield f"{len(failed)} rows failed: {failed[0]['model']}, {failed[0]['error']}\n"
    yield from _plans_table(plans)
    yield from _targets_table(targets)


def _plans_table(plans: list[Row]) -> Iterator[str]:
    if not plans:
        return
    yield "## Random plans, predicted against measured\n"
    yield "| model | engine | plans | within 10 % | middle | nine of ten | worst | share of the dense time, within 10 % |"
    yield "|---|---|---|---|---|---|---|---|"
    names = [(row["model"], row["engine"]) for row in plans]
    for model, engine in [*dict.fromkeys(names), *(("all", e) for e in dict.fromkeys(e for _, e in names))]:
        mine = [r for r in plans if r["engine"] == engine and model in (r["model"], "all")]
        errors, shares = (np.abs([row[name] for row in mine]) for name in ("error", "share_error"))
        yield (
            f"| {model} | {engine} | {len(mine)} | {_count(errors)} | {np.median(errors):.1%} | {np.quantile(errors, 0.9):.1%} "
            f"| {errors.max():.1%} | {_count(shares)} |"
        )
    yield ""


def _count(errors: np.ndarray) -> str:
    return f"{int((errors <= NEAR).sum())} ({(errors <= NEAR).mean():.0%})"


def _targets_table(targets: list[Row]) -> Iterator[str]:
    if not targets:
        return
    yield "## Targets\n"
    met = sum(abs(row["met"] - 1) <= NEAR for row in targets)
    slower = sum(r["seconds"][1] >= r["seconds"][0] for row in targets for r in (row, *row["by_macs"]))
    compared = [row for row in targets if row["beside"]]
    better = sum(row["saliency"] > row["beside"]["saliency"] for row in compared)
    models = sum(1 + len(row["by_macs"]) for row in targets)
    yield (
        f"{met} of {len(targets)} are measured within 10 % of what was asked. At equal measured time more saliency is kept by "
        f"`latency` than by `macs` in {better} of {len(compared)}. {slower} of {models} slim models are "
        "slower than the dense one.\n"
    )
    head = "| model | engine | target | multiple | dense, ms | slim, ms | measured / target "
    yield head + "| saliency | by macs | scores | by macs |"
    yield "|---|---|---|---|---|---|---|---|---|---|---|"
    for row in targets:
        dense, slim = (s * 1e3 for s in row["seconds"])
        beside = row["beside"] or {"saliency": math.nan, "scores": math.nan}
        yield (
            f"| {row['model']} | {row['engine']} | {row['target']} | {row['step']} | {dense:.2f} | {slim:.2f} "
            f"| {row['met']:.3f} | {row['saliency']:.2%} | {beside['saliency']:.2%} "
            f"| {row['scores']:.2%} | {beside['scores']:.2%} |"
        )


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=["plans", "targets"], default=["plans", "targets"])
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=ENGINES)
    add: Callable[..., Any] = parser.add_argument
    add("--plans", type=int, default=17, help="of each model and engine")
    add("--samples", type=int, default=24, help="designs that a table is learnt from")
    add("--size", type=int, default=224, help="of the images")
    add("--threads", type=int, default=1)
    add("--out", type=Path, default=Path(__file__).parent / "results")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
