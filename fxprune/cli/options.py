"""The options that commands of `fxprune` share: their types, names and help."""

from __future__ import annotations

from dataclasses import fields
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, get_args

import typer

from fxprune.errors import InputError, shown
from fxprune.options import PruneOptions
from fxprune.options import Scope as Policy

__all__ = [
    "Attention",
    "AttentionOption",
    "Batch",
    "Batches",
    "Branches",
    "Checkpoint",
    "Criterion",
    "CriterionOrDefault",
    "Crop",
    "Data",
    "Device",
    "Engine",
    "ExactNorms",
    "Form",
    "FormOption",
    "Ignore",
    "InputSize",
    "Json",
    "Latency",
    "Macs",
    "MaxRatio",
    "Mean",
    "Memory",
    "MinWidth",
    "Model",
    "Normalization",
    "NormalizationOption",
    "Out",
    "Params",
    "Ratio",
    "RepairCheckpoint",
    "Report",
    "RoundTo",
    "RoundToOrAuto",
    "Scope",
    "Seed",
    "Std",
    "Submodule",
    "Threads",
    "Unit",
    "Verify",
    "Weights",
    "criteria",
    "keywords",
    "multiple",
]


class Attention(str, Enum):
    """What attention gives up: see `fxprune.prune`."""

    HEAD_DIM = "head_dim"
    HEADS = "heads"
    BOTH = "both"
    NONE = "none"


class Form(str, Enum):
    """What the slim model is: see `fxprune.prune`."""

    GRAPH = "graph"
    MODULE = "module"


class Normalization(str, Enum):
    """How groups are made comparable: see `fxprune.prune`."""

    MAX = "max"
    MEAN = "mean"
    L2 = "l2"
    GAUSSIAN = "gaussian"
    NONE = "none"


class Unit(str, Enum):
    """What a study ranks: see `fxprune.study`."""

    GROUP = "group"
    LAYER = "layer"


Model = Annotated[
    str, typer.Argument(help="timm:NAME, torchvision:NAME, file.py:factory or module:factory", show_default=False)
]
Ratio = Annotated[
    float | None,
    typer.Option(help="Fraction in (0, 1) of the prunable channels to remove.", show_default=False),
]
Macs = Annotated[
    float | None,
    typer.Option(help="Budget of multiply-accumulates: the fraction that is kept, or a count.", show_default=False),
]
Latency = Annotated[
    str | None,
    typer.Option(
        help="Budget of time: the fraction that is kept, or as '4 ms'; measured first if need be.", show_default=False
    ),
]
Engine = Annotated[str, typer.Option(help="What runs the model whose time counts: eager, compile or onnxruntime.")]
Device = Annotated[str | None, typer.Option(help="cpu or cuda.", show_default="cpu")]
Threads = Annotated[int | None, typer.Option(min=1, help="Of the processor.", show_default="as many as PyTorch uses")]
Batch = Annotated[int, typer.Option(min=1, help="Samples of the input whose time counts.")]
Params = Annotated[
    float | None,
    typer.Option(help="Budget of parameters: the fraction that is kept, or a count.", show_default=False),
]
Memory = Annotated[
    str | None,
    typer.Option(
        help="Budget of activations at the fullest moment, for one sample: the fraction that is kept, or bytes, as 2MB.",
        show_default=False,
    ),
]


def criteria(incomplete: str) -> list[str]:
    """Names that a shell may complete."""
    from fxprune.criteria.registry import names

    return [name for name in names() if name.startswith(incomplete)]


def _policies(incomplete: str) -> list[str]:
    return [name for name in get_args(Policy) if name.startswith(incomplete)]


