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

from fxprune import nested
from fxprune.codegen.writers import save
from fxprune.errors import NotEquivalent

__all__ = ["check_file", "check_round_trip", "same_bits", "same_result"]

CHILD = """
import importlib.abc, importlib.util, sys

class Refuse(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"fxprune", "timm", "torchvision", "safetensors", "transformers"}:
            raise ImportError(f"the generated file must not need {name}")

sys.meta_path.insert(0, Refuse())
sys.dont_write_bytecode = True
import torch

source, work, device, threads, seed = sys.argv[1:]
torch.set_num_threads(int(threads))
spec = importlib.util.spec_from_file_location("generated", source)
generated = importlib.util.module_from_spec(spec)
spec.loader.exec_module(generated)
model = generated.load(device=device)
inputs = torch.load(f"{work}/inputs.pt", weights_only=True)

def flat(value):
    if isinstance(value, torch.Tensor):
        return [value]
    if hasattr(value, "__dict__") and not isinstance(value, (dict, tuple)):
        value = vars(value)
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, (tuple, list)) else ()
    return [tensor for part in parts for tensor in flat(part)]

torch.manual_seed(int(seed))
with torch.no_grad():
    outputs = model(**inputs) if isinstance(inputs, dict) else model(*inputs)
torch.save([tensor.cpu().contiguous() for tensor in flat(outputs)], f"{work}/outputs.pt")
torch.save([*model.state_dict()], f"{work}/keys.pt")
"""


def check_round_trip(
    slim: torch.fx.GraphModule,
    path: str | os.PathLike[str],
    inputs: Sequence[Any] | Mapping[str, Any],
    *,
    seed: int = 0,
) -> Path:
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
    return check_file(save(slim, path), slim, inputs, seed=seed)


def check_file(file: Path, slim: torch.fx.GraphModule, inputs: Sequence[Any] | Mapping[str, Any], *, seed: int = 0) -> Path:
    """The same for a file that was saved before.

    Raises:
        NotEquivalent: as `check_round_trip`.
    """
    with tempfile.TemporaryDirectory() as work, torch.no_grad():
        torch.save(dict(inputs) if isinstance(inputs, Mapping) else list(inputs), f"{work}/inputs.pt")
        device = next((str(t.device) for t in (*slim.parameters(), *slim.buffers())), "cpu")
        arguments = [str(file.absolute()), work, device, str(torch.get_num_threads()), str(seed)]
        # -I: neither the current directory nor PYTHONPATH can supply a module.
        done = subprocess.run([sys.executable, "-I", "-c", CHILD, *arguments], capture_output=True, text=True)
        if done.returncode:
            raise NotEquivalent(f"{file} does not run in a process without fxprune: {done.stderr.strip()[-2000:]}")
        found = torch.load(f"{work}/outputs.pt", weights_only=True)
        keys = torch.load(f"{work}/keys.pt", weights_only=True)
        torch.manual_seed(seed)
        model = copy.deepcopy(slim)
        outputs = model(**inputs) if isinstance(inputs, Mapping) else model(*inputs)
    if other := set(keys) ^ set(slim.state_dict()):
        raise NotEquivalent(f"{file} and the pruned model do not both have {min(other)!r} in their state")
    expected = list(nested.tensors(outputs))
    if len(found) != len(expected):
        raise NotEquivalent(f"{file} returns {len(found)} tensors, the pruned model {len(expected)}")
    for index, (a, b) in enumerate(zip(found, expected, strict=True)):
        if not same_result(a, b.cpu()):
            raise NotEquivalent(f"{file}: output tensor {index} differs from that of the pruned model")
    return file


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
