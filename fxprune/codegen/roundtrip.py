"""The generated file against the pruned model, in a process that has torch alone."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import fx

from fxprune import nested
from fxprune.codegen.writers import save
from fxprune.errors import NotEquivalent

__all__ = ["check_files", "check_round_trip", "same_bits", "same_result"]

CHILD = """
import importlib.abc, importlib.util, sys, traceback

class Refuse(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"fxprune", "timm", "torchvision", "safetensors", "transformers"}:
            raise ImportError(f"the generated file must not need {name}")

sys.meta_path.insert(0, Refuse())
sys.dont_write_bytecode = True
import torch

device, threads, seed, *paths = sys.argv[1:]
torch.set_num_threads(int(threads))

def flat(value):
    if isinstance(value, torch.Tensor):
        return [value]
    if hasattr(value, "__dict__") and not isinstance(value, (dict, tuple)):
        value = vars(value)
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, (tuple, list)) else ()
    return [tensor for part in parts for tensor in flat(part)]

def run(source, work):
    spec = importlib.util.spec_from_file_location("generated", source)
    generated = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generated)
    model = generated.load(device=device)
    inputs = torch.load(f"{work}/inputs.pt", weights_only=True)
    torch.manual_seed(int(seed))
    with torch.no_grad():
        outputs = model(**inputs) if isinstance(inputs, dict) else model(*inputs)
    torch.save([tensor.cpu().contiguous() for tensor in flat(outputs)], f"{work}/outputs.pt")
    torch.save([*model.state_dict()], f"{work}/keys.pt")

for source, work in zip(paths[::2], paths[1::2]):
    try:
        run(source, work)
    except Exception:
        with open(f"{work}/error", "w") as file:
            traceback.print_exc(file=file)
"""

Inputs = Sequence[Any] | Mapping[str, Any]


def check_round_trip(slim: fx.GraphModule, path: str | os.PathLike[str], inputs: Inputs, *, seed: int = 0) -> Path:
    """Save `slim`, run the file in a fresh process without fxprune, and compare outputs (`same_result`) and names of its state.

    Args:
        slim: what `prune` or `trace` returned; it is copied before it runs, in the mode that it is in.
        path: as for `save`.
        inputs: arguments of forward by position, or by name: tensors, numbers, lists and dicts of these.
        seed: of the random numbers that both runs draw (dropout).

    Returns:
        The generated Python file.

    Raises:
        NotEquivalent: the file does not run without fxprune, or gives another output or state.
    """
    file = save(slim, path)
    if problem := check_files([(file, slim, inputs)], seed=seed)[0]:
        raise NotEquivalent(problem)
    return file


def check_files(saved: Sequence[tuple[Path, fx.GraphModule, Inputs]], *, seed: int = 0) -> list[str]:
    """The same for files that were saved before, all in one process: what is wrong with each, or an empty text.

    Args:
        saved: generated files, with what they were written from and inputs of it; all on one device.
    """
    with tempfile.TemporaryDirectory() as work:
        paths: list[str] = []
        for number, (file, _, inputs) in enumerate(saved):
            folder = Path(work) / str(number)
            folder.mkdir()
            torch.save(dict(inputs) if isinstance(inputs, Mapping) else list(inputs), folder / "inputs.pt")
            paths += [str(file.absolute()), str(folder)]
        tensors = (t for _, slim, _ in saved for t in (*slim.parameters(), *slim.buffers()))
        device = next((str(tensor.device) for tensor in tensors), "cpu")
        arguments = [device, str(torch.get_num_threads()), str(seed), *paths]
        # -I: neither the current directory nor PYTHONPATH can supply a module.
        done = subprocess.run([sys.executable, "-I", "-c", CHILD, *arguments], capture_output=True, text=True)
        return [
            _problem(file, Path(work) / str(number), done.stderr, _outputs(slim, inputs, seed), slim)
            for number, (file, slim, inputs) in enumerate(saved)
        ]


def _outputs(slim: fx.GraphModule, inputs: Inputs, seed: int) -> list[torch.Tensor]:
    torch.manual_seed(seed)
    model = copy.deepcopy(slim)
    with torch.no_grad():
        outputs = model(**inputs) if isinstance(inputs, Mapping) else model(*inputs)
    return list(nested.tensors(outputs))


def _problem(file: Path, work: Path, said: str, expected: list[torch.Tensor], slim: fx.GraphModule) -> str:
    """What is wrong with what a generated file left in its folder."""
    if not (work / "keys.pt").exists():
        said = (work / "error").read_text() if (work / "error").exists() else said
        return f"{file} does not run in a process without fxprune: {said.strip()[-2000:]}"
    found = torch.load(work / "outputs.pt", weights_only=True)
    keys = torch.load(work / "keys.pt", weights_only=True)
    if other := set(keys) ^ set(slim.state_dict()):
        return f"{file} and the pruned model do not both have {min(other)!r} in their state"
    if len(found) != len(expected):
        return f"{file} returns {len(found)} tensors, the pruned model {len(expected)}"
    for index, (a, b) in enumerate(zip(found, expected, strict=True)):
        if not same_result(a, b.cpu()):
            return f"{file}: output tensor {index} differs from that of the pruned model"
    return ""


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Return True if `a` and `b` have the same dtype, shape and bytes (so NaN equals the same NaN)."""
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    raw_a, raw_b = (t.contiguous().reshape(-1).view(torch.uint8) for t in (a, b))
    return torch.equal(raw_a, raw_b)


def same_result(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Return True if two runs of one model may have given `a` and `b`: the same bits but for the rounding of sums.

    On some processors the BLAS library picks its kernel by the alignment of memory, so that even one model's two runs
    differ in their last bits: floats may differ by 1,000 units of rounding of the largest entry.
    """
    if same_bits(a, b):
        return True
    if a.dtype != b.dtype or a.shape != b.shape or not (a.is_floating_point() or a.is_complex()):
        return False
    finite = a.isfinite()
    if not torch.equal(finite, b.isfinite()) or not torch.equal(a[~finite].isnan(), b[~finite].isnan()):
        return False
    a, b = a[finite], b[finite]
    return not a.numel() or float((a - b).abs().max()) <= 1000 * torch.finfo(a.dtype).eps * float(b.abs().max())
