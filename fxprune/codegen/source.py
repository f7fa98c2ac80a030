"""The generated file: header, imports, the model, ``load``."""

from __future__ import annotations

import hashlib
import inspect
from typing import Any

import torch

from fxprune.codegen import reader
from fxprune.codegen.body import signature, statements
from fxprune.codegen.expressions import Expressions
from fxprune.codegen.mode_method import train_method
from fxprune.codegen.names import Names
from fxprune.codegen.records import Records
from fxprune.codegen.schedule import Schedule
from fxprune.codegen.tree import Tree
from fxprune.errors import InputError, PruneError
from fxprune.planning.report import report_of
from fxprune.tracing.graphs.guarded_code import GuardedCode
from fxprune.tracing.patching import unpatched

__all__ = ["class_name", "mark_of", "source_of"]

FIXED = {"Any", "Path", "json", "math", "nn", "torch"}
_OWNERS = {"Block": "self", "attach": "module"}  # of each helper, what its parts must not be called
FUNCTIONS = ("Block", "CODE", "DTYPES", "attach", "fill", "load", "read_beside", "read_safetensors", "waiting_name")

HELPERS = {
    "Block": '''class Block(nn.Module):
    """A part of the model: only holds modules, parameters and buffers; the model's forward uses them."""

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

LOAD = '''def load(weights: Any = None, device: Any = "cpu") -> {model}:
    """Return the model with its weights.

    Args:
        weights: path of the safetensors file, or that file opened for reading bytes; by default the one
            beside this file.
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


def class_name(slim: torch.fx.GraphModule) -> str:
    """Return the name of the generated model class: that of the traced model."""
    arguments = {str(node.target).lstrip("*") for node in slim.graph.nodes if node.op == "placeholder"}
    return _names(slim, arguments)[1]


@unpatched()
def source_of(slim: torch.fx.GraphModule, stem: str = "slim") -> str:
    """Return the source of a module that needs torch alone and computes what `slim` does.

    Args:
        slim: a traced model; its leaves are torch.nn modules. It is not changed.
        stem: name of the file, for the header.

    Named tuples and dataclasses among the outputs become equal classes of the file; subclasses of dict
    (Hugging Face's ModelOutput) a small dict whose entries are attributes; other objects hold attributes alone.

    Raises:
        InputError: `slim` is no GraphModule.
        PruneError: something in it cannot be written as source that needs torch alone; the message names it.
    """
    if not isinstance(slim, torch.fx.GraphModule):
        pruned = [n for n, m in slim.named_modules() if isinstance(m, torch.fx.GraphModule)] if report_of(slim) else []
        hint = f"; save its pruned submodules one by one, as slim.get_submodule({pruned[0]!r})" if pruned else ""
        raise InputError(f"expected a torch.fx.GraphModule, as prune() and trace() return, got {type(slim).__name__}{hint}")
    if type(slim.graph._codegen) not in (torch.fx.graph.CodeGen, GuardedCode):
        raise PruneError(
            f"graphs that flatten their inputs ({type(slim.graph._codegen).__name__}, from torch.export) "
            "cannot be saved: use a graph from prune() or trace()"
        )
    arguments = {str(node.target).lstrip("*") for node in slim.graph.nodes if node.op == "placeholder"}
    names, model = _names(slim, arguments)
    tree = Tree(slim, names)
    schedule = Schedule(slim, names)
    names.arguments.update(schedule.variables.values())
    expressions = Expressions(tree, names, schedule, Records(names))
    body = statements(slim, expressions)
    forward = f"    def forward({signature(slim, expressions)}):"
    records = expressions.records.definitions()
    lines = [_header(slim, model, stem), *names.imports(FIXED), "", "", *records]
    for helper in sorted(tree.helpers):
        text = HELPERS[helper]
        if any(_OWNERS[helper] in path.split(".") for path in (*tree.called, *tree.read)):
            text = text.replace(", **parts", ", /, **parts")  # a part of that name
        lines += [*text.splitlines(), "", ""]
    lines += [f"class {model}({tree.base}):", "    def __init__(self) -> None:", *tree.init_lines()]
    lines += ["", forward, *body, *train_method(tree), "", ""]
    modes = tree.mode_lines()
    lines += [
        *LOAD.format(model=model).splitlines(),
        *modes,
        *_memory_format(slim),
        "    return model",
        "",
        "",
    ]
    for function in (reader.read_beside, reader.waiting_name, reader.read_safetensors):
        lines += [*inspect.getsource(function).splitlines(), "", ""]
    lines += [*_dtypes(), "", "", *inspect.getsource(reader.fill).splitlines(), "", ""]
    return "\n".join([*lines, *_mark("\n".join(lines))]) + "\n"


def _mark(source: str) -> list[str]:
    """What tells the code of a file from other code: its header, which a rename of the file changes, does not count."""
    digest = hashlib.sha256(source.split('"""', 2)[2].encode()).hexdigest()
    return ["# Weights that bear another mark were saved with other code than this file's.", f'CODE = "{digest[:12]}"']


def mark_of(source: str) -> str:
    """The mark that the weights of a generated source bear."""
    return source.rstrip().rpartition(" = ")[2].strip('"')


def _names(slim: torch.fx.GraphModule, arguments: set[str]) -> tuple[Names, str]:
    names = Names(arguments)
    names.declared.update(FUNCTIONS)
    own = type(slim).__name__
    return names, names.declare("Slim" if "GraphModule" in own else own)


def _dtypes() -> list[str]:
    """The names of safetensors' dtypes, as the reader has them."""
    rows = [[pair.split(":") for pair in row.split()] for row in reader.TABLE.strip().splitlines()]
    lines = ["    " + " ".join(f'"{name}": "{dtype}",' for name, dtype in row) for row in rows]
    return ["DTYPES = {", *lines, "}"]


def _memory_format(slim: torch.fx.GraphModule) -> list[str]:
    images = [p for p in slim.parameters() if p.dim() == 4 and not p.is_contiguous()]
    last = images and all(p.is_contiguous(memory_format=torch.channels_last) for p in images)
    return ["    model.to(memory_format=torch.channels_last)"] if last else []


def _header(slim: torch.fx.GraphModule, model: str, stem: str) -> str:
    report = slim.meta.get("fxprune")
    title = _plain(getattr(report, "model", None) or model)
    lines = [f'"""{title}, written by fxprune: needs torch alone.', ""]
    for label, name in (("MACs", "macs"), ("parameters", "params")):
        before, after = getattr(report, f"{name}_before", None), getattr(report, f"{name}_after", None)
        if isinstance(before, (int, float)) and isinstance(after, (int, float)) and before:
            lines.append(f"    {label:<10}  {before:>16,.0f} -> {after:>16,.0f}  ({after / before - 1:+.1%})")
    lines += [""] if len(lines) > 2 else []
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


def _plain(text: Any) -> str:
    """Return `text` with nothing in it that could end or escape the docstring that it goes into."""
    shown = "".join(character if character.isprintable() else " " for character in str(text))
    return shown.replace("\\", "/").replace('"', "'")[:120]
