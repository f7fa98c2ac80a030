"""What the command line prints of tiny models and of wrong files, and what ``import fxprune`` offers."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

import fxprune
from fxprune.planning.report import in_unit

NET = """
from torch import nn

def tiny():
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))

def small():
    return nn.Sequential(nn.Linear(40, 80), nn.ReLU(), nn.Linear(80, 20))
"""

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "net.py").write_text(NET)
    return tmp_path / "net.py"


# -- units ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("counts", "digits", "shown"),
    [
        ((4_089_184_256, 1_042_907_520), 1, (["4,089.2", "1,042.9"], "M")),
        ((25_557_032, 6_952_104), 2, (["25.56", "6.95"], "M")),
        ((100_000, 100_000), 1, (["0.1", "0.1"], "M")),
        ((400_000, 90_000), 1, (["400.0", "90.0"], "k")),  # the smaller one must be told from nothing
        ((99_999, 1_000), 1, (["100.0", "1.0"], "k")),
        ((1_000, 999), 1, (["1,000", "999"], "")),
        ((48, 24), 1, (["48", "24"], "")),
        ((5_000_000, 0), 1, (["5.0", "0.0"], "M")),
        ((0, 0), 2, (["0", "0"], "")),
    ],
)
def test_counts_are_in_a_unit_that_shows_them(counts: tuple[int, int], digits: int, shown: tuple[list[str], str]) -> None:
    assert in_unit(counts, digits) == shown


def test_a_report_of_a_tiny_model() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    slim = fxprune.prune(model, 0.5, torch.zeros(2, 4))
    assert str(slim.meta["fxprune"]) == (
        "Sequential: 48 -> 24 MACs (50.0% fewer), 58 -> 30 parameters (48.3% fewer), 1 groups pruned"
    )


def test_a_report_of_a_small_model() -> None:
    model = nn.Sequential(nn.Linear(40, 80), nn.ReLU(), nn.Linear(80, 20))
    slim = fxprune.prune(model, 0.5, torch.zeros(2, 40))
    assert str(slim.meta["fxprune"]) == (
        "Sequential: 4.8 -> 2.4 kMACs (50.0% fewer), 4.90 -> 2.46 k parameters (49.8% fewer), 1 groups pruned"
    )


@pytest.mark.parametrize(
    ("net", "rows"),
    [
        ("tiny:4", [("MACs", "48", "24", "0.500"), ("parameters", "58", "30", "0.517")]),
        ("small:40", [("MACs (k)", "4.8", "2.4", "0.500"), ("parameters (k)", "4.900", "2.460", "0.502")]),
    ],
)
def test_tables_of_small_models(run: Run, file: Path, net: str, rows: list[tuple[str, ...]]) -> None:
    name, _, size = net.partition(":")
    code, out, _ = run("prune", f"{file}:{name}", "--ratio", 0.5, "--input-size", size)
    lines = [tuple(cell.strip() for cell in line.strip("│\n ").split("│")) for line in out.splitlines()]
    assert code == 0 and set(rows) <= set(lines), out


def test_groups_of_a_tiny_model(run: Run, file: Path) -> None:
    _, out, _ = run("inspect", f"{file}:tiny", "--input-size", 4)
    assert "8 channels; 48 MACs, 58 parameters\n" in out
    _, out, _ = run("inspect", f"{file}:small", "--input-size", 40)
    assert "80 channels; 4.8 kMACs, 4.90 k parameters\n" in out


# -- files ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["prune", "verify", "study"])
@pytest.mark.parametrize("name", ["w.pt", "w.safetensors", "w"])
@pytest.mark.parametrize(
    "content", [b"", b"text", b"\x80\x020.", b"PK\x03\x04" + bytes(40)], ids=["empty", "text", "pickle", "zip"]
)
def test_a_checkpoint_that_is_none(run: Run, file: Path, command: str, name: str, content: bytes) -> None:
    weights = file.parent / name
    weights.write_bytes(content)
    arguments = ["--ratio", 0.5] if command == "prune" else []
    code, out, err = run(command, f"{file}:tiny", *arguments, "--input-size", 4, "--checkpoint", weights)
    assert code == 2 and out == ""
    assert err.startswith("error: ") and err.count("\n") == 1 and name in err


def test_a_model_file_that_exits(run: Run, tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text("import sys\nsys.exit(7)\n")
    code, _, err = run("inspect", f"{tmp_path / 'script.py'}:net")
    assert code == 2 and err.startswith("error: ") and "script.py cannot be run: SystemExit" in err


# -- numbers --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["prune", "verify", "study", "demo"])
@pytest.mark.parametrize("seed", ["-1", "99999999999999999999"])
def test_a_seed_out_of_range(run: Run, file: Path, command: str, seed: str) -> None:
    model = [] if command == "demo" else [f"{file}:tiny"]
    code, out, err = run(command, *model, "--seed", seed)
    assert code == 2 and out == "" and "--seed" in err


def test_an_input_of_too_many_numbers(run: Run, file: Path) -> None:
    code, _, err = run("inspect", f"{file}:tiny", "--input-size", "99999999999x99999999999")
    assert code == 2 and err.startswith("error: --input-size 99999999999x99999999999 is too large")


# -- the module -----------------------------------------------------------------------------------------------------------


def in_a_fresh_process(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip()


@pytest.mark.slow
def test_every_folder_is_an_attribute_and_needs_no_import_of_its_own() -> None:
    here = Path(fxprune.__file__).parent
    folders = {path.parent.name for path in here.glob("*/__init__.py")} - {"cli"} | {"passes"}
    assert folders <= set(dir(fxprune))
    code = "import fxprune\nprint('l2' in fxprune.criteria.names())\n"  # before anything else is imported
    code += f"for name in {sorted(folders)}: assert getattr(fxprune, name).__name__ == 'fxprune.' + name"
    assert in_a_fresh_process(code) == "True"


def test_dir_lists_what_there_is() -> None:
    assert {"prune", "Plan", "InputError", "criteria", "__version__"} <= set(dir(fxprune))
    assert dir(fxprune) == sorted(set(dir(fxprune)))
    assert all(hasattr(fxprune, name) for name in dir(fxprune))


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'prunes'"):
        _ = fxprune.prunes
    assert not hasattr(fxprune, "__wrapped__")


def test_import_is_light() -> None:
    """Neither torch nor NumPy is imported before a verb or a subpackage is used; listing the names uses none."""
    heavy = "{'torch', 'numpy', 'networkx', 'timm', 'rich', 'typer'} & set(sys.modules)"
    assert in_a_fresh_process(f"import sys, fxprune; dir(fxprune); print({heavy})") == "set()"


def test_the_command_runs_as_a_module() -> None:
    for name in ("fxprune", "fxprune.cli"):
        found = subprocess.run([sys.executable, "-m", name, "--help"], check=True, capture_output=True, text=True)
        assert "Usage: fxprune" in found.stdout
