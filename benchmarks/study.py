"""Both blind spots of "Rethinking the Pruning Criteria" (Huang et al., NeurIPS 2021), on trained weights of a CIFAR ResNet.

    python benchmarks/study.py --weights resnet56.safetensors [--data FOLDER] [--images 512] [--out FOLDER]

Similarity: do criteria that read weights rank the filters of a layer alike? Applicability: are their scores far enough apart?
Beside the network stand layers of independent Gaussian weights, from which the paper explains both. Writes NAME-layers.md,
.json and pictures, NAME being that of the file of weights.

With data (see `criteria_data.py`), the same for criteria that observe the network, on its groups of coupled channels, and a
picture of its spatial aura entropies: NAME-groups.md, .json and pictures.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from criteria_data import Cifar, batches, load_network
from torch import nn

import fxprune
from fxprune.studies import Study, aura_map, plots

NORMS = ("l1", "l2", "fpgm", "fermat")
WEIGHTS = (*NORMS, "whc", "operator_norm", "random")
OBSERVING = ("l1", "l2", "fpgm", "bn_scale", "bn_relu", "taylor", "apoz", "hrank", "sfm", "aura_entropy", "aura_mi", "random")
EXAMPLE = torch.empty(2, 3, 32, 32, device="meta")
SHAPES = ((16, 3), (16, 16), (32, 32), (64, 64), (256, 256), (512, 512))  # filters, inputs; kernels are 3 x 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", type=Path, required=True, help="safetensors file of a CIFAR ResNet")
    parser.add_argument("--data", type=Path, help="folder of cifar10-jpeg-train.npz")
    parser.add_argument("--images", type=int, default=512, help="that criteria observe")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "study")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    name, model = load_network(options.weights)
    title = f"{name}, {options.weights.name}"
    if options.data is None:
        stem = f"{options.weights.stem}-layers"
        study = fxprune.study(model, WEIGHTS, EXAMPLE, unit="layer")
        gaussian = [of_gaussians(*shape) for shape in SHAPES]
        document = {"network": name, "gaussian": gaussian, "study": short(study)}
        lines = [f"# {title}\n", *about_norms(study), "", *about_gaussians(gaussian)]
        pictures = plots.figures(fxprune.study(model, NORMS, EXAMPLE, unit="layer", weights=False))
    else:
        stem = f"{options.weights.stem}-groups"
        data = batches(*Cifar(options.data)("train", options.images), size=64)
        study = fxprune.study(model, OBSERVING, EXAMPLE, data=data, ratios=(0.3, 0.5), macs=(0.5,), weights=False)
        document = {"network": name, "images": options.images, "study": short(study)}
        lines = [f"# {title}, {options.images} training images of CIFAR-10 (JPEG q75)\n", *alike(study)]
        aura = aura_map(model, data, EXAMPLE, batches=4)
        pictures = {"similarity": plots.similarity(study), "aura": plots.aura(aura)}
    options.out.mkdir(parents=True, exist_ok=True)
    lines += ["", "```text", str(study), "```"]
    (options.out / f"{stem}.md").write_text("\n".join(lines) + "\n")
    (options.out / f"{stem}.json").write_text(json.dumps(document, sort_keys=True, separators=(",", ":")) + "\n")
    plots.save({f"{stem}-{kind}": figure for kind, figure in pictures.items()}, options.out, ["png"])
    print("\n".join(lines))


def of_gaussians(filters: int, inputs: int) -> dict[str, Any]:
    """The same measures of one layer of independent Gaussian weights."""
    layer = nn.Conv2d(inputs, filters, 3, bias=False)
    nn.init.normal_(layer.weight, std=math.sqrt(2 / (9 * inputs)))
    study = fxprune.study(layer, NORMS, torch.empty(2, inputs, 8, 8, device="meta"), unit="layer", weights=False)
    return {
        "filters": filters,
        "weights": 9 * inputs,
        "spearman": {f"{p.first}, {p.second}": p.mean for p in study.pairs},
        "variation": {a.criterion: a.variation[0] for a in study.applicability},
    }


def short(study: Study) -> dict[str, Any]:
    """Without the scores, three digits."""
    document = study.to_dict()
    del document["scores"]
    rounded: dict[str, Any] = _rounded(document)
    return rounded


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _rounded(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_rounded(v) for v in value]
    return float(f"{value:.3g}") if isinstance(value, float) else value


def about_norms(study: Study) -> Iterator[str]:
    yield "| layer by layer | Spearman: mean | least | layers above 0.9 | others |\n|---|---:|---:|---:|---|"
    for pair in study.pairs:
        if pair.first in NORMS and pair.second in NORMS:
            known = [(u, r) for u, r in zip(study.units, pair.layers, strict=True) if r is not None]
            low = ", ".join(f"{u.removesuffix('.weight')} ({r:.2f})" for u, r in known if r <= 0.9)
            high = f"{sum(r > 0.9 for _, r in known)} of {len(known)}"
            yield f"| {pair.first}, {pair.second} | {pair.mean:.3f} | {pair.least:.3f} | {high} | {low} |"
    yield "\n| layers whose scores vary by | less than 5% | less than 10% |\n|---|---:|---:|"
    yield from (f"| {entry.criterion} | {entry.flat():.0%} | {entry.flat(0.1):.0%} |" for entry in study.applicability)


def about_gaussians(rows: list[dict[str, Any]]) -> Iterator[str]:
    head = [*rows[0]["spearman"], *(f"variation of {c}" for c in rows[0]["variation"])]
    yield f"| Gaussian filters | {' | '.join(head)} |\n|---{'|---:' * len(head)}|"
    for row in rows:
        cells = [f"{v:.3f}" for v in row["spearman"].values()] + [f"{v:.2%}" for v in row["variation"].values()]
        yield f"| {row['filters']} of {row['weights']} weights | {' | '.join(cells)} |"


def alike(study: Study) -> Iterator[str]:
    """Pairs by their correlation, as far as it is high."""
    columns = "pruned in common at 0.5 (chance 50%) | at half the MACs (chance)"
    yield f"| group by group | Spearman: mean | least | {columns} |\n|---|---:|---:|---:|---:|"
    for pair in sorted(study.pairs, key=lambda p: -(p.mean or 0)):
        overlap, equal = pair.overlap("layer", 0.5), pair.overlap("global", 0.5, "macs")
        if pair.mean is not None and pair.mean >= 0.6 and overlap is not None and equal is not None:
            shares = f"{overlap.share:.0%} | {equal.share:.0%} ({equal.expected:.0%})"
            yield f"| {pair.first}, {pair.second} | {pair.mean:.3f} | {pair.least:.3f} | {shares} |"


if __name__ == "__main__":
    main()
