"""Prune 25 models with the code of two commits, and compare what comes out, byte for byte.

    python benchmarks/replay.py OLD [NEW] [--models timm:test_vit ...] [--keep DIR] [--json]

A refactoring must change nothing: plans (JSON), generated source and weights are equal, or each difference is one that
was meant. NEW is the working tree if it is not given. Exits with 1 where something differs. Each commit is checked out
into a folder of its own and runs in a process of its own, over public names only, so that any two commits compare.
"""

from __future__ import annotations

import argparse
import difflib
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[1]
FILES = ("plan.json", "slim.py", "slim.safetensors")
MODELS = tuple(
    """
    timm:test_resnet timm:test_vit timm:test_byobnet timm:test_convnext timm:test_efficientnet timm:mobilenetv3_small_050
    timm:ghostnet_050 timm:densenet121 timm:hrnet_w18_small timm:dla46x_c timm:regnetx_002 timm:resnext26ts
    timm:mobilevit_xxs timm:swin_tiny_patch4_window7_224 timm:deit_tiny_patch16_224 timm:convit_tiny timm:mixer_s32_224
    timm:vit_tiny_patch16_dinov3_qkvb timm:crossvit_tiny_240 timm:inception_v3 torchvision:resnet50
    torchvision:shufflenet_v2_x0_5 torchvision:vit_b_16 torchvision:googlenet torchvision:mnasnet0_5
    """.split()
)
OPTIONS: tuple[dict[str, Any], ...] = (
    {"ratio": 0.5, "scope": "global", "criterion": "l2"},
    {"ratio": 0.3, "scope": "layer", "criterion": "fpgm", "attention": "both"},
    {"ratio": 0.5, "scope": "layer", "criterion": "random", "attention": "heads", "round_to": 4},
    {"ratio": 0.7, "scope": "global", "criterion": "operator_norm", "max_ratio": 0.8},
)  # model k is pruned with the options k modulo their number


def main(arguments: list[str] | None = None) -> None:
    """Run both commits, print what differs."""
    options = _options(arguments)
    if options.child is not None:
        _prune_all(options.child, options.models)
        return
    with tempfile.TemporaryDirectory() as scratch:
        kept = options.keep or Path(scratch)
        folders = [kept / "old", kept / "new"]
        for commit, folder in zip((options.old, options.new), folders, strict=True):
            _run(commit, Path(scratch), folder.resolve(), options.models)
        rows = [_compare(spec, *folders) for spec in options.models]
        if options.json:
            print(json.dumps({"old": options.old, "new": options.new or "working tree", "rows": rows}, indent=1))
        else:
            _show(rows)
    if any(row["differs"] for row in rows):
        raise SystemExit(1)


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("old", nargs="?", default="HEAD", help="a commit (default: HEAD)")
    parser.add_argument("new", nargs="?", help="another one (default: the working tree)")
    parser.add_argument("--models", nargs="+", default=list(MODELS), metavar="MODEL")
    parser.add_argument("--keep", type=Path, help="keep what both commits made in this folder")
    parser.add_argument("--json", action="store_true", help="print one JSON document and nothing else")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def _run(commit: str | None, scratch: Path, folder: Path, models: list[str]) -> None:
    """Prune all models with the code of a commit, or of the working tree."""
    tree = ROOT
    if commit is not None:
        tree = scratch / hashlib.sha256(commit.encode()).hexdigest()[:8]
        tree.mkdir(exist_ok=True)
        archive = subprocess.run(["git", "archive", commit], cwd=ROOT, check=True, capture_output=True)
        subprocess.run(["tar", "-x", "-C", str(tree)], input=archive.stdout, check=True)
    command = [sys.executable, __file__, "--child", str(folder), "--models", *models]
    subprocess.run(command, cwd=tree, env={**os.environ, "PYTHONPATH": str(tree)}, check=True)


def _prune_all(folder: Path, models: list[str]) -> None:
    """The child: what an editable install of another tree would put in the way is left out."""
    sys.meta_path[:] = [f for f in sys.meta_path if not getattr(f, "__module__", "").startswith("__editable__")]
    import torch

    import fxprune
    import fxprune.passes

    tree = Path(os.environ["PYTHONPATH"])
    assert Path(fxprune.passes.__file__ or "").is_relative_to(tree), fxprune.passes.__file__
    torch.set_num_threads(1)
    for number, spec in enumerate(models):
        torch.manual_seed(0)
        model = _build(spec)
        kwargs = dict(OPTIONS[MODELS.index(spec) % len(OPTIONS) if spec in MODELS else number % len(OPTIONS)])
        target = folder / spec.replace(":", "-")
        try:
            slim = fxprune.prune(model, kwargs.pop("ratio"), verify=False, **kwargs)
            fxprune.save(slim, target)
            (target / "plan.json").write_text(slim.meta["fxprune"].plan.to_json())
        except fxprune.PruneError as error:  # a refusal is a result, too
            target.mkdir(parents=True, exist_ok=True)
            (target / "plan.json").write_text(f"{type(error).__name__}: {error}")
        Console(stderr=True).print(f"{tree.name}: {spec}", highlight=False, markup=False)


def _build(spec: str) -> Any:
    library, _, name = spec.partition(":")
    if library == "timm":
        import timm

        return timm.create_model(name, pretrained=False).eval()
    from torchvision.models import get_model

    return get_model(name, weights=None).eval()


def _compare(spec: str, old: Path, new: Path) -> dict[str, Any]:
    """Sizes, and the files that are not the same bytes, with the first lines that differ."""
    differs = {}
    for name in FILES:
        paths = [folder / spec.replace(":", "-") / name for folder in (old, new)]
        contents = [path.read_bytes() if path.exists() else b"" for path in paths]
        if contents[0] != contents[1]:
            differs[name] = [] if name.endswith("safetensors") else _lines(*contents)
    plan = new / spec.replace(":", "-") / "plan.json"
    return {"model": spec, "plan bytes": plan.stat().st_size, "differs": differs}


def _lines(old: bytes, new: bytes) -> list[str]:
    found = difflib.unified_diff(old.decode().splitlines(), new.decode().splitlines(), lineterm="", n=0)
    return [line[:160] for line in found if not line.startswith(("---", "+++", "@@"))][:6]


def _show(rows: list[dict[str, Any]]) -> None:
    table = Table("model", "plan, bytes", "differs")
    for row in rows:
        table.add_row(row["model"], f"{row['plan bytes']:,}", ", ".join(row["differs"]) or "-")
    console = Console()
    console.print(table)
    for row in rows:
        for name, lines in row["differs"].items():
            console.print(f"{row['model']} {name}:\n  " + "\n  ".join(lines), markup=False, highlight=False)
    equal = sum(not row["differs"] for row in rows)
    console.print(f"{equal} of {len(rows)} models: plan, source and weights are the same bytes", highlight=False)


if __name__ == "__main__":
    main()
