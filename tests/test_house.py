"""The house rules: who may import whom, where files stand, and how long they may grow."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# Each floor may import the floors before it; the rooms of one floor do not import each other.
FLOORS = (
    ("errors",),
    ("progress",),
    ("nested",),
    ("rebinding",),
    ("state",),
    ("quantities",),
    ("options",),
    ("labels",),
    ("rules",),
    ("tracing",),
    ("analysis", "inputs"),
    ("statistics", "passes", "planning"),
    ("rewrite",),
    ("criteria", "codegen", "submodules", "proofs", "recovery"),
    ("profiling",),
    ("costing", "deciding", "deployment", "revising"),
    ("shrinking",),
    ("api", "iterating", "studies"),
    ("fxprune",),  # the package itself, by its public names
    ("cli",),
)
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
# Only the table of operators names the rules that it loads, and only the package itself finds its passes.
LOOSE_FILES = {
    "__init__",
    "_layout",
    "api",
    "costing",
    "deciding",
    "errors",
    "nested",
    "options",
    "progress",
    "quantities",
    "rebinding",
    "revising",
    "rewrite",
    "state",
}
# Public: their arguments are what users may say.
VERBS = {
    "prune",
    "plan",
    "study",
    "finetune",
    "gather",
    "aura_map",
    "repair",
    "validate",
    "iterate",
    "sensitivity",
    "search_ratios",
    "profile",
}


def files() -> list[Path]:
    return sorted([*(ROOT / "fxprune").rglob("*.py"), *(ROOT / "passes").rglob("*.py")])


def room_of(module: str) -> str:
    """``fxprune.labels.store`` -> ``labels``; the package itself is ``fxprune``."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in FLOOR else "fxprune"


def module_of(path: Path) -> str:
    relative = path.relative_to(ROOT).with_suffix("")
    parts = ("fxprune", *relative.parts) if relative.parts[0] == "passes" else relative.parts
    return ".".join(parts).removesuffix(".__init__")


def imports(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and module of every import, those in functions and for type checkers included."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.partition(".")[0] == "fxprune":
                    yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "fxprune":
            for alias in node.names:
                yield node.lineno, f"{node.module}.{alias.name}"


def against_the_order(source: str, module: str) -> list[str]:
    """The imports of a module that go up, or to a room of its own floor."""
    room, found = room_of(module), []
    if room == "fxprune":
        return []  # __init__ offers everything, lazily
    for line, name in imports(ast.parse(source)):
        other = room_of(name)
        if other != room and FLOOR[other] >= FLOOR[room]:
            found.append(f"{module}:{line} ({room}) imports {name} ({other})")
    return found


@pytest.mark.parametrize("path", files(), ids=lambda p: p.relative_to(ROOT).as_posix())
def test_imports_go_down_only(path: Path) -> None:
    assert not against_the_order(path.read_text(), module_of(path))


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("fxprune.labels.store", "from fxprune.analysis.cut import Cut"),
        ("fxprune.planning.plan", "def f():\n    import fxprune.passes.base"),
        ("fxprune.tracing.tracer", "if TYPE_CHECKING:\n    from fxprune.api import prune"),
        ("fxprune.api", "from fxprune import cli"),
    ],
)
def test_an_import_against_the_order_is_found(module: str, source: str) -> None:
    assert against_the_order(source, module)


def test_files_outside_of_rooms_are_few() -> None:
    assert {p.stem for p in (ROOT / "fxprune").glob("*.py")} <= LOOSE_FILES


@pytest.mark.parametrize("path", files(), ids=lambda p: p.relative_to(ROOT).as_posix())
def test_modules_and_functions_stay_short(path: Path) -> None:
    """300 lines a module (200 the page that shows the pipeline), 60 lines and 6 parameters a function."""
    source = path.read_text()
    limit = 200 if path.name == "api.py" else 300
    assert len(source.splitlines()) <= limit, "part it by what it does"
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        where = f"{node.name} in line {node.lineno}"
        if node.name in VERBS or _is_command(node) or _is_override(node):
            continue
        assert (node.end_lineno or 0) - node.lineno + 1 <= 60, f"{where} is too long"
        arguments = node.args
        names = [a.arg for a in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
        count = len([n for n in names if n not in ("self", "cls")]) + bool(arguments.vararg) + bool(arguments.kwarg)
        assert count <= 6, f"{where} takes {count} parameters"


def _is_command(node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """A function of the command line: its parameters are the options."""
    return any("given." in ast.unparse(a.annotation) for a in node.args.args if a.annotation)


def _is_override(node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """A function whose parameters another library fixes."""
    return "as PyTorch calls it" in (ast.get_docstring(node) or "")
