"""Options, markers and the state that every test starts from."""

from __future__ import annotations

import gc
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

# Nothing that is imported or collected goes away: until all of it is there, walking it again and again finds nothing.
gc.disable()
# For the networks in benchmarks/models, and last: benchmarks/coverage.py must not hide the package that measures coverage.
sys.path.append(str(Path(__file__).resolve().parents[1] / "benchmarks"))
# Their assertions, too, tell what was compared; before anything imports them.
pytest.register_assert_rewrite("helpers", "support", "threads")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--fuzz",
        type=int,
        default=40,
        metavar="N",
        help="random networks that the property test tries (default: 40)",
    )
    parser.addoption(
        "--one-in",
        type=int,
        default=1,
        metavar="N",
        help="of the cases of each test the first and every Nth after it (default: all)",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "slow: sweeps over many models, package installs, training, benchmarks")


@pytest.hookimpl(trylast=True)  # of what the marks leave
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out cases as `--one-in` says; every test keeps one."""
    step, seen = config.getoption("--one-in"), Counter[str]()
    chosen, others = [], []
    for item in items:
        test = item.nodeid.partition("[")[0]
        (others if seen[test] % step else chosen).append(item)
        seen[test] += 1
    if others:
        config.hook.pytest_deselected(items=others)
        items[:] = chosen


def pytest_collection_finish(session: pytest.Session) -> None:
    """What is imported by now stays: the garbage collector need not walk it again and again."""
    gc.freeze()
    gc.set_threshold(5000)  # recording makes many objects at once, few of them in circles
    gc.enable()


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Who asks the garbage collector what refers to an object, as Hypothesis does when it is imported, hears of all again."""
    gc.unfreeze()


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    """Small networks run faster on one thread, and give the same bits on every machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Every test draws the same weights, whichever ran before it."""
    from fxprune.tracing.untouched import seed_all

    seed_all(0)


@pytest.fixture
def nets(tmp_path: Path) -> Iterator[Path]:
    """A file of factories beside a module that it imports."""
    from support.zoo import NETS

    (tmp_path / "neighbour.py").write_text("WIDTH = 4\n")
    file = tmp_path / "nets.py"
    file.write_text(NETS)
    yield file
    sys.modules.pop("neighbour", None)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run the command line; gives the exit code, stdout and stderr."""
    from fxprune.cli.app import main

    def call(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            main([str(a) for a in arguments])
        out, err = capsys.readouterr()
        return int(stopped.value.code or 0), out, err

    return call
