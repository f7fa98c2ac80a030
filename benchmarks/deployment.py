"""What deployment does with dense and slim models, side by side: copies, compilers, exporters, precisions, quantisation.

    python benchmarks/deployment.py                                    # the families of the list below
    python benchmarks/deployment.py --models timm:resnet18:64 --again

A model is NAME:SIZE, with fresh random weights and square images of SIZE. Each figure is the relative difference of the outputs
from those of the same model in eager PyTorch, on two random images; a sentence is why there is none. Each model's rows are
appended to ``deployment.jsonl`` as soon as they are there, and a model that has them is skipped: stop and start as you like.
"""

from __future__ import annotations

import argparse
import copy
import json
import pickle
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from measure import environment
from torch import Tensor, nn

import fxprune
from fxprune.inputs.models import load_model
from fxprune.proofs.errors import relative_error
from fxprune.proofs.randomize import randomize

HERE = Path(__file__).parent
MODELS = """
timm:resnet10t:64 timm:mobilenetv3_small_050:64 timm:efficientnet_lite0:64 timm:convnext_atto:64 timm:repvgg_a0:64
timm:test_vit:160 timm:levit_128s:224 timm:regnetx_002:64 torchvision:squeezenet1_1:64 torchvision:shufflenet_v2_x0_5:64
""".split()
Row = dict[str, Any]


def main(arguments: list[str] | None = None) -> None:
    """Measure what has no result yet, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--models", nargs="+", default=MODELS, metavar="NAME:SIZE")
    parser.add_argument("--ratio", type=float, default=0.3)
    parser.add_argument("--again", action="store_true", help="also models that have a result")
    parser.add_argument("--out", type=Path, default=HERE / "results")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    store = options.out / "deployment.jsonl"
    done = read(store)
    for name in options.models:
        if name in done and not options.again:
            continue
        row = measured(name, options.ratio)
        with store.open("a") as file:
            file.write(json.dumps(row, sort_keys=True) + "\n")
        print(name, row["dense"], row["slim"], flush=True)
    (options.out / "deployment.md").write_text(table(list(read(store).values())))


def read(store: Path) -> dict[str, Row]:
    """The newest row of each model."""
    lines = store.read_text().splitlines() if store.exists() else []
    return {row["model"]: row for row in map(json.loads, lines)}


def measured(name: str, ratio: float) -> Row:
    """All checks of one model, dense and slim."""
    spec, _, size = name.rpartition(":")
    torch.manual_seed(0)
    dense = randomize(load_model(spec, None)).eval()
    x = torch.randn(2, 3, int(size), int(size))
    slim = fxprune.prune(dense, ratio, x)
    return {
        "model": name,
        "dense": {check: tried(way, dense, x) for check, way in CHECKS.items()},
        "slim": {check: tried(way, slim, x) for check, way in CHECKS.items()},
        "environment": environment(),
    }


def tried(way: Callable[[nn.Module, Tensor], Any], model: nn.Module, x: Tensor) -> float | str:
    """The relative difference that a way of running the model makes, or why it does not run."""
    torch.manual_seed(0)
    with torch.no_grad():
        expected = copy.deepcopy(model)(x)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = way(copy.deepcopy(model), x)
    except Exception as error:  # whatever each of them says
        return f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"
    return float(relative_error(found.float(), expected))


def _called(model: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        output: Tensor = model(x)
    return output


def _compiled(model: nn.Module, x: Tensor) -> Tensor:
    torch.compiler.reset()
    return _called(torch.compile(model, backend="aot_eager", fullgraph=True), x)  # type: ignore[arg-type]


def _file(suffix: str) -> Callable[[nn.Module, Tensor], Tensor]:
    def run(model: nn.Module, x: Tensor) -> Tensor:
        from fxprune.deployment.formats import FORMATS

        with tempfile.TemporaryDirectory() as folder:
            file = fxprune.export(model, Path(folder) / f"model{suffix}", x, optimize=False)
            return FORMATS[suffix].load(file)([x])[0]

    return run


def _parallel(model: nn.Module, x: Tensor) -> Tensor:
    """A wrapper of one process, one step of training, and the outputs of the wrapper before it."""
    import torch.distributed as dist

    with tempfile.TemporaryDirectory() as folder:
        dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=0, world_size=1)
        try:
            wrapped = nn.parallel.DistributedDataParallel(model)
            found = _called(wrapped, x)
            wrapped.train()
            wrapped(torch.cat([x, x])).sum().backward()
            return found
        finally:
            dist.destroy_process_group()


def _int8(model: nn.Module, x: Tensor) -> Tensor:
    from torch.ao.quantization import quantize_dynamic

    return _called(quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8), x)


CHECKS: dict[str, Callable[[nn.Module, Tensor], Tensor]] = {
    "deepcopy": lambda m, x: _called(copy.deepcopy(m), x),
    "pickle": lambda m, x: _called(pickle.loads(pickle.dumps(m)), x),
    "optimize": lambda m, x: _called(fxprune.optimize(m, x), x),
    "torch.compile": _compiled,
    "torch.export": _file(".pt2"),
    "ONNX Runtime": _file(".onnx"),
    "DDP": _parallel,
    "channels_last": lambda m, x: _called(
        m.to(memory_format=torch.channels_last),  # type: ignore[call-overload]
        x.to(memory_format=torch.channels_last),
    ),
    "bf16": lambda m, x: _called(m.bfloat16(), x.bfloat16()),
    "int8 dynamic": _int8,
}


def table(rows: list[Row]) -> str:
    """A row for each model and form, a column for each check."""
    lines = [
        "# Deployment of dense and slim models",
        "",
        "`python benchmarks/deployment.py`: relative difference of the outputs from eager PyTorch on two random images,",
        "random weights, 30 % of the channels gone; `no`: it does not run, and why stands below. torch.compile is Dynamo and",
        "AOTAutograd (`aot_eager`, `fullgraph=True`), DDP one process with a step of training.",
        "",
        f"| Model | | {' | '.join(CHECKS)} |",
        f"|---|---|{'---|' * len(CHECKS)}",
    ]
    reasons = []
    for row in rows:
        for form in ("dense", "slim"):
            cells = []
            for check in CHECKS:
                value = row[form].get(check, "not measured")
                cells.append("no" if isinstance(value, str) else f"{value:.0e}")
                if isinstance(value, str):
                    reasons.append(f"- {row['model']}, {form}, {check}: {value}")
            lines.append(f"| {row['model']} | {form} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", *reasons, ""])


if __name__ == "__main__":
    main()
