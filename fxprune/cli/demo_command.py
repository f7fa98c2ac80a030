"""``fxprune demo``: what the command line shows of `fxprune.cli.demo`, which needs torch; the help does not."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fxprune.cli import options as given
from fxprune.cli.output import print_json, quiet
from fxprune.cli.reporting import check_report

__all__ = ["demo"]


def demo(
    out: Annotated[Path, typer.Option(help="Folder for slim.py, slim.safetensors and plan.json.")] = Path("fxprune-demo"),
    epochs: Annotated[int, typer.Option(help="Passes over the training images for the dense model.")] = 16,
    report: given.Report = None,
    seed: given.Seed = 0,
    as_json: given.Json = False,
) -> None:
    """Train a small residual CNN on real images, prune it to half of its MACs or less, fine-tune, compare."""
    check_report(report)
    from fxprune.cli.demo import run

    with quiet(as_json):
        result = run(out, json=as_json, epochs=epochs, seed=seed, report=report)
    if as_json:
        print_json(result)
