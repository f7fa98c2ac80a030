"""A plan and the model that was made by it: as files in a folder, and as tables or JSON on stdout."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from fxprune.cli.output import note_replaced, print_json, show_account, show_cost, show_errors, show_plan, show_written
from fxprune.cli.repairing import show_repair
from fxprune.errors import PruneError

if TYPE_CHECKING:
    from torch import nn

    from fxprune.planning.plan import Plan
    from fxprune.planning.report import Report

__all__ = ["save", "show"]


def save(plan: Plan, slim: nn.Module | None, out: Path) -> list[Path]:
    """Write the plan and the smaller model, or each part of it that was pruned; gives the files.

    Raises:
        InputError, PruneError: a file cannot be written, or the model not as source: then plan and weights are kept.
    """
    from fxprune import codegen
    from fxprune.codegen.files import write_text
    from fxprune.planning.report import report_of

    report = report_of(slim)
    if slim is not None and report is not None and report.own_class is not None:
        return _store(plan, slim, out)
    sources: dict[str, Path] = {}
    if slim is not None:
        names = [entry["name"] for entry in plan.options.get("submodules", ())]
        sources = {name: out / f"{name.replace('.', '/')}.py" for name in names} or {"": out / "slim.py"}
    files = [file for source in sources.values() for file in (source, source.with_suffix(".safetensors"))]
    files.append(out / "plan.json")
    note_replaced(files)
    found: dict[str, Any] = {} if slim is None else dict(slim.named_modules())
    try:
        for name, file in sources.items():
            codegen.save(found[name], file)
    except PruneError as error:
        if slim is not None and {*sources} == {""} and not files[0].exists() and _kept(plan, slim, out):
            kept = f"plan.json and slim.safetensors are kept in {str(out)!r}"
            advice = "they fit fxprune.apply(model, plan), and --slim takes the folder"
            raise type(error)(f"{error}; {kept}: {advice}") from error
        raise
    write_text(files[-1], plan.to_json())
    return files


def _store(plan: Plan, slim: nn.Module, out: Path) -> list[Path]:
    """Write a model in its own class, as `fxprune.store` does, and its plan where the other commands look for it."""
    from fxprune.codegen.files import write_text
    from fxprune.shrinking.storing import PLAN, store

    note_replaced([out / "plan.json", out / PLAN])
    store(slim, out)
    write_text(out / "plan.json", plan.to_json())
    return [out / PLAN, *sorted(out.glob("*.safetensors")), out / "plan.json"]


def _kept(plan: Plan, slim: nn.Module, out: Path) -> bool:
    """Plan and weights of a model that cannot be written as source, which may have taken long; whether that was possible."""
    from safetensors.torch import save_file

    from fxprune.codegen.files import write_text
    from fxprune.codegen.replacing import replace

    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in slim.state_dict().items()}
    try:
        write_text(out / "plan.json", plan.to_json())
        replace([out / "slim.safetensors"], [lambda path: save_file(tensors, path)])
    except PruneError:
        return False
    return True


def show(plan: Plan, report: Report | None, written: list[Path], as_json: bool) -> None:
    """Print a plan, and the report of what was done by it, if it was."""
    if as_json:
        planned = {**json.loads(plan.to_json()), "macs": list(plan.macs), "params": list(plan.params)}
        document = planned if report is None else report.to_dict()
        print_json({**document, "written": [str(path) for path in written]})
        return
    console = Console()
    show_plan(console, plan)
    show_cost(console, plan.macs, plan.params, "planned" if report is None else "pruned")
    show_account(console, plan.account)
    if report is not None and report.latency is not None:
        console.print(str(report.latency), markup=False, highlight=False, soft_wrap=True)
    if report is not None and report.checks is not None:
        show_errors(console, report.checks)
    if report is not None and report.own_class is not None:
        for text in (str(report.own_class), *report.notes):
            console.print(text, markup=False, highlight=False)
    show_repair(console, None if report is None else report.repair)
    show_written(console, written)
