"""The house rules: who may import whom, where files stand, and how long they may grow."""

from __future__ import annotations

import ast
import functools
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
    ("costing", "deciding", "deployment", "reporting", "revising"),
    ("shrinking",),
    ("api", "iterating", "studies"),
    ("fxprune",),  # the package itself, by its public names
    ("cli",),
)
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
# Only the table of operators names the rules that it loads, and only the package itself finds its passes.
LOOSE_FILES = {
    "__init__",
    "__main__",
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


@functools.cache
def sources() -> dict[str, tuple[str, ast.Module]]:
    """Each module of the package, by its path: what it says, and the tree of that."""
    files = sorted([*(ROOT / "fxprune").rglob("*.py"), *(ROOT / "passes").rglob("*.py")])
    texts = {path.relative_to(ROOT).as_posix(): path.read_text() for path in files}
    return {name: (text, ast.parse(text)) for name, text in texts.items()}


def room_of(module: str) -> str:
    """``fxprune.labels.store`` -> ``labels``; the package itself is ``fxprune``."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in FLOOR else "fxprune"


def module_of(path: str) -> str:
    """``passes/base.py`` -> ``fxprune.passes.base``."""
    name = path.removesuffix(".py").replace("/", ".")
    return f"{'fxprune.' if name.startswith('passes') else ''}{name}".removesuffix(".__init__")


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


def against_the_order(tree: ast.AST, module: str) -> list[str]:
    """The imports of a module that go up, or to a room of its own floor."""
    room, found = room_of(module), []
    if room == "fxprune":
        return []  # __init__ offers everything, lazily
    for line, name in imports(tree):
        other = room_of(name)
        if other != room and FLOOR[other] >= FLOOR[room]:
            found.append(f"{module}:{line} ({room}) imports {name} ({other})")
    return found


def test_imports_go_down_only() -> None:
    assert not [found for path, (_, tree) in sources().items() for found in against_the_order(tree, module_of(path))]


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
    assert against_the_order(ast.parse(source), module)


def test_files_outside_of_rooms_are_few() -> None:
    assert {p.stem for p in (ROOT / "fxprune").glob("*.py")} <= LOOSE_FILES


def test_modules_and_functions_stay_short() -> None:
    """300 lines a module (200 the page that shows the pipeline), 60 lines and 6 parameters a function."""
    assert not [found for path, (text, tree) in sources().items() for found in too_long(path, text, tree)]


def too_long(path: str, text: str, tree: ast.AST) -> Iterator[str]:
    lines, limit = len(text.splitlines()), 200 if path == "fxprune/api.py" else 300
    if lines > limit:
        yield f"{path} has {lines} lines: part it by what it does"
    for node in ast.walk(tree):
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        length, count = (node.end_lineno or 0) - node.lineno + 1, parameters(node)
        if (length > 60 or count > 6) and not (node.name in VERBS or _is_command(node) or _is_override(node)):
            yield f"{path}:{node.lineno}: {node.name} has {length} lines and {count} parameters"


def parameters(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    arguments = node.args
    names = [a.arg for a in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
    return len([n for n in names if n not in ("self", "cls")]) + bool(arguments.vararg) + bool(arguments.kwarg)


@pytest.mark.parametrize(
    ("path", "text", "said"),
    [
        ("passes/a.py", "\n" * 301, "301 lines"),
        ("fxprune/api.py", "\n" * 201, "201 lines"),
        ("fxprune/a.py", "def f():\n" + "    1\n" * 60, "f has 61 lines"),
        ("fxprune/a.py", "class A:\n    def f(self, a, b, /, c, *d, e, f, **g): ...", "7 parameters"),
    ],
)
def test_what_is_too_long_is_found(path: str, text: str, said: str) -> None:
    (found,) = too_long(path, text, ast.parse(text))
    assert said in found and found.startswith(path)


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("fxprune/a.py", "\n" * 300),
        ("fxprune/a.py", "def f():\n" + "    1\n" * 59),
        ("fxprune/a.py", "def f(self, a, b, c, d, e, f): ..."),
        ("fxprune/a.py", "def prune(a, b, c, d, e, f, g): ..."),
        ("fxprune/a.py", "def f(a: given.Ratio, b, c, d, e, f, g): ..."),
    ],
)
def test_what_is_short_enough_passes(path: str, text: str) -> None:
    assert not [*too_long(path, text, ast.parse(text))]


def _is_command(node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """A function of the command line: its parameters are the options."""
    return any("given." in ast.unparse(a.annotation) for a in node.args.args if a.annotation)


def _is_override(node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """A function whose parameters another library fixes."""
    return "as PyTorch calls it" in (ast.get_docstring(node) or "")
