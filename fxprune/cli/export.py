"""``fxprune export``: a model as files for other runtimes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from fxprune.cli import options as given
from fxprune.cli.finetune import slim_of
from fxprune.cli.input import example_inputs, stored_inputs
from fxprune.cli.output import Steps, note_replaced, print_json, show_written
from fxprune.errors import InputError

__all__ = ["export"]


def export(
    model: Annotated[
        str,
        typer.Argument(
            help="What `fxprune prune` wrote (the folder, or the .py); or any model by name, as of other commands",
            show_default=False,
        ),
    ],
    onnx: Annotated[Path | None, typer.Option(help="Write ONNX to this file (.onnx).", show_default=False)] = None,
    exported_program: Annotated[
        Path | None, typer.Option(help="Write a program of torch.export to this file (.pt2).", show_default=False)
    ] = None,
    openvino: Annotated[Path | None, typer.Option(help="Write OpenVINO to this file (.xml).", show_default=False)] = None,
    optimize: Annotated[bool, typer.Option(help="Fold batch norms, and take out what does nothing.")] = True,
    dynamic_batch: Annotated[bool, typer.Option(help="Let the batch be of any size.")] = True,
    checkpoint: given.Weights = None,
    input_size: given.InputSize = None,
    seed: given.Seed = 0,
    as_json: given.Json = False,
) -> None:
    """Write MODEL to files for other runtimes, and compare each with it."""
    from fxprune.deployment.exporting import export as write
    from fxprune.deployment.formats import format_of
    from fxprune.deployment.widths import advice

    wanted = {".onnx": onnx, ".pt2": exported_program, ".xml": openvino}
    files = {suffix: path for suffix, path in wanted.items() if path is not None}
    if not files:
        raise InputError("say what to write: --onnx FILE, --exported-program FILE or --openvino FILE")
    for suffix, path in files.items():
        if path.suffix != suffix:
            raise InputError(f"{path.name!r} must end in {suffix}")
        format_of(path)
    with Steps(as_json, total=1 + len(files)) as step:
        net = step("building the model", lambda: slim_of(model, checkpoint, seed)[0].eval())
        inputs = example_inputs(net, input_size) or stored_inputs(model)
        note_replaced(files.values())
        for path in files.values():
            # The path as a default: the function is called before the next one is made.
            step(
                f"writing {path.name}",
                lambda path=path: write(net, path, inputs, optimize=optimize, dynamic_batch=dynamic_batch),  # type: ignore[misc]
            )
    if as_json:
        notes = {str(path): advice(net, format_of(path)) for path in files.values()}
        print_json({"files": [*notes], "notes": {path: note for path, note in notes.items() if note}})
        return
    show_written(Console(), files.values())
    names = "it computes" if len(files) == 1 else "each computes"
    typer.echo(f"ok: {names} what the model does, on random inputs (relative error at most 1e-04)")
