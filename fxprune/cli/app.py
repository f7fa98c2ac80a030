"""The `fxprune` command: prune, inspect, verify, finetune, export, validate, profile, study, sensitivity, demo, one file each.

Results go to stdout, notes and progress to stderr. An error that fxprune raises on purpose is one sentence on
stderr and exit code 2; a check that fails is exit code 1.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from fxprune.cli.export import export
from fxprune.cli.finetune import finetune
from fxprune.cli.inspect import inspect
from fxprune.cli.many_values import ManyValues
from fxprune.cli.options import Json, Seed
from fxprune.cli.output import print_json, quiet
from fxprune.cli.profile import profile
from fxprune.cli.prune import prune
from fxprune.cli.sensitivity import sensitivity
from fxprune.cli.study import study
from fxprune.cli.validate import validate
from fxprune.cli.verify import verify
from fxprune.errors import PruneError

__all__ = ["app", "main"]

app = typer.Typer(
    help="Remove channels from any timm or torchvision model, and prove that the smaller model is right.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command(epilog="Example: fxprune prune timm:resnet50 --ratio 0.5 --checkpoint weights.safetensors --out slim/")(prune)
app.command(epilog="Example: fxprune inspect timm:resnet50 layer3.0.conv2")(inspect)
app.command(epilog="Example: fxprune verify timm:convnext_tiny --ratio 0.3")(verify)
app.command(epilog="Example: fxprune finetune slim/ --data images/ --teacher timm:resnet50 --out tuned/")(finetune)
app.command(epilog="Example: fxprune export slim/ --input-size 3x224x224 --onnx model.onnx")(export)
app.command(epilog="Example: fxprune validate timm:resnet50 --checkpoint weights.safetensors --slim slim/ --data images:val")(
    validate
)
app.command(epilog="Example: fxprune profile timm:resnet50 --engine onnxruntime --threads 1")(profile)
app.command(cls=ManyValues, epilog="Example: fxprune study timm:resnet50 --criteria l1 l2 fpgm --out study/")(study)
app.command(cls=ManyValues, epilog="Example: fxprune sensitivity timm:resnet50 --data images:val --limit 1000 --out curves/")(
    sensitivity
)


@app.command(epilog="Example: fxprune demo --out digits/")
def demo(
    out: Annotated[Path, typer.Option(help="Folder for slim.py, slim.safetensors and plan.json.")] = Path("fxprune-demo"),
    epochs: Annotated[int, typer.Option(help="Passes over the training images for the dense model.")] = 16,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Train a small residual CNN on real images, prune it to half of its MACs or less, fine-tune, compare."""
    from fxprune.cli.demo import run  # needs torch, which the help does not

    with quiet(as_json):
        result = run(out, json=as_json, epochs=epochs, seed=seed)
    if as_json:
        print_json(result)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; exits with its code."""
    try:
        app(args=None if arguments is None else list(arguments), prog_name="fxprune")
    except PruneError as error:
        sentence = " ".join(str(error).split())
        Console(stderr=True).print(f"error: {sentence}", style="red", markup=False, highlight=False, soft_wrap=True)
        sys.exit(2)
