"""A slim model in its own class on disk: its plan and its weights, from which the class that the user has makes it again."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fxprune.codegen.replacing import checked_path, replace
from fxprune.errors import InputError, shown
from fxprune.inputs.acceptance import check_model
from fxprune.inputs.checkpoints import load_into, read_state_dict
from fxprune.options import check_flag
from fxprune.planning.plan import Plan
from fxprune.planning.report import Clock, report_of
from fxprune.shrinking.verb import applied_own
from fxprune.state import deep_copy, named_parts, named_tensors

__all__ = ["PLAN", "restore", "store"]

PLAN = "fxprune_plan.json"
WEIGHTS = "fxprune.safetensors"


def store(slim: nn.Module, path: str | os.PathLike[str]) -> Path:
    """Write a slim model in its own class, trained or not, into a folder: weights, and ``fxprune_plan.json`` beside them.

    A model that has a method ``save_pretrained`` writes its weights, and what it was built from, by that; another one's are
    ``model.safetensors``. Where that method stores them under other names than the model's, ``fxprune.safetensors`` has them
    once more. Nothing is pickled. `restore` reads it.

    >>> from fxprune import prune
    >>> store(prune(net, 0.5, x, form="module"), "folder").as_posix()
    'folder'

    Args:
        slim: what `shrink` returned, or `prune` with ``form="module"``.
        path: the folder, made if needed.

    Raises:
        InputError: this is no such model, or the path is no folder.
        PruneError: the disk refuses.
    """
    report = report_of(slim)
    if report is None or report.own_class is None:
        raise InputError(
            f"store takes what shrink returned, or prune with form='module', not {shown(slim)}: fxprune.save writes graphs"
        )
    folder = checked_path(path)
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file: name a folder")
    files, contents = [folder / PLAN], [lambda file: file.write_text(report.plan.to_json(), encoding="utf-8")]
    own = getattr(slim, "save_pretrained", None)
    if callable(own):
        (folder / WEIGHTS).unlink(missing_ok=True)
        own(folder)
    if not callable(own) or not _names_in(folder) <= set(named_tensors(slim)):
        files.append(folder / (WEIGHTS if callable(own) else "model.safetensors"))
        contents.append(lambda file: _save_tensors(slim, file))
    replace(files, contents)
    return folder


def restore(model: nn.Module, path: str | os.PathLike[str], *, verify: bool = True) -> Any:
    """Make the slim model that `store` wrote again, from a model of the class and size that was pruned.

    >>> from fxprune import prune
    >>> folder = store(prune(net, 0.5, x, form="module"), "folder")
    >>> restore(nn.Sequential(nn.Linear(8, 16), nn.Linear(16, 2)), folder)
    Sequential(
      (0): Linear(in_features=8, out_features=8, bias=True)
      (1): Linear(in_features=8, out_features=2, bias=True)
    )

    Args:
        model: as it is before pruning, whatever its weights, and untouched; or of the slim sizes already, as a class makes it
            from a configuration that says them: then a copy gets the weights.
        path: the folder: ``fxprune_plan.json``, and ``fxprune.safetensors`` or else all ``.safetensors`` files in it.
        verify: prove the copy as `shrink` does.

    Raises:
        InputError: a file is missing, damaged, or of another model.
        PlanMismatch: the plan was made for another model.
    """
    check_model(model)
    verify = check_flag(verify, "verify")
    folder = checked_path(path)
    plan, state = _plan_of(folder), _weights_of(folder)
    made = deep_copy(model) if _fits(model, state) else applied_own(model, plan, Clock(), verify)
    _add_biases(made, state)
    load_into(made, _completed(made, state), str(folder))
    return made


def _plan_of(folder: Path) -> Plan:
    file = folder / PLAN
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file} cannot be read: {getattr(error, 'strerror', None) or error}; store writes it") from error
    return Plan.from_json(text)


def _weights_of(folder: Path) -> dict[str, Tensor]:
    files = [folder / WEIGHTS] if (folder / WEIGHTS).exists() else sorted(folder.glob("*.safetensors"))
    if not files:
        raise InputError(f"there are no weights in {folder}: no file ends in .safetensors")
    state: dict[str, Tensor] = {}
    for file in files:
        state |= read_state_dict(file)
    return state


def _names_in(folder: Path) -> set[str]:
    """Of the tensors that lie in a folder."""
    from safetensors import safe_open

    names: set[str] = set()
    for path in folder.glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            names |= set(file.keys())
    return names


def _save_tensors(slim: nn.Module, file: Path) -> None:
    """Each tensor once, under the first of its names."""
    from safetensors.torch import save_file

    state, first = slim.state_dict(), {id(t): n for n, t in reversed(named_tensors(slim).items())}
    names = {n: first.get(id(t), n) for n, t in named_tensors(slim).items()}
    save_file({n: t.detach().cpu().contiguous() for n, t in state.items() if names.get(n, n) == n}, file)


def _add_biases(model: nn.Module, state: dict[str, Tensor]) -> None:
    """Those that layers got when they were repaired."""
    parts = dict(named_parts(model))
    for name, tensor in state.items():
        owner, _, key = name.rpartition(".")
        table = parts[owner]._parameters if owner in parts else {}
        if key == "bias" and key in table and table[key] is None:
            table[key] = nn.Parameter(torch.zeros_like(tensor))


def _completed(model: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """With the names of tensors that are stored under another one of theirs."""
    own = named_tensors(model)
    stored = {id(own[n]): t for n, t in state.items() if n in own}
    return state | {n: stored[id(own[n])] for n in model.state_dict() if n in own and n not in state and id(own[n]) in stored}


def _fits(model: nn.Module, state: dict[str, Tensor]) -> bool:
    own = named_tensors(model)
    return all(n in own and own[n].shape == t.shape for n, t in state.items())
