"""Both forms of a generated file, with classes and as one forward: one model, laid out and typed as checkers want it."""

from __future__ import annotations

import ast
import copy
import io
import itertools
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from grammar import Program, programs
from helpers import named_tensors
from hypothesis import HealthCheck, given, seed, settings
from networks import NETWORKS
from safetensors.torch import save as to_bytes
from support.codegen import run_once
from torch import fx, nn

import fxprune
from fxprune.codegen.names import Names
from fxprune.codegen.roundtrip import same_result
from fxprune.codegen.source import source_of
from fxprune.codegen.source_files import execute, generated
from fxprune.codegen.structured.file import structured_source
from fxprune.codegen.structured.same import difference
from fxprune.codegen.structured.tables import Tables


def both_forms(slim: fx.GraphModule) -> dict[str, str]:
    """The sources of a model; that with classes is proved to do the same."""
    structured = structured_source(slim)
    made = execute(structured.encode(), "structured")
    with torch.device("meta"):
        assert not difference(slim, vars(made)["load"].__annotations__["return"]())
    return {"structured": structured, "flat": source_of(slim)}


def assert_one_model(slim: fx.GraphModule, inputs: tuple[Any, ...]) -> dict[str, str]:
    """Both forms have the keys of `slim` and give the same outputs and state, in both modes."""
    sources = both_forms(slim)
    tensors = {name: tensor.detach().clone() for name, tensor in named_tensors(slim).items()}
    slim = copy.deepcopy(slim)
    expected = {training: run_once(slim.train(training), inputs) for training in (True, False)}
    for form, source in sources.items():
        module = execute(source.encode(), form)
        model: nn.Module = vars(module)["load"](io.BytesIO(to_bytes(_stored(module, tensors))))
        assert list(model.state_dict()) == list(slim.state_dict()), form
        for training in (True, False):
            found = run_once(model.train(training), inputs)
            assert len(expected[training]) == len(found)
            assert all(map(same_result, expected[training], found)), form
    return sources


