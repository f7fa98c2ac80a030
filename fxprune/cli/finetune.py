"""``fxprune finetune``: a slim model trained, and kept in the form that it came in."""

from __future__ import annotations

import json
import os
from collections.abc import Container, Iterable
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from fxprune.cli import options as given
from fxprune.cli.data import data_spec
from fxprune.cli.input import build, example_inputs, same_folder, stored_inputs
from fxprune.cli.output import Steps, note, note_replaced, print_json, show_written
from fxprune.errors import InputError, said, shown

if TYPE_CHECKING:
    from torch import nn

__all__ = ["finetune", "slim_of"]

# Options of the command that are options of `fxprune.finetune` by the same name.
_SAME = (
    "epochs batch_size optimizer lr weight_decay overparameterize schedule warmup_steps label_smoothing mixup cutmix shift "
    "flip ema clip_norm temperature distill_weight precision checkpoint_every workers seed"
).split()


def finetune(
    model: Annotated[
        str,
        typer.Argument(
            help="What `fxprune prune` wrote (the folder, or the .py); or any model by name, as of other commands.",
            show_default=False,
        ),
    ],
    data: Annotated[str, typer.Option(help="Images to train on: what --data of other commands takes.", show_default=False)],
    out: Annotated[Path, typer.Option(help="Folder for the trained model, its checkpoint and log.", show_default=False)],
    test: Annotated[
        str | None, typer.Option(help="Held-out images, likewise: accuracy after each epoch.", show_default=False)
    ] = None,
    teacher: Annotated[str | None, typer.Option(help="The dense model, by name.", show_default=False)] = None,
    teacher_checkpoint: given.Checkpoint = None,
    checkpoint: given.Weights = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the checkpoint in --out, if there is one.")] = False,
    epochs: Annotated[int, typer.Option(help="Passes over the data.")] = 10,
    batch_size: Annotated[int, typer.Option(help="Images of a step, over all processes.")] = 128,
    optimizer: Annotated[str, typer.Option(help="sgd or adamw.")] = "sgd",
    lr: Annotated[float, typer.Option(help="Highest learning rate.")] = 0.01,
    weight_decay: Annotated[float, typer.Option(help="Of weights; norms and biases have none.")] = 5e-4,
    overparameterize: Annotated[
        str | None,
        typer.Option(help="do_conv: train convolutions with a second factor, which is folded after.", show_default=False),
    ] = None,
    schedule: Annotated[str, typer.Option(help="cosine, step (with --set milestones=[...]) or constant.")] = "cosine",
    warmup_steps: Annotated[int, typer.Option(help="Steps over which the rate rises.")] = 0,
    label_smoothing: Annotated[float, typer.Option(help="Share of each label that is spread over all classes.")] = 0.0,
    mixup: Annotated[float, typer.Option(help="Alpha of mixup; 0: none.")] = 0.0,
    cutmix: Annotated[float, typer.Option(help="Alpha of CutMix; 0: none.")] = 0.0,
    shift: Annotated[int, typer.Option(help="Images are moved by up to so many pixels each way.")] = 0,
    flip: Annotated[bool, typer.Option("--flip", help="Half of the images are mirrored.")] = False,
    ema: Annotated[float, typer.Option(help="Decay of a moving average of the weights; 0: none.")] = 0.0,
    clip_norm: Annotated[float | None, typer.Option(help="Longest gradient.", show_default=False)] = None,
    temperature: Annotated[float, typer.Option(help="Of the distillation from the teacher.")] = 4.0,
    distill_weight: Annotated[float, typer.Option(help="Share of the distillation in the loss; 1 needs no labels.")] = 0.5,
    precision: Annotated[str, typer.Option(help="fp32, bf16 or fp16.")] = "fp32",
    checkpoint_every: Annotated[int, typer.Option(help="Steps between checkpoints; 0: at the end of each epoch.")] = 0,
    workers: Annotated[int, typer.Option(help="Processes that read images.")] = 0,
    seed: given.Seed = 0,
    extra: Annotated[
        list[str] | None,
        typer.Option("--set", help="Any other field of FinetuneOptions, as momentum=0.95. Repeatable.", show_default=False),
    ] = None,
    sparsity: Annotated[
        str | None,
        typer.Option(help="Sparse learning before pruning: group, scale, scp or admm.", show_default=False),
    ] = None,
    sparsity_extra: Annotated[
        list[str] | None,
        typer.Option("--sparsity-set", help="An option of it, as strength=1e-3 or ratio=[0.2,0.5].", show_default=False),
    ] = None,
    input_size: given.InputSize = None,
    mean: given.Mean = None,
    std: given.Std = None,
    crop: given.Crop = None,
    as_json: given.Json = False,
) -> None:
    """Train MODEL on images, with the dense model as its teacher; in one process or in many (accelerate launch, torchrun)."""
    here = locals()
    settings = {name: here[name] for name in _SAME} | _extra(extra or ())
    sparse = _extra(sparsity_extra or (), "--sparsity-set", ())
    if sparse and sparsity is None:
        raise InputError("--sparsity-set belongs to --sparsity: say which, as --sparsity admm")
    if teacher is None and teacher_checkpoint is not None:
        raise InputError("--teacher-checkpoint belongs to --teacher: say which model it is of")
    import fxprune
    from fxprune.recovery.finetune.options import options_of

    chosen = options_of(None, settings)  # before anything is built
    main = os.environ.get("RANK", "0") == "0"
    with Steps(as_json, total=2, shown=main) as step:
        slim, source = step("building the model", lambda: slim_of(model, checkpoint, seed))
        if source is not None and same_folder(source.parent, out):
            raise InputError(f"--out {str(out)!r} is the folder of the slim model itself: name another, so that it stays")
        taught = None if teacher is None else build(teacher, teacher_checkpoint, seed)
        shaping, inputs = (mean, std, crop), example_inputs(slim, input_size) or stored_inputs(model)

        def read(where: str) -> Any:
            spec = data_spec(where, inputs, shaping, seed=seed)
            assert spec is not None
            return spec.loader(slim if taught is None else taught)  # whose configuration says how images are prepared

        def learning(trained: nn.Module) -> Any:
            assert sparsity is not None
            example = next(iter(loader))[0] if inputs is None else inputs
            return fxprune.sparsity.make(sparsity, trained, example, **sparse)

        loader = read(data)
        evaluate = None if test is None else _top1(read(test), slim)
        if main:
            for text in getattr(loader, "notes", ()):
                note(text)
        hooks: dict[str, Any] = {"evaluate": evaluate, "sparsity": None if sparsity is None else learning}
        hooks |= {"teacher": taught, "options": chosen, "out": out, "resume": resume}
        trained: Any = step("fine-tuning", lambda: fxprune.finetune(slim, loader, **hooks))
    if main:
        written = _keep(trained, source, out)
        _show({**trained.meta["finetuning"], "written": [str(path) for path in written]}, as_json)


