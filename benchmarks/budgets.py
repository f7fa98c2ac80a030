"""Are budgets met? MACs and parameters of 24 networks, by layer and globally, counted on the slim models.

    python benchmarks/budgets.py [--models timm:resnet18 ...] [--out FOLDER]

Fresh weights, criterion ``l2``. MACs of the slim model are those that `torch.utils.flop_counter` counts on the meta device, and
its parameters are counted. A row is met if what is kept lies within (target - 1 %, target]. Results are appended to
``budgets.jsonl`` as they come, and what is there is not measured again.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import torch
from measure import environment, first_line
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import fxprune
from fxprune.analysis.analysis import Analysis
from fxprune.criteria import resolve, score_groups
from fxprune.inputs.models import load_model
from fxprune.options import PruneOptions
from fxprune.planning.accounting import account_of, targets_of
from fxprune.planning.policies import Scores, chosen, policy_of
from fxprune.rewrite import rewrite

__all__ = ["main", "measured", "table"]

Row = dict[str, Any]

MODELS = """
    torchvision:resnet18 torchvision:resnet50 torchvision:densenet201 torchvision:vgg16_bn
    torchvision:mobilenet_v3_large torchvision:shufflenet_v2_x1_0 torchvision:googlenet
    torchvision:squeezenet1_1 torchvision:mnasnet1_0 torchvision:regnet_x_400mf torchvision:resnext50_32x4d
    torchvision:efficientnet_b0 torchvision:vit_b_16 torchvision:swin_t torchvision:maxvit_t
    timm:convnext_tiny timm:deit_tiny_patch16_224 timm:mixer_s16_224 timm:cait_xxs24_224 timm:levit_128s
    timm:mobilevit_xxs timm:pit_ti_224 timm:ghostnet_100 timm:poolformer_s12
""".split()
BUDGETS = [{"macs": 0.75}, {"macs": 0.5}, {"macs": 0.25}, {"params": 0.5}]
SCOPES = ["global", "layer"]


def main(arguments: list[str] | None = None) -> None:
    """Measure what is missing, write ``budgets.json`` and ``budgets.md``."""
    options = _options(arguments)
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    log = options.out / "budgets.jsonl"
    rows = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    for name in options.models:
        if any(row["model"] == name for row in rows):
            continue
        with log.open("a") as file:  # all rows of a model, or none
            found = [*measured(name)]
            file.write("".join(json.dumps(row) + "\n" for row in found))
        rows += found
        print(f"{name}: {sum(map(_met, found))} of {len(found)} met", flush=True)
    (options.out / "budgets.json").write_text(json.dumps({"environment": environment(), "rows": rows}, indent=1) + "\n")
    (options.out / "budgets.md").write_text("\n".join(table(rows)) + "\n")
    print(f"wrote {options.out / 'budgets.md'}")


def measured(name: str) -> Iterator[Row]:
    """A row for each budget and scope, or one that says why there is none."""
    try:
        torch.manual_seed(0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = load_model(name).eval()
            analysis = fxprune.analyze(model)
            scores = score_groups(resolve("l2", 0), model, analysis)
    except Exception as error:
        yield {"model": name, "error": first_line(error)}
        return
    for budgets in BUDGETS:
        for scope in SCOPES:
            row = {"model": name, "budgets": budgets, "scope": scope}
            try:
                yield {**row, **_measured(analysis, scores, PruneOptions(scope=scope, **budgets))}
            except Exception as error:
                yield {**row, "error": first_line(error)}


def _measured(analysis: Analysis, scores: Scores, options: PruneOptions) -> Row:
    vars(analysis).pop("polynomials", None)  # each search is timed with all that it needs
    policy = policy_of(options)
    start, start_cpu = time.perf_counter(), time.process_time()
    gone = chosen(policy, analysis, scores)
    seconds, cpu = time.perf_counter() - start, time.process_time() - start_cpu
    rewritten = rewrite(analysis, gone)
    account = account_of(rewritten.cut, policy, scores)
    [(name, target)] = targets_of(analysis, options).items()
    kept = _macs(rewritten.module, analysis) if name == "macs" else sum(p.numel() for p in rewritten.module.parameters())
    return {
        "target": target,
        "kept": kept,
        "closed_form": rewritten.cut.total_macs if name == "macs" else rewritten.cut.params,
        "seconds": round(seconds, 3),
        "cpu_seconds": round(cpu, 3),
        "saliency": account.saliency,
        "gap": round(account.gap, 6),
        "notes": account.notes,
        "frozen_by_rewrite": rewritten.frozen,
    }


def _macs(module: nn.Module, analysis: Analysis) -> int:
    """Of the whole batch, by another count than ours."""
    args, named = analysis.traced.inputs
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        module.eval()(*args, **named)
    return int(counter.get_total_flops()) // 2


def _met(row: Row) -> bool:
    return "error" not in row and 0.99 * row["target"] < row["kept"] <= row["target"]


def table(rows: list[Row]) -> Iterator[str]:
    """Markdown: how many rows are met, then a line a model and scope."""
    right = [row for row in rows if "error" not in row]
    yield "# Budgets\n"
    yield (
        f"{sum(map(_met, rows))} of {len(rows)} rows lie within (target - 1 %, target]; {sum(map(_over, rows))} above it; "
        f"{len(rows) - len(right)} failed. In {sum(r['kept'] == r['closed_form'] for r in right)} of {len(right)} the "
        f"closed form is what was counted. Search: median {median(r['cpu_seconds'] for r in right):.2f} s, at most "
        f"{max(r['cpu_seconds'] for r in right):.2f} s of one processor.\n"
        if right
        else "Nothing was measured.\n"
    )
    yield "A cell: kept as a share of the budget; gap to the bound; seconds of one processor.\n"
    yield "| model | scope | " + " | ".join(_title(b) for b in BUDGETS) + " |"
    yield "|---" * (2 + len(BUDGETS)) + "|"
    for name in dict.fromkeys(row["model"] for row in rows):
        for scope in SCOPES:
            mine = {json.dumps(r.get("budgets")): r for r in rows if r["model"] == name and r.get("scope", scope) == scope}
            yield (
                f"| {name} | {scope} | " + " | ".join(_cell(mine.get(json.dumps(b), mine.get("null"))) for b in BUDGETS) + " |"
            )


def _over(row: Row) -> bool:
    return "error" not in row and row["kept"] > row["target"]


def _title(budgets: dict[str, float]) -> str:
    return ", ".join(f"{name}={value}" for name, value in budgets.items())


def _cell(row: Row | None) -> str:
    if row is None or "error" in row:
        return "" if row is None else row["error"]
    share = f"{row['kept'] / row['target']:.2%}"
    return f"{share if _met(row) else f'**{share}**'}; {row['gap']:.1%}; {row['cpu_seconds']:.2f}"


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
