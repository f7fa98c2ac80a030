"""What commands of `fxprune` read: the model, its example inputs, a file of text."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from fxprune.errors import InputError, PlanMismatch, said, shown

if TYPE_CHECKING:
    from torch import Tensor, nn

    from fxprune.planning.plan import Plan

__all__ = ["build", "example_inputs", "read_plan", "read_text", "same_folder", "stored_inputs", "stored_shapes", "timed_inputs"]


def build(spec: str, checkpoint: Path | None, seed: int) -> nn.Module:
    """The model of a name, in evaluation mode, with the weights of `checkpoint` or fresh ones.

    Raises:
        InputError: see `fxprune.inputs.models.load_model`.
    """
    import torch

    from fxprune.inputs.models import load_model

    torch.manual_seed(seed)
    # A slim model is saved in the mode of its original: whoever loads the file expects evaluation.
    return load_model(spec, checkpoint).eval()


def example_inputs(model: nn.Module, sizes: Iterable[str] | None) -> tuple[Tensor, ...] | None:
    """Example inputs on the meta device, batch 2, of the sizes given on the command line; None if none are given.

    Raises:
        InputError: a size is no shape.
    """
    import torch

    if not sizes:
        return None
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.get_default_dtype())
    shapes = [(2, *_size(text)) for text in sizes]
    try:
        return tuple(torch.empty(shape, dtype=dtype, device="meta") for shape in shapes)
    except (RuntimeError, TypeError, OverflowError) as error:  # more numbers than 64 bits can count
        raise InputError(f"--input-size {' '.join(sizes)} is too large: write the shape of one sample, as 3x224x224") from error


def timed_inputs(model: nn.Module, sizes: Iterable[str] | None, batch: int) -> tuple[Tensor, ...]:
    """Example inputs of so many samples: it is their time that counts.

    Raises:
        InputError: a size is no shape, or none is given and none can be inferred.
    """
    from fxprune.inputs.examples import settle_inputs

    args, _ = settle_inputs(model, example_inputs(model, sizes))
    return tuple(arg[:1].expand(batch, *arg.shape[1:]).contiguous() for arg in args)


def _size(text: str) -> list[int]:
    parts = text.lower().split("x")
    if not all(part.isdecimal() and len(part) < 20 and int(part) > 0 for part in parts):
        raise InputError(f"--input-size {shown(text)} is not a shape of one sample: write positive numbers, as 3x224x224")
    return [int(part) for part in parts]


def read_text(path: Path) -> str:
    """The text of a plan's file.

    Raises:
        InputError: it cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read the plan {str(path)!r}: {said(error)}") from error


def read_plan(path: Path) -> Plan:
    """The plan in a file, or in the folder that `fxprune prune` wrote.

    Raises:
        InputError: it cannot be read, or is no plan.
    """
    from fxprune.planning.plan import Plan

    file = path / "plan.json" if path.is_dir() else path
    try:
        return Plan.from_json(read_text(file))
    except PlanMismatch as error:  # nothing is compared with a model yet: it is the file that is wrong
        raise InputError(f"{str(file)!r}: {error}") from error


def stored_inputs(spec: str) -> tuple[Tensor, ...] | None:
    """The example inputs of the plan that lies beside a slim model; None if there is none, or it has other inputs than tensors.

    Raises:
        InputError, PlanMismatch: there is one, and it cannot be read.
    """
    folder = Path(spec) if Path(spec).is_dir() else Path(spec).parent
    if not (folder / "slim.py").is_file() or not (folder / "plan.json").is_file():
        return None
    return stored_shapes(read_plan(folder))


def stored_shapes(plan: Plan) -> tuple[Tensor, ...] | None:
    """The example inputs of a plan, on the meta device; None if it has other inputs than tensors, or those of submodules."""
    from torch import Tensor

    from fxprune.inputs.examples import example_of

    args, named = example_of(plan.example)
    whole = not named and not plan.options.get("submodules")
    return args if args and whole and all(isinstance(arg, Tensor) for arg in args) else None


def same_folder(one: Path, other: Path) -> bool:
    return one.resolve() == other.resolve()
