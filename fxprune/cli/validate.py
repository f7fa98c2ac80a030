"""``fxprune validate``: slim models beside the dense one, on data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fxprune.cli import options as given
from fxprune.cli.data import data_spec
from fxprune.cli.input import build, example_inputs, read_plan
from fxprune.cli.output import Steps, note_fresh_weights, print_json
from fxprune.errors import InputError, said, shown

if TYPE_CHECKING:
    from torch import nn

__all__ = ["validate"]


def validate(
    model: given.Model,
    slim: Annotated[
        list[str] | None,
        typer.Option(help="Folder or .py file that `fxprune prune --out` wrote. Repeatable.", show_default=False),
    ] = None,
    data: given.Data = None,
    checkpoint: given.Weights = None,
    metric: Annotated[
        list[str] | None,
        typer.Option(
            help="file.py:NAME or module:NAME: a function of output and labels, or a torchmetrics class. Repeatable.",
            show_default=False,
        ),
    ] = None,
    loss: Annotated[
        str | None, typer.Option(help="file.py:NAME or module:NAME: a function of output and labels.", show_default=False)
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images of a batch, the one that is timed included.")] = 64,
    limit: Annotated[
        int | None, typer.Option(min=1, help="So many images at most, drawn at random.", show_default=False)
    ] = None,
    input_size: given.InputSize = None,
    mean: given.Mean = None,
    std: given.Std = None,
    crop: given.Crop = None,
    confidence: Annotated[float, typer.Option(help="Level of the intervals.")] = 0.95,
    latency: Annotated[bool, typer.Option(help="Measure the time of the first batch.")] = True,
    device: Annotated[str, typer.Option(help="Where the models run: cpu, cuda, cuda:1.")] = "cpu",
    seed: given.Seed = 0,
    as_json: given.Json = False,
) -> None:
    """Say how well slim models do beside MODEL, whose weights --checkpoint names, on the images of --data."""
    from fxprune.recovery.validation import validate as run

    if not slim or data is None:
        raise InputError("give --slim DIR, what `fxprune prune --out DIR` wrote, and --data, what to validate on")
    with Steps(as_json, total=3) as step:
        measured = {name.rpartition(":")[2]: _function(name) for name in metric or ()}
        options: dict[str, Any] = {"metric": measured or None, "loss": None if loss is None else _function(loss)}
        dense = step("building the model", lambda: build(model, checkpoint, seed))
        shaping = (mean, std, crop)
        spec = data_spec(data, example_inputs(dense, input_size), shaping, batch_size=batch_size, limit=limit, seed=seed)
        assert spec is not None
        loader = spec.loader(dense)
        slims = step("loading", lambda: _loaded(dense, slim))
        place = _device(device)
        models = [one.to(place) for one in (dense, *slims.values())]
        slims = dict(zip(slims, models[1:], strict=True))
        options |= {"latency": latency, "confidence": confidence, "seed": seed}
        found = step("validating", lambda: run(models[0], slims, loader, **options))
    found = replace(found, notes=(*loader.notes, *found.notes))
    if as_json:
        print_json({"data": data, **found.to_dict()})
        return
    typer.echo(str(found))
    note_fresh_weights(model, checkpoint, "compares with")


def _loaded(dense: nn.Module, slim: Sequence[str]) -> dict[str, nn.Module]:
    """The slim models, by what the command line calls them."""
    from fxprune import codegen

    found: dict[str, nn.Module] = {}
    for name in dict.fromkeys(slim):
        plan = Path(name) / "plan.json"
        parts = plan.is_file() and not (Path(name) / "slim.py").exists()
        found[name] = _with_parts(dense, plan) if parts else codegen.load(Path(name))
    short = [Path(name).stem or name for name in found]
    names = ["slim"] if len(found) == 1 else short if len({*short, "dense"}) > len(short) else list(found)
    return dict(zip(names, found.values(), strict=True))


def _with_parts(dense: nn.Module, file: Path) -> nn.Module:
    """What the plan makes of the dense model, with the weights that lie beside it: of pruned submodules, or of the whole."""
    from fxprune import api, codegen

    plan = read_plan(file)
    slim = api.apply(dense, plan, verify=False)
    if not plan.options.get("submodules") and (weights := file.parent / "slim.safetensors").is_file():
        from fxprune.inputs.checkpoints import load_into, read_state_dict

        load_into(slim, read_state_dict(weights), f"the slim model {str(weights)!r}")
    for entry in plan.options.get("submodules", ()):
        name = entry["name"]
        part = codegen.load(file.parent / f"{name.replace('.', '/')}.py")
        slim.get_submodule(name).load_state_dict(part.state_dict())
    return slim


def _function(name: str) -> Any:
    from fxprune.inputs.user_code import called, named_by

    found = named_by(name)
    return called(found, name) if isinstance(found, type) else found


def _device(name: str) -> Any:
    import torch

    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # of a kind that this PyTorch was built without
        raise InputError(f"--device {shown(name)} cannot be used: {said(error)}") from error
    return device
