"""Every way to install: wheel, editable, sdist, or none at all; `fxprune.passes` is found in each.

The passes lie at the top level of the repository, and inside ``fxprune`` once installed: see fxprune/_layout.py.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from fxprune import _layout

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("fxprune", "passes", "tests", "benchmarks", "pyproject.toml", "README.md", "LICENSE", "MANIFEST.in")

IMPORT = "import fxprune.passes as p, fxprune.passes.base; print(p.__file__)"


def python(interpreter: str | Path, *arguments: str | Path, cwd: Path) -> str:
    """Run Python and give what it printed; fails with its error."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "PYTEST"))}
    command = [str(interpreter), *map(str, arguments)]
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
    return done.stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of the repository, so that builds leave nothing in the real one."""
    folder = tmp_path / "checkout"
    folder.mkdir()
    for part in PARTS:
        source = ROOT / part
        if source.is_dir():
            shutil.copytree(source, folder / part, ignore=shutil.ignore_patterns("__pycache__", "results"))
        else:
            shutil.copy(source, folder / part)
    return folder


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    return folder


@pytest.fixture
def empty(tmp_path: Path) -> Path:
    """The interpreter of an environment that has what fxprune depends on, but not fxprune."""
    home = tmp_path / "venv"
    venv.create(home, symlinks=True)
    interpreter = home / "bin" / "python"
    site = Path(python(interpreter, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=tmp_path))
    dependencies = tmp_path / "dependencies"
    dependencies.mkdir()
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        if "fxprune" not in entry.name and entry.suffix != ".pth":
            (dependencies / entry.name).symlink_to(entry)
    (site / "dependencies.pth").write_text(f"{dependencies}\n")
    return interpreter


def install(interpreter: Path, cwd: Path, *what: str | Path) -> None:
    options = ["-q", "--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check"]
    python(interpreter, "-m", "pip", "install", *options, *what, cwd=cwd)


def build(checkout: Path, kind: str) -> Path:
    """Build a ``wheel`` or an ``sdist`` with setuptools as pip does."""
    code = f"import setuptools.build_meta as b; print(b.build_{kind}('../dist'))"
    return checkout.parent / "dist" / python(sys.executable, "-c", code, cwd=checkout).splitlines()[-1]


def modules(folder: Path, prefix: str) -> set[str]:
    return {f"{prefix}/{f.relative_to(folder).as_posix()}" for f in folder.rglob("*.py")}


def test_wheel_holds_every_module_and_nothing_at_the_top_level(checkout):
    names = set(zipfile.ZipFile(build(checkout, "wheel")).namelist())
    code = modules(checkout / "fxprune", "fxprune") | modules(checkout / "passes", "fxprune/passes")
    assert code <= names
    assert "fxprune/py.typed" in names
    assert {name.partition("/")[0] for name in names - code} == {"fxprune", "fxprune-0.1.0.dist-info"}


def test_sdist_holds_what_is_needed_to_build_and_to_test(checkout):
    archive = build(checkout, "sdist")
    with tarfile.open(archive) as tar:
        names = {name.partition("/")[2] for name in tar.getnames()}
    for part in ("fxprune", "passes", "tests", "benchmarks"):
        assert modules(checkout / part, part) <= names
    assert {"LICENSE", "README.md", "pyproject.toml"} <= names


@pytest.mark.slow
def test_wheel_from_the_sdist_is_the_wheel_from_the_checkout(checkout, tmp_path):
    archive = build(checkout, "sdist")
    with tarfile.open(archive) as tar:
        tar.extractall(tmp_path / "unpacked", filter="data")
    (unpacked,) = (tmp_path / "unpacked").iterdir()
    first, second = (sorted(zipfile.ZipFile(build(tree, "wheel")).namelist()) for tree in (checkout, unpacked))
    assert first == second


@pytest.mark.slow
def test_installed_wheel(checkout, elsewhere, empty):
    install(empty, checkout, build(checkout, "wheel"))
    assert "site-packages" in python(empty, "-c", IMPORT, cwd=elsewhere)
    # In the checkout the local package shadows the installed one: its passes are those beside it.
    assert python(empty, "-c", IMPORT, cwd=checkout) == str(checkout / "passes" / "__init__.py")
    command = empty.with_name("fxprune")
    assert subprocess.run([command, "--help"], cwd=elsewhere, capture_output=True, check=False).returncode == 0


@pytest.mark.slow
@pytest.mark.parametrize("options", [[], ["--config-settings", "editable_mode=strict"]], ids=["default", "strict"])
def test_editable_install(checkout, elsewhere, empty, options):
    install(empty, checkout, *options, "-e", ".")
    for place in (elsewhere, checkout):
        assert python(empty, "-c", IMPORT, cwd=place).endswith("passes/__init__.py")


@pytest.mark.slow
def test_another_checkout_is_installed(checkout, tmp_path, empty):
    """The passes beside the imported package are used, not those of the checkout that is installed."""
    other = tmp_path / "other"
    shutil.copytree(checkout, other)
    install(empty, other, "-e", ".")
    assert python(empty, "-c", IMPORT, cwd=checkout) == str(checkout / "passes" / "__init__.py")
    assert python(empty, "-c", IMPORT, cwd=other) == str(other / "passes" / "__init__.py")


@pytest.mark.slow
def test_nothing_installed(checkout, empty):
    assert python(empty, "-c", IMPORT, cwd=checkout) == str(checkout / "passes" / "__init__.py")
    test = "tests/test_packaging.py::test_a_pass_is_loaded_once"
    assert "1 passed" in python(empty, "-m", "pytest", "-q", "-n", "0", test, cwd=checkout)


# -- the finder ----------------------------------------------------------------------------------------------


def test_a_pass_is_loaded_once():
    """Nothing imports the folder under its own name: a class of a pass would then exist twice."""
    import fxprune.passes

    assert sys.modules["fxprune.passes"] is fxprune.passes
    assert not any(name == "passes" or name.startswith("passes.") for name in sys.modules)


def place(folder: Path, *files: str) -> Path:
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder / "fxprune"


@pytest.fixture
def finders() -> Iterator[list[object]]:
    """The finders of Python, put back afterwards."""
    before = list(sys.meta_path)
    yield sys.meta_path
    sys.meta_path[:] = before


def test_finder_in_a_checkout(tmp_path, finders):
    before = len(finders)
    package = place(tmp_path, "pyproject.toml", "fxprune/__init__.py", "passes/__init__.py")
    assert _layout.install(package)
    finder = finders[0]
    assert len(finders) == before + 1
    assert finder.find_spec("fxprune.passes", None).origin == str(tmp_path / "passes" / "__init__.py")
    assert finder.find_spec("fxprune.passes.base", None) is None
    assert finder.find_spec("passes", None) is None


@pytest.mark.parametrize(
    "files",
    [
        ["fxprune/__init__.py", "fxprune/passes/__init__.py", "pyproject.toml", "passes/__init__.py"],
        ["fxprune/__init__.py", "passes/__init__.py"],
        ["fxprune/__init__.py", "pyproject.toml"],
    ],
    ids=["installed", "a stranger's passes in site-packages", "no passes"],
)
def test_no_finder(tmp_path, finders, files):
    before = list(finders)
    assert not _layout.install(place(tmp_path, *files))
    assert finders == before
