"""Every network of the table: its slim half as source and safetensors."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from helpers import assert_equivalent, assert_same, run, tensors_of
from networks import NETWORKS, Network
from safetensors.torch import load_file, save_file
from support.couplings import each, each_scope, inputs_of, pruned, run_and_put_back
from torch import nn

import fxprune
from fxprune import codegen


@each
@each_scope
def test_rebuilt_source_gives_the_same_bits(net: Network, scope: str) -> None:
    _, slim = pruned(net.id, scope)
    if not uses_torch_alone(net):
        with pytest.raises(fxprune.PruneError, match="halve"):
            codegen.rebuild(slim)
        return
    rebuilt = codegen.rebuild(slim)
    assert {n: t.shape for n, t in rebuilt.state_dict().items()} == {n: t.shape for n, t in slim.state_dict().items()}
    for training in (False, True):
        for batch in (2, 3):
            inputs = inputs_of(net, batch)
            runs = [run_and_put_back(each, inputs, training) for each in (slim, rebuilt)]
            assert_same(*runs)


FRESH = """
    import importlib.util, sys
    from pathlib import Path
    import torch
    from safetensors.torch import load_file, save_file

    torch.set_num_threads(1)
    for folder in map(Path, sys.argv[1:]):
        spec = importlib.util.spec_from_file_location("slim_model", folder / "slim.py")
        module = importlib.util.module_from_spec(spec)
        sys.modules["slim_model"] = module
        spec.loader.exec_module(module)
        model = module.load().eval()
        inputs = load_file(folder / "inputs.safetensors")
        with torch.no_grad():
            found = model(*(inputs[str(i)] for i in range(len(inputs))))

        def tensors(value):
            if isinstance(value, torch.Tensor):
                return [value]
            values = value.values() if isinstance(value, dict) else value
            return [t for v in values if not isinstance(v, int) for t in tensors(v)]

        outputs = {str(i): t.contiguous() for i, t in enumerate(tensors(found))}
        save_file(outputs, folder / "outputs.safetensors")
    assert not any(name.split(".")[0] == "fxprune" for name in sys.modules)
"""


def save_case(net: Network, folder: Path) -> None:
    _, slim = pruned(net.id, "layer")
    fxprune.save(slim, folder)
    save_file({str(i): t.contiguous() for i, t in enumerate(inputs_of(net))}, folder / "inputs.safetensors")


def run_fresh(folders: list[Path], tmp_path: Path) -> None:
    """Load the files in a process of its own, which cannot import fxprune, and compare the outputs."""
    script = tmp_path / "fresh.py"
    script.write_text(textwrap.dedent(FRESH))
    done = subprocess.run([sys.executable, "-I", str(script), *map(str, folders)], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def compare_fresh(net: Network, folder: Path) -> None:
    _, slim = pruned(net.id, "layer")
    found = load_file(folder / "outputs.safetensors")
    for number, expected in enumerate(tensors_of(run(slim, inputs_of(net)))):
        assert_same(expected, found[str(number)])


def uses_torch_alone(net: Network) -> bool:
    return net.id != "custom operator"  # which a file that needs torch alone cannot name


def test_saved_models_run_in_a_fresh_process(tmp_path: Path) -> None:
    """Every third network, in one process: one each takes long, and is slow."""
    nets = [net for net in NETWORKS.values() if uses_torch_alone(net)][::3]
    folders = [tmp_path / str(number) for number in range(len(nets))]
    for net, folder in zip(nets, folders, strict=True):
        save_case(net, folder)
    run_fresh(folders, tmp_path)
    for net, folder in zip(nets, folders, strict=True):
        compare_fresh(net, folder)


@pytest.mark.slow
@each
def test_saved_model_runs_in_its_own_process(net: Network, tmp_path: Path) -> None:
    if not uses_torch_alone(net):
        pytest.skip("the operator is made by the tests: a file that needs torch alone cannot name it")
    save_case(net, tmp_path / "slim")
    run_fresh([tmp_path / "slim"], tmp_path)
    compare_fresh(net, tmp_path / "slim")


def test_names_of_graph_module_attributes() -> None:
    """Submodules called `code` or `graph`: they keep their names, or the refusal says why."""

    class Clashing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.code = nn.Linear(6, 8)
            self.graph = nn.Linear(8, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            found: torch.Tensor = self.graph(self.code(x).relu())
            return found

    model = Clashing()
    try:
        slim = fxprune.prune(model, 0.5, torch.randn(2, 6))
    except fxprune.PruneError as refusal:
        assert "code" in str(refusal)
    else:
        assert set(slim.state_dict()) == set(model.state_dict())
        assert_equivalent(model, slim, (torch.randn(2, 6),), slim.meta["fxprune"].plan.kept)