_RANKED = "How channels are ranked: l2, l1, bn_scale, random, ... (an unknown name lists all)."
Criterion = Annotated[str, typer.Option(help=_RANKED, autocompletion=criteria)]
CriterionOrDefault = Annotated[
    str | None,
    typer.Option(help=f"{_RANKED} Default: l2; surgeon where a --repair follows.", show_default=False, autocompletion=criteria),
]
Scope = Annotated[
    str,
    typer.Option(
        help="global: one ranking of all groups; isomorphic: one a kind; layer: equal shares; or another policy's name.",
        autocompletion=_policies,
    ),
]
NormalizationOption = Annotated[
    Normalization | None,
    typer.Option(help="By what a group's scores are divided for one ranking. Default: what suits the criterion, mostly max."),
]
Ignore = Annotated[
    list[str] | None,
    typer.Option(help="Name or glob of layers that stay whole. Repeatable.", show_default=False),
]
MaxRatio = Annotated[float, typer.Option(help="No group loses more than this fraction.")]
Report = Annotated[
    Path | None,
    typer.Option(help="HTML file that shows what was done: figures, widths, scores, groups, proofs.", show_default=False),
]
RoundTo = Annotated[int, typer.Option(help="Kept channels of each group are a multiple of this.")]
RoundToOrAuto = Annotated[
    str, typer.Option(help="Kept channels of each group are a multiple of this; auto: of what runs fast, by measurement.")
]
MinWidth = Annotated[int, typer.Option(min=1, help="No group keeps fewer channels.")]
AttentionOption = Annotated[Attention, typer.Option(help="What attention gives up.")]
ExactNorms = Annotated[
    bool, typer.Option("--exact-norms", help="Layer, RMS and group norms count channels that went as zeros.")
]
Branches = Annotated[
    bool, typer.Option("--branches", help="Under a budget, residual branches may go as a whole, beside channels.")
]
Seed = Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Of fresh weights and of random choices.")]
Checkpoint = Annotated[
    Path | None,
    typer.Option(help="Weights: .safetensors, or a state_dict of torch.save.", show_default=False),
]
Weights = Annotated[
    Path | None,
    typer.Option("--checkpoint", "--weights", help="Weights: .safetensors, or a state_dict of torch.save.", show_default=False),
]
InputSize = Annotated[
    list[str] | None,
    typer.Option(help="Shape of one sample, as 3x224x224. Repeat it for several inputs.", show_default=False),
]
Submodule = Annotated[
    list[str] | None,
    typer.Option(
        help="Name or glob of a part to prune, of a model that cannot be traced whole. Repeatable.", show_default=False
    ),
]
Data = Annotated[
    str | None,
    typer.Option(
        help="digits, FILE.npz, a folder of images or of CIFAR, file.py:function or module:function; PATH:train for a part.",
        show_default=False,
    ),
]
Mean = Annotated[
    str | None,
    typer.Option(help="Mean of each channel of images in [0, 1], as 0.485,0.456,0.406; else what the model's library says."),
]
Std = Annotated[str | None, typer.Option(help="Deviation of each channel, likewise.")]
Crop = Annotated[
    float | None, typer.Option(help="Share of an image's shorter side that is kept; else what the model's library says, or 1.")
]
Batches = Annotated[
    int | None, typer.Option(min=1, help="Use so many batches of 64 at most, drawn at random.", show_default=False)
]
Out = Annotated[Path | None, typer.Option(help="Folder for slim.py, slim.safetensors and plan.json.", show_default=False)]
Verify = Annotated[bool, typer.Option(help="Compare the result with the masked original.")]
FormOption = Annotated[
    Form,
    typer.Option(
        "--form",
        help="graph: source and weights; module: the model's own class, as plan and weights, also where no graph can hold it.",
    ),
]
RepairCheckpoint = Annotated[
    Path | None,
    typer.Option(help="File from which a repair that was killed goes on; written on the way.", show_default=False),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]


def multiple(text: str) -> int | str:
    """What ``--round-to`` says.

    Raises:
        InputError: it is neither a number nor ``auto``.
    """
    if text == "auto":
        return text
    if not text.isdecimal() or len(text) > 9 or int(text) < 1:
        raise InputError(f"--round-to must be a whole number of at least 1, or auto, not {shown(text)}")
    return int(text)


def keywords(options: PruneOptions) -> dict[str, Any]:
    """Checked options as keyword arguments of `fxprune.prune` and `fxprune.plan`."""
    return {field.name: getattr(options, field.name) for field in fields(options)}
