"""The generated file around the model: header, imports, what loads the weights, and the mark that they bear."""

from __future__ import annotations

import ast
import hashlib
import importlib
import inspect
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

import torch

from fxprune.codegen import reader
from fxprune.codegen.names import Names
from fxprune.codegen.structured.printer import lines_of
from fxprune.planning.report import Report

__all__ = ["FUNCTIONS", "Written", "assembled", "mark_of", "model_name"]

FIXED = {"Any", "Path", "json", "math", "nn", "torch"}
_OWNERS = {"Block": "self", "attach": "module"}  # of each helper, what its parts must not be called
FUNCTIONS = ("CODE", "DTYPES", "attach", "fill", "load", "read_beside", "read_safetensors", "waiting_name")

HELPERS = {
    "Block": '''class Block(nn.Module):
    """Only holds modules, parameters and buffers, which the model's forward uses."""

    def __init__(self, **parts: Any) -> None:
        super().__init__()
        for name, part in parts.items():
            setattr(self, name, part)
''',
    "attach": '''def attach(module: nn.Module, **parts: Any) -> nn.Module:
    """Give `module` more modules, parameters and buffers than its class has."""
    for name, part in parts.items():
        setattr(module, name, part)
    return module
''',
}

LOAD = '''def {builder}(weights: Any = None) -> {model}:
    """The model with the weights of a safetensors file, or new ones to be trained."""
    return {model}() if weights is None else load(weights)


def load(weights: Any = None, device: Any = "cpu") -> {model}:
    """Return the model with its weights, in the mode that it was saved in.

    Args:
        weights: path of the safetensors file, or that file opened for reading bytes;
            by default the one beside this file.
        device: where the weights go.

    Raises:
        ValueError: the file is damaged or holds the weights of another model.
    """
    with torch.device("meta"):
        model = {model}()
    if weights is None:
        tensors = read_beside(Path(__file__), CODE)
    elif hasattr(weights, "read"):
        tensors = read_safetensors(weights)
    else:
        with open(weights, "rb") as file:
            tensors = read_safetensors(file)
    fill(model, tensors, device)
'''


@dataclass
class Written:
    """A model as source.

    Attributes:
        name: of its class.
        records: lines of the classes of its outputs.
        helpers: helper definition -> what its class or function is called in the file.
        lines: of its classes, the model's own last; two empty lines at their end.
        modes: statements of ``load`` that bring the parts of ``model`` into the modes that they were saved in.
        parts: names of parts, which arguments of the helpers must not hide.
        tables: lines of the numbers that stand above the classes.
        note: what to know of the form.
    """

    name: str
    records: list[str]
    helpers: dict[str, str]
    lines: list[str]
    modes: list[str]
    parts: Collection[str] = ()
    tables: list[str] = field(default_factory=list)
    note: str = ""


def assembled(slim: torch.fx.GraphModule, names: Names, stem: str, written: Written) -> str:
    """The whole file."""
    gap = [""] if written.tables else ["", ""]  # as formatters have it before a number, and before a class
    lines = [_header(slim, written, stem), *names.imports(FIXED), *gap, *written.tables, *written.records]
    for helper, name in sorted(written.helpers.items()):
        text = HELPERS[helper].replace(f"class {helper}(", f"class {name}(")
        if _OWNERS[helper] in written.parts:
            text = text.replace(", **parts", ", /, **parts")  # a part of that name
        lines += [*text.splitlines(), "", ""]
    lines += written.lines
    made = LOAD.format(model=written.name, builder=builder_name(written.name))
    lines += [*_laid_out(made), *written.modes, *_memory_format(slim), "    return model", "", ""]
    for function in (reader.read_beside, reader.waiting_name, reader.read_safetensors):
        lines += [*inspect.getsource(function).splitlines(), "", ""]
    lines += [*inspect.getsource(reader.fill).splitlines(), "", "", *_dtypes(), ""]
    return "\n".join([*lines, *_mark("\n".join(lines))]) + "\n"


def _laid_out(source: str) -> list[str]:
    """The lines of functions, of which those that name the model may be too long for one."""
    lines: list[str] = []
    for line in source.splitlines():
        if line.startswith("def "):
            lines += lines_of(ast.parse(f"{line} pass").body)[:-1]
        else:
            lines += lines_of(ast.parse(line.strip()).body, 4) if line.startswith("    return ") else [line]
    return lines


