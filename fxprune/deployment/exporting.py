"""`export`: a model as a file for another runtime, compared with the model before it is kept."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn

from fxprune import nested
from fxprune.deployment.formats import Format, format_of
from fxprune.deployment.optimizing import inputs_of
from fxprune.deployment.optimizing import optimize as optimized
from fxprune.deployment.widths import advice
from fxprune.errors import InputError, NotEquivalent, PruneError, said
from fxprune.inputs.acceptance import check_model, check_values
from fxprune.inputs.examples import own_copy, random_like
from fxprune.options import check_flag
from fxprune.planning.report import check_graph
from fxprune.proofs.errors import relative_error
from fxprune.state import place_of
from fxprune.tracing.graphs.one_mode import without_checks
from fxprune.tracing.untouched import seed_all, twin_of, untouched

__all__ = ["export"]

_TOLERANCE = 1e-4
_log = logging.getLogger("fxprune")


def export(
    model: nn.Module,
    path: str | Path,
    example_inputs: Any = None,
    *,
    optimize: bool = True,
    dynamic_batch: bool = True,
) -> Path:
    """Write `model` in evaluation to a file for another runtime, and compare the file with it; `model` is untouched.

    The suffix says the format: ``.onnx`` (ONNX, checked by ONNX Runtime), ``.pt2`` (`torch.export.save`), ``.xml`` (OpenVINO).

    >>> import fxprune, tempfile
    >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = fxprune.export(net, f"{folder}/net.pt2", torch.zeros(2, 4))
    ...     torch.export.load(file).module()(torch.zeros(7, 4)).shape
    torch.Size([7, 2])

    Args:
        model: what `prune` gave, or any model.
        example_inputs: as of `prune`; those of the plan if not given.
        optimize: run the passes of `fxprune.optimize` first.
        dynamic_batch: let the first axis of all inputs be of any size. It has to be one size in all of them, and at least 2.

    Returns:
        The file. Its outputs on random inputs, of two batch sizes if the batch is dynamic, are within 1e-4 (relative) of those
        of `model` itself; a file that is not, is not kept, and one that was there before stays. Where the widths of its
        convolutions are of the kind that the runtime is slow at, the logger `fxprune` says so.

    Raises:
        InputError: no format has this suffix, a library is missing, or the inputs are not known.
        PruneError: the model cannot be exported, or the file cannot be written.
        NotEquivalent: the file computes something else.
    """
    target, form = Path(path), format_of(Path(path))
    check_model(model)
    check_graph(model, "an export", "export the parts that do not depend on values, each by itself")
    check_values(model, "export a filled model")
    optimize, dynamic_batch = check_flag(optimize, "optimize"), check_flag(dynamic_batch, "dynamic_batch")
    device, dtype = place_of(model)
    if device.type != "cpu":
        raise InputError(f"the model is on {device}: export a copy on the CPU, model.cpu()")
    given = random_like(inputs_of(model, example_inputs), device, dtype)
    if dynamic_batch:
        given = _resized(given, max(2, _batch(given)))
    with untouched(model, watch=False):
        made = optimized(model, example_inputs) if optimize else twin_of(model).eval()
        if isinstance(made, fx.GraphModule):
            made = without_checks(made).eval()
        program = _program(made, given, dynamic_batch)
        _keep(program, target, form, [(x, _outputs(model, x)) for x in _trials(given, dynamic_batch)])
    if sentence := advice(model, form):
        _log.warning("%s: %s", target.name, sentence)
    return target


def _batch(given: Any) -> int:
    """The size of the first axis of all inputs.

    Raises:
        InputError: there is none.
    """
    sizes = {t.shape[0] if t.dim() else 0 for t in nested.tensors(given)}
    if len(sizes) != 1 or 0 in sizes:
        raise InputError(f"the inputs have no batch in common (first axes {sorted(sizes)}): say dynamic_batch=False")
    return sizes.pop()


def _resized(given: Any, batch: int) -> Any:
    """Inputs of another batch: samples are repeated, or left out."""
    return nested.map(lambda v: v[torch.arange(batch) % len(v)] if isinstance(v, Tensor) else v, given)


def _trials(given: Any, dynamic: bool) -> list[Any]:
    return [given, _resized(random_like(given, torch.device("cpu"), None, seed=1), _batch(given) + 1)] if dynamic else [given]


def _outputs(model: nn.Module, given: Any) -> list[Tensor]:
    """What the user's own model returns in evaluation."""
    twin = twin_of(model).eval()
    seed_all(0)
    with torch.no_grad():
        return [*nested.tensors(twin(*own_copy(given[0]), **own_copy(given[1])))]


def _program(made: nn.Module, given: Any, dynamic: bool) -> Any:
    """
    Raises:
        PruneError: torch.export cannot.
    """
    args, named = given
    shapes = None
    if dynamic:
        batch = torch.export.Dim("batch", min=1)
        free = nested.map(lambda v: {0: batch} if isinstance(v, Tensor) else None, (args, named))
        shapes = free[1] or free[0]  # example inputs come by place or by name, never both
    try:
        with torch.no_grad():
            return torch.export.export(made, args, named, dynamic_shapes=shapes, strict=False)
    except Exception as error:  # whatever the exporter says to the model
        more = "; where a part of the model fixes the batch, say dynamic_batch=False" if dynamic else ""
        raise PruneError(f"torch.export cannot export the model ({type(error).__name__}: {said(error)}){more}") from error


def _keep(program: Any, target: Path, form: Format, trials: Sequence[tuple[Any, list[Tensor]]]) -> None:
    """Write a file beside the place where it shall be, compare it, and put it there."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".export-") as folder:
            made = Path(folder) / target.name
            try:
                form.write(program, made)
                run = form.load(made)
            except OSError:
                raise
            except Exception as error:
                raise PruneError(f"{form.title} does not take the model ({type(error).__name__}: {said(error)})") from error
            for given, expected in trials:
                _compare(run, given, expected, form.title)
            del run
            for suffix in form.beside:
                beside = made.with_suffix(suffix)
                if beside.exists():
                    os.replace(beside, target.with_suffix(suffix))
            os.replace(made, target)
    except OSError as error:
        raise PruneError(f"cannot write {str(target)!r}: {error}") from error


def _compare(run: Any, given: Any, expected: list[Tensor], title: str) -> None:
    """
    Raises:
        NotEquivalent: a file computes something else than the model.
    """
    args, named = given
    try:
        found = run(nested.tensors((args, named)))
    except Exception as error:
        raise PruneError(f"the {title} file does not run ({type(error).__name__}: {said(error)})") from error
    if len(found) != len(expected):
        raise NotEquivalent(f"the {title} file returns {len(found)} tensors, the model {len(expected)}")
    for number, (a, b) in enumerate(zip(found, expected, strict=True)):
        if a.shape != b.shape:
            raise NotEquivalent(f"output {number} of the {title} file is {tuple(a.shape)}, that of the model {tuple(b.shape)}")
        distance = relative_error(a, b)
        if not distance <= _TOLERANCE:
            raise NotEquivalent(
                f"output {number} of the {title} file is off by {distance:.1e} (relative), more than {_TOLERANCE:.0e}"
            )
