"""How far ONNX Runtime's outputs are from a slim model's, and whose fault that is: the export's, the runtime's, or nobody's."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
from measure import tensors
from torch import Tensor, nn

from fxprune.proofs.errors import relative_error

__all__ = ["CLOSE", "onnx_findings", "onnx_mark", "onnx_note"]

CLOSE = 1e-4  # relative, in float32


def onnx_findings(slim: nn.Module, dense: nn.Module, inputs: tuple[Tensor, ...]) -> dict[str, Any]:
    """Error of the slim model as it is run; where that is large, without the runtime's optimizations and for the dense model.

    The runtime rewrites the graph before it runs it, not always rightly: a padding with zeros before a max-pooling becomes
    one with -inf, which is another result where activations are negative. What was exported is seen without that alone.
    """
    optimized, plain = _errors(slim, inputs)
    if optimized <= CLOSE:
        return {"onnx": True, "onnx_error": optimized}
    dense_optimized, dense_plain = _errors(dense, inputs)
    return {
        "onnx": plain <= CLOSE,
        "onnx_error": optimized,
        "onnx_plain": plain,
        "onnx_dense": dense_optimized,
        "onnx_dense_plain": dense_plain,
    }


def onnx_mark(row: dict[str, Any]) -> str:
    """What the table says of a model that was exported.

    >>> onnx_mark({"onnx": True, "onnx_error": 1e-6})
    '✓'
    >>> onnx_mark({"onnx": True, "onnx_error": 0.38, "onnx_plain": 1e-6, "onnx_dense": 0.39, "onnx_dense_plain": 1e-6})
    'as the dense model'
    >>> onnx_mark({"onnx": True, "onnx_error": 0.01, "onnx_plain": 1e-6, "onnx_dense": 1e-6, "onnx_dense_plain": 1e-6})
    'unoptimized'
    >>> onnx_mark({"onnx": False, "onnx_error": 0.2, "onnx_plain": 0.2, "onnx_dense": 0.3, "onnx_dense_plain": 1e-6})
    '✗'
    """
    if "onnx_plain" not in row:
        return "✓" if row["onnx"] else "✗"
    if row["onnx"]:
        return "as the dense model" if row["onnx_dense"] > CLOSE else "unoptimized"
    return "as the dense model" if row["onnx_dense_plain"] > CLOSE else "✗"


def onnx_note(row: dict[str, Any]) -> str | None:
    """The figures behind a mark that is no plain one."""
    if "onnx_plain" not in row:
        return None
    return (
        f"ONNX Runtime differs by {row['onnx_error']:.1e} (the dense model by {row['onnx_dense']:.1e}), without its "
        f"optimizations by {row['onnx_plain']:.1e} (the dense model by {row['onnx_dense_plain']:.1e})"
    )


def _errors(model: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[float, float]:
    """Largest relative difference of ONNX Runtime's outputs from the model's, with and without its optimizations."""
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        path = Path(folder) / "model.onnx"
        expected = tensors(model(*inputs))
        torch.onnx.export(model, inputs, path, dynamo=False)
        return _error(path, inputs, expected, optimized=True), _error(path, inputs, expected, optimized=False)


def _error(path: Path, inputs: tuple[Tensor, ...], expected: list[Tensor], optimized: bool) -> float:
    import onnxruntime

    options, levels = onnxruntime.SessionOptions(), onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimized else levels.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [entry.name for entry in session.get_inputs()]
    given = dict(zip(names, (x.numpy() for x in inputs), strict=True))
    return relative_error([torch.from_numpy(array) for array in session.run(None, given)], expected)