def _stored(module: Any, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """What the file of a generated module would hold: of tied tensors the first."""
    with torch.device("meta"):
        made = module.load.__annotations__["return"]()
    return {name: tensors[name] for name in dict((*made.named_parameters(), *made.named_buffers()))}


def assert_clean(folder: Path, *, typed: bool = False) -> None:
    """Ruff's formatter and linter, and a strict type checker, have nothing to say on the files of a folder."""
    tools = [["ruff", "format", "--isolated", "--diff", "."], ["ruff", "check", "--isolated", "."]]
    tools += [["mypy", "--strict", "--scripts-are-modules", "--cache-dir", "cache", *map(str, folder.glob("*.py"))]] * typed
    for tool in tools:
        done = subprocess.run([sys.executable, "-m", *tool], cwd=folder, capture_output=True, text=True)
        assert done.returncode == 0, f"{done.stdout[:4000]}{done.stderr[-2000:]}"


def search(count: int, folder: Path) -> None:
    """Random networks in both forms, whose files stay in the folder."""
    number = itertools.count()

    @seed(18)
    @settings(max_examples=count, deadline=None, database=None, suppress_health_check=list(HealthCheck), print_blob=False)
    @given(programs())
    def same(program: Program) -> None:
        torch.manual_seed(0)
        model, inputs = program.build(), program.inputs(2)
        for form, source in assert_one_model(fxprune.trace(model, inputs), inputs).items():
            (folder / f"{form}_{next(number)}.py").write_text(source)

    same()


def test_random_networks_in_both_forms(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    search(request.config.getoption("--fuzz") // 20, tmp_path)
    assert_clean(tmp_path)


@pytest.mark.slow
def test_many_networks_in_both_forms(tmp_path: Path) -> None:
    search(150, tmp_path)
    for number, net in enumerate(NETWORKS.values()):
        inputs = net.inputs(2)
        try:
            sources = assert_one_model(fxprune.trace(net.build(), inputs), inputs)
        except fxprune.PruneError as error:
            assert "needs torch alone" in str(error), net.id  # an operator of the tests' own
            continue
        for form, source in sources.items():
            (tmp_path / f"{form}_of_{number}.py").write_text(source)
    assert_clean(tmp_path, typed=True)


def test_the_header_says_why_there_are_no_classes() -> None:
    source, _ = generated(fx.symbolic_trace(nn.Sequential(nn.Linear(4, 4))))
    assert "Written as one forward: the graph does not tell which module's call its nodes are of" in source


class Steps(nn.Module):
    """A part that hands on numbers, a loop whose result is the part's, and parts of a tensor that are taken early."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)])

    def forward(self, x: Any) -> Any:
        for block in self.blocks:
            x = block(x)
        return x


class Taken(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.steps = nn.Sequential(Steps(), Steps())
        self.norm = nn.BatchNorm1d(4)
        self.scale = nn.Parameter(torch.randn(2, 4))
        self.pool = nn.MaxPool1d([2], stride=[2])

    def forward(self, x: Any) -> Any:
        first, second = self.scale[0], self.scale[1]
        x = self.norm(self.steps(x)) * first
        a, b = x.split((1, 3), -1)
        c, d = a.split(split_size=2, dim=0)
        x = torch.cat([b, torch.cat([c, d])], -1).unflatten(1, (2, 2)).flatten(1)
        return self.pool(x) * second[:2]


def test_idioms(tmp_path: Path) -> None:
    inputs = (torch.randn(3, 4),)
    sources = assert_one_model(fxprune.trace(Taken(), inputs), inputs)
    assert "for block in self.blocks:\n            x = block(x)\n        return x" in sources["structured"]
    assert all(
        ", [1, 3], " in source and "torch.unflatten(" in source and "nn.MaxPool1d((2,)" in source for source in sources.values()
    )
    for form, source in sources.items():
        (tmp_path / f"{form}.py").write_text(source)
    assert_clean(tmp_path)


def test_long_names_are_laid_out(tmp_path: Path) -> None:
    name = "A" + "VeryLongName" * 5
    inputs = (torch.randn(3, 4),)
    sources = both_forms(fxprune.trace(type(name, (Taken,), {})(), inputs))
    for form, source in sources.items():
        assert f"class {name}" in source
        (tmp_path / f"{form}.py").write_text(source)
    assert_clean(tmp_path)


def test_tables_are_laid_out(tmp_path: Path) -> None:
    lists = [[*range(20)], [*range(200)], [(n, n * 1e-7) for n in range(9)], [tuple(range(40)), tuple(range(1, 41))]]
    tables = Tables(Names())
    shown = [tables.visit(ast.parse(repr(numbers), mode="eval").body) for numbers in (*lists, lists[0])]
    assert [ast.unparse(name) for name in shown] == ["WIDTHS", "WIDTHS_2", "WIDTHS_3", "WIDTHS_4", "WIDTHS"]
    (tmp_path / "tables.py").write_text("\n".join([*tables.lines()[:-2], ""]))
    assert_clean(tmp_path)
    space: dict[str, Any] = {}
    exec((tmp_path / "tables.py").read_text(), space)
    assert [space[name] for name in ("WIDTHS", "WIDTHS_2", "WIDTHS_3", "WIDTHS_4")] == lists


LINES = [
    "a = self.a(x)",
    "b = self.b(x)",
    "c = self.norm(a)",
    "a.add_(1)",
    "d = self.norm(b)",
    "e = torch.rand_like(b)",
    "f = torch.rand_like(a)",
    "return c + a * e, d - f",
]


def changed(lines: list[str]) -> type[nn.Module]:
    """A model whose forward has these lines."""

    class Changed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)
            self.norm = nn.BatchNorm1d(4)

    space: dict[str, Any] = {"torch": torch}
    exec("\n    ".join(["def forward(self, x):", *lines]), space)
    Changed.forward = space["forward"]
    return Changed


SWAPS = {
    "what knows nothing of each other": ("a = self.a(x)", "b = self.b(x)", True),
    "a change of memory and who reads it": ("c = self.norm(a)", "a.add_(1)", False),
    "two runs of a batch norm": ("c = self.norm(a)", "d = self.norm(b)", False),
    "two draws of random numbers": ("e = torch.rand_like(b)", "f = torch.rand_like(a)", False),
}


@pytest.mark.parametrize(("one", "other", "same"), SWAPS.values(), ids=SWAPS)
def test_order_counts_where_values_depend_on_it(one: str, other: str, same: bool) -> None:
    swapped = [{one: other, other: one}.get(line, line) for line in LINES]
    slim = fxprune.trace(changed(LINES)(), torch.randn(3, 4))
    with torch.device("meta"):
        assert (not difference(slim, changed(swapped)())) == same


def test_a_run_that_fails_proves_nothing() -> None:
    slim = fxprune.trace(changed(LINES)(), torch.randn(3, 4))
    slim.meta["example"] = ((torch.zeros(3, 5, device="meta"),), {})
    with torch.device("meta"):
        assert "shapes alone do not tell" in difference(slim, changed(LINES)())