def _extra(given: Any, option: str = "--set", own: Container[str] = _SAME) -> dict[str, Any]:
    """``NAME=VALUE`` as a dict; values as JSON has them, else text.

    Args:
        own: names that are options of the command.

    Raises:
        InputError: it has another form.
    """
    found: dict[str, Any] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals:
            raise InputError(f"{option} {shown(text)} is not of the form NAME=VALUE, as momentum=0.95")
        if name in own:
            raise InputError(f"{option} {name}: say --{name.replace('_', '-')}")
        try:
            found[name] = json.loads(value)
        except ValueError:
            found[name] = value
    return found


def slim_of(spec: str, checkpoint: Path | None, seed: int) -> tuple[nn.Module, Path | None]:
    """The model, and its source file if it is one that `fxprune.save` wrote."""
    path = Path(spec)
    if not path.is_dir() and not (path.suffix == ".py" and path.is_file()):
        return build(spec, checkpoint, seed), None
    from fxprune.codegen import load
    from fxprune.inputs.checkpoints import load_into, read_state_dict

    slim = load(path)
    if checkpoint is not None:
        load_into(slim, read_state_dict(checkpoint), f"checkpoint {str(checkpoint)!r}")
    return slim, path / "slim.py" if path.is_dir() else path


def _top1(loader: Any, slim: nn.Module) -> Any:
    """A function of a model: the share of held-out images that it names rightly.

    Raises:
        InputError: `slim` cannot be evaluated on the first of them: better now than after an epoch.
    """

    mode = slim.training
    try:
        _share_of_hits(slim.eval(), islice(loader, 1))
    except (RuntimeError, TypeError, IndexError) as error:
        raise InputError(f"--test does not fit the model: {said(error)}") from error
    finally:
        slim.train(mode)
    return lambda model: {"top-1": _share_of_hits(model, loader)}


def _share_of_hits(model: nn.Module, batches: Iterable[Any]) -> float:
    """
    Raises:
        InputError: there are no labels.
    """
    import torch

    from fxprune.state import place_of

    hits = images = 0
    device, _ = place_of(model)
    with torch.no_grad():
        for batch in batches:
            if len(batch) != 2:
                raise InputError("--test needs images and labels")
            x, y = (value.to(device) for value in batch)
            hits, images = hits + int((model(x).argmax(1) == y).sum()), images + len(x)
    return hits / images


def _keep(trained: Any, source: Path | None, out: Path) -> list[Path]:
    """Write the trained weights, beside the source that they are for; gives the files."""
    from safetensors.torch import save_file

    from fxprune.codegen.files import write_text
    from fxprune.codegen.replacing import replace
    from fxprune.state import named_tensors

    tensors = {name: t.detach().cpu().contiguous() for name, t in named_tensors(trained, once=True).items()}
    if source is None:
        tensors = {name: tensors[name] for name in trained.state_dict() if name in tensors}
    weights = out / ("model.safetensors" if source is None else "slim.safetensors")
    files, contents = [weights], [lambda path: save_file(tensors, path)]
    if source is not None:
        text = source.read_text(encoding="utf-8")
        files.insert(0, out / "slim.py")
        contents.insert(0, lambda path: path.write_text(text, encoding="utf-8", newline="\n"))
        if (plan := source.parent / "plan.json").is_file():  # it says what the slim model is of: a repair and an export read it
            there = plan.read_bytes()  # whatever it is: it must not lose the training
            files.append(out / "plan.json")
            contents.append(lambda path: path.write_bytes(there))
    note_replaced(files)
    replace(files, contents)
    return [*files, write_text(out / "finetuning.json", json.dumps(trained.meta["finetuning"], indent=1) + "\n")]


def _show(record: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(record)
        return
    console = Console()
    table = Table("epoch", "loss", "accuracy in training", "held out", "lr", "seconds")
    for e in record["epochs"]:
        shares = ("-" if e.get(name) is None else f"{e[name]:.2%}" for name in ("accuracy", "top-1"))
        table.add_row(str(e["epoch"]), f"{e['loss']:.4f}", *shares, f"{e['lr']:.2g}", f"{e['seconds']:.1f}")
    console.print(table)
    show_written(console, map(Path, record["written"]))
