"""`save` leaves the old model or the new one: full disks, killed processes, several writers."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import fx, nn

import fxprune
from fxprune.codegen import replacing, source_files, store
from fxprune.errors import PruneError

ROOT = Path(__file__).resolve().parents[1]
needs_locks = pytest.mark.skipif(replacing.fcntl is None, reason="folders cannot be locked here")
not_root = pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")


def model(number: int, width: int = 4) -> fx.GraphModule:
    """A model whose code and weights say its number."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(2, width)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.a(x) + float(number)

    net = Net()
    nn.init.constant_(net.a.weight, number)
    nn.init.constant_(net.a.bias, number)
    return fx.symbolic_trace(net.eval())


def number_of(folder: Path) -> int:
    """The number of the model that a folder holds, whose source and weights must agree."""
    found = fxprune.load(folder).requires_grad_(False)
    number = float(found.a.bias.detach()[0])
    assert torch.equal(found(torch.zeros(1, 2)), torch.full_like(found(torch.zeros(1, 2)), 2 * number))
    return int(number)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


PAIR = ["slim.py", "slim.safetensors"]

# -- what fails on the way ------------------------------------------------------------------------------------------------


def full(*_: object, **__: object) -> None:
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("before", [False, True], ids=["new", "over an old one"])
@pytest.mark.parametrize("call", range(7))
def test_any_call_of_the_system_may_fail(call: int, before: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The n-th link, rename or write out of all fails: the old model stays whole, and nothing else."""
    folder = tmp_path / "some" / "where"
    if before:
        fxprune.save(model(1), folder)
    count = 0

    def failing(real: Callable[..., object]) -> Callable[..., object]:
        def run(*args: object, **kwargs: object) -> object:
            nonlocal count
            count += 1
            return full() if count == call + 1 else real(*args, **kwargs)

        return run

    monkeypatch.setattr(os, "replace", failing(os.replace))
    monkeypatch.setattr(os, "fsync", failing(os.fsync))
    monkeypatch.setattr(source_files, "_write_tensors", failing(source_files._write_tensors))
    try:
        fxprune.save(model(2), folder)
    except PruneError as error:
        assert "No space left" in str(error) and "slim.py" in str(error)
        monkeypatch.undo()
        assert number_of(folder) == 1 if before else not list(tmp_path.iterdir())
    else:
        monkeypatch.undo()
        assert number_of(folder) == 2
    assert not before or names(folder) == PAIR


def run_code(code: str, *arguments: object) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@not_root
def test_a_folder_that_may_not_be_written(tmp_path: Path) -> None:
    fxprune.save(model(1), tmp_path)
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(PruneError, match="cannot write"):
            fxprune.save(model(2), tmp_path)
        assert number_of(tmp_path) == 1
    finally:
        tmp_path.chmod(0o700)


# -- killed processes -----------------------------------------------------------------------------------------------------

FORKS = """
import os, signal, sys, torch
sys.path[:0] = [sys.argv[1], sys.argv[1] + "/tests"]
import fxprune
from test_atomic_save import model
torch.set_num_threads(1)
pair = [model(1), model(2)]
"""
STOPS = """
for folder in sys.argv[2:]:  # NAME-N: a process is killed before its renaming number N
    child = os.fork()
    if not child:
        real, left = os.replace, [int(folder[-1])]
        def stops(*args, **kwargs):
            if not left[0]:
                os.kill(os.getpid(), signal.SIGKILL)
            left[0] -= 1
            return real(*args, **kwargs)
        os.replace = stops
        fxprune.save(pair[1], folder)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
"""
LIMITED = """
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
try:
    fxprune.save(model(2, width=9000), sys.argv[2] + "/../full")
except fxprune.PruneError as error:
    print(error)
"""
SAVES = """
children = []
for _ in range(int(sys.argv[3])):
    child = os.fork()
    if not child:
        while True:
            for one in pair:
                fxprune.save(one, sys.argv[2])
    children.append(child)
print(*children, flush=True)
for child in children:
    os.waitpid(child, 0)
"""


@contextmanager
def saving(folder: Path, count: int) -> Iterator[list[int]]:
    """Processes that save to a folder until they are killed."""
    arguments = [str(ROOT), str(folder), str(count)]
    with subprocess.Popen([sys.executable, "-c", FORKS + SAVES, *arguments], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        children = [int(child) for child in parent.stdout.readline().split()]
        assert len(children) == count
        try:
            yield children
        finally:
            for child in children:
                os.kill(child, signal.SIGKILL)


@pytest.mark.slow
@needs_locks
def test_killed_between_two_renamings(tmp_path: Path) -> None:
    """As a lost power cord leaves the disk; and a file above the limit that the system sets."""
    old, new = [tmp_path / f"old-{n}" for n in range(3)], [tmp_path / f"new-{n}" for n in range(3)]
    for folder in (*old, tmp_path / "full"):
        fxprune.save(model(1), folder)
    said = run_code(FORKS + STOPS + LIMITED, ROOT, *old, *new)
    assert "cannot write" in said and "File too large" in said
    assert number_of(tmp_path / "full") == 1 and names(tmp_path / "full") == PAIR
    assert [number_of(folder) for folder in old] == [1, 1, 2]  # the source is what says which model it is
    assert not (new[2] / "slim.safetensors").exists() and number_of(new[2]) == 2
    for folder in (*old, *new):
        assert set(names(folder)) - set(PAIR)
        fxprune.save(model(3), folder)
        assert number_of(folder) == 3 and names(folder) == PAIR


@needs_locks
@pytest.mark.slow
def test_killed_at_any_moment(tmp_path: Path) -> None:
    fxprune.save(model(1), tmp_path)
    rng = random.Random(0)
    for _ in range(12):
        with saving(tmp_path, 1):
            time.sleep(rng.random() * 0.2)
        assert number_of(tmp_path) in (1, 2)
    fxprune.save(model(3), tmp_path)
    assert number_of(tmp_path) == 3 and names(tmp_path) == PAIR


# -- several writers and readers ------------------------------------------------------------------------------------------


@pytest.mark.slow
@needs_locks
def test_two_processes_save_to_one_place_while_another_reads(tmp_path: Path) -> None:
    fxprune.save(model(1), tmp_path)
    with saving(tmp_path, 2):
        end = time.monotonic() + 0.2
        while time.monotonic() < end:
            assert number_of(tmp_path) in (1, 2)
    assert number_of(tmp_path) in (1, 2)


def test_a_model_that_is_replaced_again_and_again_while_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each time after its source was read, and before its weights are."""
    real, times = store.execute, iter(range(2, 8))

    def execute(source: bytes, name: str) -> object:
        if (number := next(times, None)) is not None:
            fxprune.save(model(number), tmp_path)
        return real(source, name)

    fxprune.save(model(1), tmp_path)
    monkeypatch.setattr(store, "execute", execute)
    assert number_of(tmp_path) == 7


@needs_locks
def test_threads_save_to_one_place(tmp_path: Path) -> None:
    models = [model(n, width=n) for n in range(1, 5)]
    threads = [threading.Thread(target=fxprune.save, args=(one, tmp_path)) for one in models for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert number_of(tmp_path) in range(1, 5) and names(tmp_path) == PAIR


@needs_locks
def test_a_folder_that_another_process_keeps_locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replacing, "_PATIENCE", 0.05)
    with replacing._locked(tmp_path), pytest.raises(PruneError, match="another process"):
        fxprune.save(model(1), tmp_path)
    assert names(tmp_path) == []


def test_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replacing, "fcntl", None)
    for number in (1, 2):
        fxprune.save(model(number), tmp_path)
    assert number_of(tmp_path) == 2 and names(tmp_path) == PAIR


