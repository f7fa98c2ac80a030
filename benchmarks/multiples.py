"""Does a model with half of its MACs run faster? By the multiple of channels that layers keep, in three engines on the CPU.

    python benchmarks/multiples.py [--models torchvision:mobilenet_v3_large ...] [--multiples 1 4 8 16]
                                   [--engines eager onnxruntime openvino] [--macs 0.5] [--threads 1] [--out FOLDER]

Each network is pruned to the same share of its MACs with ``round_to`` of each multiple, by scores that are drawn (log-normal,
as unequal as those of trained networks; neither scores nor weights change the time). The dense model and all slim ones are
timed in turns, several times; what is reported is the median of the slim model's share of the dense one's time, and the
lowest and highest. Beside it stands the saliency that is kept: what a multiple costs. To be run on a machine that does
nothing else. Rows are appended to ``multiples.jsonl`` as they come, and what is there is not measured again.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from latency import drawn
from measure import built, code_hash, environment, first_line
from torch import fx, nn

import fxprune
from fxprune.profiling.engines.base import Engine, Inputs, Run
from fxprune.profiling.engines.registry import engine_of
from fxprune.profiling.measuring import timed_in_turns

__all__ = ["main", "table"]

Row = dict[str, Any]

HERE = Path(__file__).parent
MODELS = """
    torchvision:mobilenet_v3_large torchvision:efficientnet_b0 torchvision:resnet50 torchvision:densenet121
    torchvision:shufflenet_v2_x1_0 timm:regnety_008 timm:convnext_tiny timm:vit_small_patch16_224
""".split()
ENGINES = ["eager", "onnxruntime", "openvino"]
MULTIPLES = [1, 4, 8, 16]


@dataclass(frozen=True)
class OpenVino(Engine):
    """OpenVINO's CPU plugin in float32."""

    name: ClassVar[str] = "openvino"

    def prepared(self, module: fx.GraphModule, inputs: Inputs) -> Run:
        import openvino

        with tempfile.TemporaryDirectory() as folder:
            file = fxprune.export(module, Path(folder) / "net.xml", inputs[0], dynamic_batch=False)
            settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": self.threads}
            compiled = openvino.Core().compile_model(file, "CPU", settings)
        fed = [tensor.numpy() for tensor in inputs[0]]
        return lambda: compiled(fed)


def main(arguments: list[str] | None = None) -> None:
    """Measure what is missing, write ``multiples.md``."""
    options = _options(arguments)
    torch.set_num_threads(options.threads)
    options.out.mkdir(parents=True, exist_ok=True)
    log = options.out / "multiples.jsonl"
    rows = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    seen = {(row["model"], row["engine"]) for row in rows}
    for name in options.models:
        for engine in options.engines:
            if (name, engine) not in seen:
                row = {"model": name, "engine": engine, **_measured(name, engine, options), "code": code_hash(HERE.parent)}
                with log.open("a") as file:
                    file.write(json.dumps(row) + "\n")
                rows.append(row)
                print(row, flush=True)
    (options.out / "multiples.md").write_text("\n".join(table(rows, environment(("onnxruntime", "openvino")))) + "\n")


def _measured(name: str, engine: str, options: argparse.Namespace) -> Row:
    """One network on one engine: the user's own model and a slim one of each multiple, in turns."""
    torch.manual_seed(0)
    try:
        model, x = built(name)
        x = torch.randn(x.shape)
        runner = (
            OpenVino(torch.device("cpu"), options.threads)
            if engine == OpenVino.name
            else engine_of(engine, None, options.threads)
        )
        slims = [_slim(model, x, options.macs, multiple) for multiple in options.multiples]
        runs = [runner.prepared(each, ((x,), {})) for each in (model, *slims)]
        turns = np.array([timed_in_turns(runner, runs) for _ in range(options.turns)])
    except Exception as error:
        return {"error": first_line(error)}
    plans = [slim.meta["fxprune"].plan for slim in slims]
    shares = turns[:, 1:] / turns[:, :1]
    return {
        "dense": float(np.median(turns[:, 0])),
        "macs": [plan.macs[1] / plan.macs[0] for plan in plans],
        "saliency": [plan.account.saliency for plan in plans],
        "shares": {str(multiple): shares[:, place].tolist() for place, multiple in enumerate(options.multiples)},
    }


def _slim(model: nn.Module, x: torch.Tensor, macs: float, multiple: int) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return fxprune.prune(
            model,
            example_inputs=x,
            macs=macs,
            criterion=drawn,
            normalization="none",
            round_to=multiple,
            verify=False,
        ).eval()


def table(rows: list[Row], around: dict[str, str]) -> Iterator[str]:
    """Markdown: shares of the dense model's time."""
    good = [row for row in rows if "error" not in row]
    yield "# Half of the MACs, by multiples of channels\n"
    yield f"`python benchmarks/multiples.py`, one image, one thread. {', '.join(f'{k} {v}' for k, v in around.items())}.\n"
    yield (
        "Each cell: time as a share of the dense model's on the same engine, median of rounds in turns (lowest to highest), "
        "and the saliency that is kept (of drawn scores). **Bold**: not faster than the dense model.\n"
    )
    multiples = list(dict.fromkeys(m for row in good for m in row["shares"]))
    yield "| model | engine | dense, ms | " + " | ".join(f"multiples of {m}" for m in multiples) + " |"
    yield "|---" * (3 + len(multiples)) + "|"
    for row in good:
        cells = [_cell(row["shares"][m], kept) for m, kept in zip(multiples, row["saliency"], strict=True)]
        yield f"| {row['model']} | {row['engine']} | {row['dense'] * 1e3:.2f} | {' | '.join(cells)} |"
    for row in rows:
        if "error" in row:
            yield f"\n{row['model']}, {row['engine']}: {row['error']}"
    for engine in dict.fromkeys(row["engine"] for row in good):
        mine = [row for row in good if row["engine"] == engine]
        medians = {m: [float(np.median(row["shares"][m])) for row in mine] for m in multiples}
        told = ", ".join(f"{m}: {np.median(v):.2f} ({sum(x >= 1 for x in v)} not faster)" for m, v in medians.items())
        yield f"\n{engine}, median over {len(mine)} networks by multiple: {told}."


def _cell(shares: list[float], saliency: float) -> str:
    median = float(np.median(shares))
    said = f"{median:.2f} ({min(shares):.2f} to {max(shares):.2f})"
    return (f"**{said}**" if median >= 1 else said) + f", {saliency:.1%}"


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=ENGINES)
    parser.add_argument("--multiples", nargs="+", type=int, default=MULTIPLES)
    parser.add_argument("--macs", type=float, default=0.5)
    parser.add_argument("--turns", type=int, default=5, help="rounds of timing, each of all models in turns")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=HERE / "results")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
