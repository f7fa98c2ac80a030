"""Which models the benchmarks run: lists by name, and the parameter counts that they are chosen by.

Counting every model takes some minutes, so ``results/families.json`` keeps the counts; ``python lists.py``
makes it anew.
"""

from __future__ import annotations

import functools
import json
import random
import sys
import warnings
from pathlib import Path
from typing import Any

__all__ = ["CACHE", "LIMIT", "SPEED", "count", "names", "sizes"]

# Six that users know, and small ones, where a prune is bookkeeping: those that Torch-Pruning runs on, too.
SPEED = tuple(
    """
    torchvision:resnet50 torchvision:mobilenet_v2 torchvision:vit_b_16 torchvision:densenet201 torchvision:convnext_tiny
    torchvision:efficientnet_b0 timm:test_convnext timm:test_efficientnet timm:test_vit timm:test_byobnet timm:test_resnet
    timm:starnet_s050 timm:dla46x_c timm:mobilevit_xxs timm:mobilenetv3_small_050 timm:ese_vovnet19b_slim_dw
    timm:repghostnet_050 timm:ghostnet_050 timm:regnetx_002 timm:cspnext_tiny timm:swiftformer_xs timm:lcnetv2_small
    timm:inception_next_atto timm:hardcorenas_b timm:repvit_m1 timm:vit_tiny_patch16_dinov3_qkvb
    timm:deit_tiny_patch16_224 timm:hgnetv2_b0 timm:vit_tiny_r_s16_p8_224 timm:densenet121
    """.split()
)
CACHE = Path(__file__).parent / "results" / "families.json"
LIMIT = 100_000_000  # parameters
SAMPLE = 100
LISTS = ("families", "timm-families", "torchvision", "sample", "all")


def names(wanted: list[str]) -> list[str]:
    """Expand lists and names into specs (``timm:NAME``, ``torchvision:NAME``), each once, smallest first."""
    found: dict[str, None] = {}
    for item in wanted:
        if item in LISTS:
            found.update(dict.fromkeys(_list(item)))
        elif item.startswith(("timm:", "torchvision:")):
            found[item] = None
        else:
            known = ", ".join(LISTS)
            raise SystemExit(f"{item!r} is neither a list ({known}) nor timm:NAME or torchvision:NAME")
    counts = sizes() if CACHE.exists() else {}
    return sorted(found, key=lambda spec: (counts.get(spec, 0), spec))


def _list(name: str) -> list[str]:
    table = _table()
    families = [f"timm:{model}" for model in table["families"].values()]
    counts: dict[str, int] = table["parameters"]
    torchvision = [spec for spec in counts if spec.startswith("torchvision:")]
    small = sorted(s for s, n in counts.items() if s.startswith("timm:") and n < LIMIT)
    if name == "torchvision":
        return torchvision
    if name == "timm-families":
        return families
    if name == "families":
        return families + torchvision
    if name == "sample":
        return random.Random(0).sample([s for s in small if s not in families], SAMPLE)
    return small


def belongs(spec: str) -> str:
    """The list that a model is reported under."""
    if spec.startswith("torchvision:"):
        return "torchvision"
    if CACHE.exists() and spec in _list("timm-families"):
        return "timm families"
    return "timm sample" if CACHE.exists() and spec in _list("sample") else "timm, others"


def sizes() -> dict[str, int]:
    """``{spec: parameters}`` of every model that was counted."""
    counts: dict[str, int] = _table()["parameters"]
    return counts


@functools.cache
def _table() -> dict[str, Any]:
    if not CACHE.exists():
        raise SystemExit(f"{CACHE} is missing: python {Path(__file__).name} makes it (some minutes)")
    table: dict[str, Any] = json.loads(CACHE.read_text())
    return table


def count() -> dict[str, Any]:
    """Count the parameters of every timm and torchvision model, and pick the smallest of each timm module."""
    import timm
    from timm.models import _registry

    parameters: dict[str, int] = {}
    failed: dict[str, str] = {}
    for spec in [f"timm:{n}" for n in timm.list_models()] + [f"torchvision:{n}" for n in torchvision_names()]:
        found = _parameters(spec)
        if isinstance(found, int):
            parameters[spec] = found
        else:
            failed[spec] = found
    families: dict[str, str] = {}
    for name in timm.list_models():
        module = _registry._model_to_module[name]
        size = parameters.get(f"timm:{name}")
        if size is not None and (module not in families or size < parameters[f"timm:{families[module]}"]):
            families[module] = name
    return {
        "timm": timm.__version__,
        "families": dict(sorted(families.items())),
        "not_built": failed,
        "parameters": dict(sorted(parameters.items())),
    }


def torchvision_names() -> list[str]:
    """Classification, quantizable classification (in float), segmentation, video and optical flow.

    Detection is no single graph.
    """
    from torchvision.models import detection, list_models

    left = set(list_models(module=detection))
    return [name for name in list_models() if name not in left]


def _parameters(spec: str) -> int | str:
    """Parameters of a model that is built on the meta device, or why it cannot be built."""
    import torch

    from fxprune.inputs.models import load_model

    # The constructors of torchvision's regnets call .item(): those are built for real.
    device = "cpu" if spec.startswith("torchvision:regnet") else "meta"
    with torch.device(device), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            model = load_model(spec)
        except Exception as error:  # some timm models need another package: they are listed, not hidden
            return f"{type(error).__name__}: {error}"[:200]
    return sum(p.numel() for p in model.parameters())


if __name__ == "__main__":
    CACHE.parent.mkdir(parents=True, exist_ok=True)
    CACHE.write_text(json.dumps(count(), indent=1) + "\n")
    print(f"wrote {CACHE}: {len(_table()['families'])} families, {len(sizes())} models", file=sys.stderr)
