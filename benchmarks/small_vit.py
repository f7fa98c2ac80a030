"""A small vision transformer, trained here, pruned and repaired: is it still one?

    python benchmarks/small_vit.py [--data FOLDER] [--weights vit.safetensors] [--seeds 3]

timm's VisionTransformer on scikit-learn's digits (a minute of CPU), or on CIFAR-10 as JPEG where FOLDER holds it (that of
`criteria.py`), once for each seed. Weights are written to --weights (``vit-1.safetensors`` and so on of the other seeds) and
taken from there the next time. Then hidden layers of the MLPs and heads of the attention are halved, heads made narrower, or
every group of channels cut, the stream that all blocks share included; with norms over what is kept and with exact ones; and
all of them repaired from unlabelled training images. Accuracy is that of test images before any training. Writes
``small_vit.json`` and ``small_vit.md``.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
from criteria_accuracy import accuracy
from criteria_data import Batches, Cifar, batches
from measure import code_hash, environment
from safetensors.torch import load_file, save_file
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

import fxprune
from fxprune import criteria

__all__ = ["CUTS", "main", "table", "trained", "vit"]

_HALF = {"blocks.*.mlp.fc1": 0.5, "blocks.*.attn.qkv": 0.5}
# What goes, and by which options. The stream's group is that of the patch embedding.
CUTS: dict[str, dict[str, Any]] = {
    "MLP widths and heads halved": {"ratio": _HALF, "attention": "heads"},
    "MLP widths and head widths halved": {"ratio": _HALF, "attention": "head_dim"},
    "MLP widths, heads and head widths halved": {"ratio": _HALF, "attention": "both"},
    "a quarter of every group, the stream too": {"ratio": 0.25, "attention": "heads", "scope": "layer"},
    "half of every group, the stream too": {"ratio": 0.5, "attention": "heads", "scope": "layer"},
}
Split = tuple[Tensor, Tensor]
Row = dict[str, Any]


def main(arguments: list[str] | None = None) -> None:
    """Train or load the network, cut and repair it, write the table."""
    options = _options(arguments)
    torch.set_num_threads(1)
    train, test = _digits() if options.data is None else _cifar(options)
    name = "digits" if options.data is None else "CIFAR-10 (JPEG q75)"
    held = batches(*test)
    chosen = torch.randperm(len(train[0]), generator=torch.Generator().manual_seed(0))[: options.images]
    seen = batches(train[0][chosen], train[1][chosen], 64)
    code = code_hash(Path(__file__).parents[1])
    rows = []
    for seed in range(options.seeds):
        model = _model(train, seed, options)
        head = {"data": name, "test": len(test[0]), "images": len(chosen), "seed": seed, "dense": accuracy(model, held)}
        rows += [
            {**head, "criterion": criterion, **row, "code": code}
            for criterion in options.criteria
            for cut in CUTS
            for row in measured(model, cut, criterion, seen, held)
        ]
    options.out.mkdir(parents=True, exist_ok=True)
    file = options.out / "small_vit.json"
    old = json.loads(file.read_text())["rows"] if file.exists() else []
    rows = [row for row in old if row["data"] != name] + rows
    file.write_text(json.dumps({"environment": environment(["timm"]), "rows": rows}, indent=1) + "\n")
    (options.out / "small_vit.md").write_text("\n".join(table(rows)))
    print(f"wrote {options.out / 'small_vit.md'}")


def _model(train: Split, seed: int, options: argparse.Namespace) -> nn.Module:
    """The network of a seed, read or trained."""
    model = vit(train[0].shape[-1], train[0].shape[1], seed)
    file = options.weights
    if file is not None and seed:
        file = file.with_stem(f"{file.stem}-{seed}")
    if file is not None and file.exists():
        model.load_state_dict(load_file(file))
    else:
        trained(model, train, options.epochs, shift=options.data is not None)
        if file is not None:
            save_file(model.state_dict(), file)
    return model.eval()


def vit(size: int, channels: int, seed: int) -> nn.Module:
    """Patches of a quarter or an eighth of the image, 4 blocks of 96 channels, 6 heads."""
    torch.manual_seed(seed)
    patch = 2 if size == 8 else 4
    shape = {"img_size": size, "patch_size": patch, "in_chans": channels, "num_classes": 10}
    model: nn.Module = VisionTransformer(**shape, embed_dim=96, depth=4, num_heads=6, mlp_ratio=4)
    return model


def trained(model: nn.Module, train: Split, epochs: int, shift: bool) -> None:
    """AdamW, one cycle of the learning rate, label smoothing; images shifted, and those of CIFAR-10 flipped."""
    images, labels = train
    generator = torch.Generator().manual_seed(0)
    size, batch = images.shape[-1], 64
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, epochs * -(-len(images) // batch))
    model.train()
    for epoch in range(epochs):
        began, total = time.process_time(), 0.0
        for chosen in torch.randperm(len(images), generator=generator).split(batch):
            x, pad = images[chosen], size // 8
            row, column = torch.randint(0, 2 * pad + 1, (2,), generator=generator).tolist()
            x = F.pad(x, (pad,) * 4)[..., row : row + size, column : column + size]
            if shift and torch.rand((), generator=generator) < 0.5:
                x = x.flip(-1)
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=shift):
                loss = F.cross_entropy(model(x).float(), labels[chosen], label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += float(loss.detach()) * len(chosen)
        seconds = time.process_time() - began
        print(f"epoch {epoch + 1} of {epochs}: loss {total / len(images):.3f}, {seconds:.0f} s", flush=True)
    model.eval()


def measured(model: nn.Module, cut: str, criterion: str, seen: Batches, test: Batches) -> Iterator[Row]:
    """Accuracies of a cut, pruned and repaired, with plain norms, and with exact ones where norms lose channels. The repair
    looks at no labels, and of the criteria those do that use gradients."""
    images = torch.cat([images for images, _ in seen])
    ranked: dict[str, Any] = {"criterion": criterion}
    if getattr(criteria.resolve(criterion), "needs_data", False):
        ranked["data"] = seen
    for exact in (False, True):
        began = time.process_time()
        slim = fxprune.prune(model, example_inputs=images[:2], exact_norms=exact, **ranked, **CUTS[cut])
        report = slim.meta["fxprune"]
        if exact and not report.exact_norms:
            return
        start = time.process_time()
        fixed = fxprune.repair(slim, model, images)
        seconds = time.process_time() - start
        yield {
            "cut": cut,
            "exact_norms": exact,
            "norms": len(report.exact_norms),
            "macs": 1 - report.macs_after / report.macs_before,
            "params": 1 - report.params_after / report.params_before,
            "pruned": accuracy(slim, test),
            "repaired": accuracy(fixed, test),
            "seconds": {"prune": round(start - began, 2), "repair": round(seconds, 2)},
            "error": [fixed.meta["fxprune"].repair.before, fixed.meta["fxprune"].repair.after],
        }


def table(rows: list[Row]) -> Iterator[str]:
    """Markdown: a table for each set of images; means over seeds, and the standard deviation of what was lost."""
    yield "# A small vision transformer\n"
    for data in dict.fromkeys(r["data"] for r in rows):
        own = [r for r in rows if r["data"] == data]
        first, dense = own[0], {r.get("seed", 0): f"{100 * r['dense']:.1f}" for r in own}
        of = f", of {len(dense)} networks" if len(dense) > 1 else ""
        yield (
            f"## {data}\n\nDense: {', '.join(dense.values())} % of {first['test']:,} test images{of}. Repaired from "
            f"{first['images']:,} unlabelled training images; no training.\n"
        )
        yield "| what goes | ranked by | norms | MACs | parameters | pruned, % | repaired, % | points below dense |"
        yield "|---|---|---|---:|---:|---:|---:|---:|"
        alike: dict[tuple[str, str, bool], list[Row]] = {}
        for r in sorted(own, key=lambda r: [*CUTS].index(r["cut"])):
            alike.setdefault((r["cut"], r["criterion"], r["exact_norms"]), []).append(r)
        for (cut, kind, exact), each in alike.items():
            norms, r = "exact" if exact else "plain", each[0]
            shares = f"{r['macs']:.0%} fewer | {r['params']:.0%} fewer"
            below = [100 * (r["dense"] - r["repaired"]) for r in each]
            accuracies = " | ".join(f"{100 * mean(r[what] for r in each):.1f}" for what in ("pruned", "repaired"))
            spread = f" +- {stdev(below):.1f}" if len(below) > 1 else ""
            yield f"| {cut} | {kind} | {norms} | {shares} | {accuracies} | {mean(below):.1f}{spread} |"
        yield ""


def _digits() -> tuple[Split, Split]:
    from fxprune.inputs.digits import digits

    data = digits()
    return (data.train_x, data.train_y), (data.test_x, data.test_y)


def _cifar(options: argparse.Namespace) -> tuple[Split, Split]:
    data = Cifar(options.data)
    return data("train", options.train), data("test", options.test)


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, metavar="FOLDER", help="CIFAR-10 as JPEG: see criteria.py; digits without it")
    parser.add_argument("--weights", type=Path, metavar="FILE", help="safetensors: read if it is there, else written")
    parser.add_argument("--criteria", nargs="+", default=["l2", "wanda", "taylor"], metavar="NAME", choices=criteria.names())
    parser.add_argument("--seeds", type=int, default=1, help="networks that are trained")
    parser.add_argument("--epochs", type=int, default=80)
    parser.add_argument("--train", type=int, default=50_000, help="training images of CIFAR-10")
    parser.add_argument("--test", type=int, default=2000, help="test images of CIFAR-10")
    parser.add_argument("--images", type=int, default=640, help="training images that the repair sees, without labels")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