def builder_name(model: str) -> str:
    """The function that makes the model."""
    return f"slim_{model.lower()}"


def model_name(slim: torch.fx.GraphModule, names: Names) -> str:
    """The name of the model's class, which is no other thing's from now on: that of the traced model."""
    own = type(slim).__name__
    own = "Slim" if "GraphModule" in own else own
    names.declared.update((*FUNCTIONS, builder_name(own)))
    return names.declare(own)


def _mark(source: str) -> list[str]:
    """What tells the code of a file from other code: its header, which a rename of the file changes, does not count."""
    digest = hashlib.sha256(source.split('"""', 2)[2].encode()).hexdigest()
    return ["# Weights that bear another mark were saved with other code than this file's.", f'CODE = "{digest[:12]}"']


def mark_of(source: str) -> str:
    """The mark that the weights of a generated source bear."""
    return source.rstrip().rpartition(" = ")[2].strip('"')


def _dtypes() -> list[str]:
    """The names of safetensors' dtypes, as the reader has them."""
    return [
        'TABLE = """',
        *reader.TABLE.strip().splitlines(),
        '"""',
        'DTYPES = dict(pair.split(":") for pair in TABLE.split())',
    ]


def _memory_format(slim: torch.fx.GraphModule) -> list[str]:
    images = [p for p in slim.parameters() if p.dim() == 4 and not p.is_contiguous()]
    last = images and all(p.is_contiguous(memory_format=torch.channels_last) for p in images)
    return ["    model.to(memory_format=torch.channels_last)"] if last else []


def _header(slim: torch.fx.GraphModule, written: Written, stem: str) -> str:
    report = slim.meta.get("fxprune")
    title = _plain(getattr(report, "model", None) or written.name)
    version = importlib.import_module("fxprune").__version__  # which stands above all rooms of the package
    lines = [f'"""{title}, written by fxprune {version}: needs torch alone.', ""]
    known = _figures(report)
    lines += [*known, ""] if known else []
    lines += [*(f"{written.note}" for _ in range(bool(written.note))), *([""] if written.note else [])]
    lines += [
        f"The weights lie beside this file, in {_plain(stem)}.safetensors:",
        "",
        f"    from {_plain(stem)} import load",
        "",
        '    model = load()  # or load(device="cuda"), load("other.safetensors")',
        '"""',
        "",
    ]
    return "\n".join(lines)


def _figures(report: Any) -> list[str]:
    """What was done, a line each."""
    lines = []
    for label, name in (("MACs", "macs"), ("parameters", "params")):
        before, after = getattr(report, f"{name}_before", None), getattr(report, f"{name}_after", None)
        if isinstance(before, (int, float)) and isinstance(after, (int, float)) and before:
            lines.append(f"    {label:<10}  {before:>16,.0f} -> {after:>16,.0f}  ({after / before - 1:+.1%})")
    if not isinstance(report, Report):
        return lines
    if report.validation is not None and report.validation.dense.top1 and len(report.validation.slim) == 1:
        found = report.validation.slim[0].top1
        if found is not None:
            dense = report.validation.dense.top1.value
            images = f"{report.validation.images:,} images"
            lines.append(f"    accuracy    {dense:>16.2%} -> {found.value:>16.2%}  (top-1, {images})")
    if report.optimized is not None:
        did = ", ".join(f"{count} {what}" for counts in report.optimized.values() for what, count in counts.items())
        lines.append(f"    then optimized for evaluation: {_plain(did or 'nothing to do')}")
    criterion = report.plan.options.get("criterion")
    if isinstance(criterion, str) and criterion.isidentifier():
        lines.append(f"    criterion   {criterion:>16}")
    if report.plan.fingerprint.isalnum():
        lines.append(f"    plan for    {report.plan.fingerprint[:16]:>16}")
    return lines


def _plain(text: Any) -> str:
    """Return `text` with nothing in it that could end or escape the docstring that it goes into."""
    shown = "".join(character if character.isprintable() else " " for character in str(text))
    return shown.replace("\\", "/").replace('"', "'")[:120]