def test_a_disk_without_second_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "link", full)
    for number in (1, 2):
        fxprune.save(model(number), tmp_path)
    assert number_of(tmp_path) == 2 and names(tmp_path) == PAIR


# -- source and weights of two models ---------------------------------------------------------------------------------------


def test_weights_of_another_save_are_refused(tmp_path: Path) -> None:
    for number in (1, 2):
        fxprune.save(model(number), tmp_path / str(number))
    weights = (tmp_path / "2" / "slim.safetensors").read_bytes()
    (tmp_path / "1" / "slim.safetensors").write_bytes(weights)  # of the same names and shapes
    with pytest.raises(PruneError, match="saved with other code"):
        fxprune.load(tmp_path / "1")


def test_weights_that_were_trained_on_are_taken(tmp_path: Path) -> None:
    """With the library, which marks nothing; and under another name."""
    file = fxprune.save(model(1), tmp_path)
    state = load_file(tmp_path / "slim.safetensors")
    save_file({name: value + 1 for name, value in state.items()}, tmp_path / "slim.safetensors")
    assert float(fxprune.load(file).a.bias.detach()[0]) == 2
    renamed = [path.rename(path.with_stem("mine")) for path in (file, file.with_suffix(".safetensors"))]
    assert float(fxprune.load(renamed[0]).a.bias.detach()[0]) == 2


def test_the_same_code_with_other_weights_is_one_renaming(tmp_path: Path) -> None:
    """Weights of a model with the same code fit: they bear the same mark."""
    files = []
    for value in (1.0, 2.0):
        slim = fx.symbolic_trace(nn.Sequential(nn.Linear(2, 2)))
        nn.init.constant_(slim.get_submodule("0").weight, value)
        files.append(fxprune.save(slim, tmp_path / f"{value}.py"))
    assert float(fxprune.load(files[0]).get_submodule("0").weight.detach()[0, 0]) == 1
    files[0].with_suffix(".safetensors").write_bytes(files[1].with_suffix(".safetensors").read_bytes())
    assert float(fxprune.load(files[0]).get_submodule("0").weight.detach()[0, 0]) == 2
