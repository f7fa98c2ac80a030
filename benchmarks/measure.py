"""What both benchmarks measure in the same way: shapes, MACs, memory, and the machine that did it."""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Iterable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fxprune.tracing.skeleton import skeleton_of, to_meta

__all__ = [
    "built",
    "code_hash",
    "count_macs",
    "environment",
    "first_line",
    "memory",
    "reset_peak",
    "resized",
    "shapes",
    "shapes_on_meta",
    "tensors",
]

_PACKAGES = ("fxprune", "torch", "torchvision", "timm", "torch-pruning")


def built(spec: str, small: int = 0) -> tuple[nn.Module, Tensor]:
    """A model, and one image for it; images have `small` pixels a side, if given and the model takes any size or `img_size`."""
    from fxprune.inputs.models import load_model
    from fxprune.inputs.sizes import infer_example_inputs

    name = spec.partition(":")[2]
    if spec.startswith("timm:") and small:
        import timm

        try:
            model, x = timm.create_model(name, img_size=small).eval(), torch.zeros(1, 3, small, small)
            with torch.no_grad():
                model(x)
            return model, x
        except Exception:  # a constructor may do anything with what it does not know, or take what forward does not
            pass
    model = load_model(spec).eval()
    inputs: Any = infer_example_inputs(model) or ()
    x = inputs[0][:1]
    if small and x.dim() == 4 and x.shape[-1] > small:
        x = torch.zeros(1, x.shape[1], small, small)
        with torch.no_grad():
            model(x)
    return model, x


def tensors(value: Any) -> list[Tensor]:
    """The tensors of a nested output, in order."""
    if isinstance(value, Tensor):
        return [value]
    if hasattr(value, "__dataclass_fields__") and not isinstance(value, dict):
        value = vars(value)
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
    return [tensor for part in parts for tensor in tensors(part)]


def shapes(value: Any) -> list[tuple[int, ...]]:
    """The shapes of the tensors of a nested output, in order."""
    return [tuple(tensor.shape) for tensor in tensors(value)]


def resized(inputs: Sequence[Tensor], batch: int, grow: int = 0, seed: int = 0) -> tuple[Tensor, ...]:
    """Random inputs like `inputs`, with another batch size and the last two axes larger by `grow`."""
    generator = torch.Generator().manual_seed(seed)
    return tuple(
        torch.randn(batch, *x.shape[1:-2], x.shape[-2] + grow, x.shape[-1] + grow, generator=generator) for x in inputs
    )


def shapes_on_meta(model: nn.Module, inputs: Sequence[Tensor]) -> list[tuple[int, ...]]:
    """Output shapes of `model` in evaluation, without weights or arithmetic."""
    skeleton, _ = skeleton_of(model)
    with torch.no_grad():
        return shapes(skeleton.eval()(*to_meta(tuple(inputs))))


def count_macs(model: nn.Module, inputs: Sequence[Tensor]) -> int:
    """MACs of one sample by `torch.utils.flop_counter`, on the meta device, where attention counts."""
    from torch.utils.flop_counter import FlopCounterMode

    skeleton, _ = skeleton_of(model)
    skeleton.requires_grad_(False)  # the counter's hooks refuse a parameter as the argument of a module
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        skeleton.eval()(*to_meta(tuple(inputs)))
    return round(counter.get_total_flops() / 2 / max(int(inputs[0].shape[0]), 1))


def memory() -> tuple[int, int]:
    """Resident bytes of this process: now, and the peak since `reset_peak`; zeros but on Linux."""
    status = Path("/proc/self/status")
    if not status.exists():
        return 0, 0
    found = {}
    for line in status.read_text().splitlines():
        name, _, rest = line.partition(":")
        if name in ("VmRSS", "VmHWM"):
            found[name] = int(rest.split()[0]) * 1024
    return found.get("VmRSS", 0), found.get("VmHWM", 0)


def reset_peak() -> None:
    """Forget the peak so far, where the system allows it."""
    switch = Path("/proc/self/clear_refs")
    if switch.exists() and os.access(switch, os.W_OK):
        switch.write_text("5")


def first_line(error: BaseException, limit: int = 300) -> str:
    """``Type: first line of the message``."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:limit]


def code_hash(root: Path) -> str:
    """Eight hex digits over the sources of the package, so that rows made by other code are recognised."""
    digest = hashlib.sha256()
    for path in _sources(root):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:8]


def _sources(root: Path) -> Iterable[Path]:
    return sorted([*(root / "fxprune").rglob("*.py"), *(root / "passes").rglob("*.py")])


def environment(more: Sequence[str] = ()) -> dict[str, str]:
    """Processor, Python and package versions, of `more` packages too."""
    found = {"processor": _processor(), "cores": str(os.cpu_count()), "python": platform.python_version()}
    return found | {name: _version(name) for name in (*_PACKAGES, *more)}


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "from source" if package == "fxprune" else "not installed"


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
