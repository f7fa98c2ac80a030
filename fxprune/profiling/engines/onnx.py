"""ONNX Runtime: the model is exported, and the runtime's own profiler says what each of its nodes takes."""

from __future__ import annotations

import importlib.util
import io
import json
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, fx

from fxprune import nested
from fxprune.errors import InputError, said
from fxprune.profiling.engines.base import Engine, Inputs, Parts, Run
from fxprune.profiling.engines.eager import Eager

__all__ = ["OnnxRuntime"]

_CONTRACTIONS = {"Conv", "ConvTranspose", "Gemm", "MatMul", "Einsum", "LSTM", "GRU", "RNN"}
_ENDINGS = ("_kernel_time", "_nchwc")
_BOTH = ("scaled_dot_product_attention",)  # two products


@dataclass(frozen=True)
class OnnxRuntime(Engine):
    """On the CPU its CPU provider; on CUDA its CUDA provider, with segments as PyTorch runs them."""

    _last: list[Any] = field(default_factory=list, compare=False)  # the model exported last, and the file

    name: ClassVar[str] = "onnxruntime"
    setup: ClassVar[float] = 2.0

    @property
    def own_parts(self) -> bool:  # type: ignore[override]
        return self.device.type == "cpu"

    def check(self) -> None:
        """
        Raises:
            InputError: onnxruntime is not installed, or was built without this device.
        """
        missing = [name for name in ("onnx", "onnxruntime") if importlib.util.find_spec(name) is None]
        if missing:
            raise InputError(f"engine 'onnxruntime' needs {' and '.join(missing)}: pip install 'fxprune[onnx]'")
        import onnxruntime

        if self._provider not in (known := onnxruntime.get_available_providers()):
            raise InputError(
                f"this onnxruntime does not run on {self.device.type}: it has {', '.join(known)} (pip install onnxruntime-gpu)"
            )

    def versions(self) -> dict[str, str]:
        return {**super().versions(), "onnxruntime": metadata.version("onnxruntime")}

    def prepared(self, module: fx.GraphModule, inputs: Inputs) -> Run:
        session, feed = self._session(self._exported(module, inputs), inputs)
        return lambda: session.run(None, feed)

    def parts(self, module: fx.GraphModule, inputs: Inputs, places: Mapping[str, int], count: int) -> Parts | None:
        if not self.own_parts:
            return Eager(self.device, self.threads, self.clock).parts(module, inputs, places, count)
        exported = self._exported(module, inputs)
        owners = _owners(exported, module, places)
        if owners is None:
            return None

        def run(forwards: int) -> np.ndarray:
            with tempfile.TemporaryDirectory() as folder:
                session, feed = self._session(exported, inputs, str(Path(folder) / "profile"))
                for _ in range(forwards + 1):
                    session.run(None, feed)
                events = json.loads(Path(session.end_profiling()).read_text())
            found = [e for e in events if e.get("cat") == "Node" and e["name"].endswith("_kernel_time")]
            return _by_segment(found, owners, forwards + 1, count)[1:]

        return run

    def _exported(self, module: fx.GraphModule, inputs: Inputs) -> bytes:
        if not self._last or self._last[0] is not module:
            self._last[:] = [module, _exported(module, inputs)]
        return bytes(self._last[1])

    @property
    def _provider(self) -> str:
        return "CUDAExecutionProvider" if self.device.type == "cuda" else "CPUExecutionProvider"

    def _session(self, exported: bytes, inputs: Inputs, profile: str = "") -> tuple[Any, dict[str, Any]]:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = self.threads, 1
        options.log_severity_level = 3
        if profile:
            options.enable_profiling, options.profile_file_prefix = True, profile
        try:
            session = onnxruntime.InferenceSession(exported, options, providers=[self._provider])
        except Exception as error:
            raise InputError(f"engine 'onnxruntime' does not take the model: {type(error).__name__}: {said(error)}") from error
        tensors = nested.tensors(inputs)
        names = [each.name for each in session.get_inputs()]
        if len(names) != len(tensors):
            raise InputError(f"the exported model has {len(names)} inputs, where {len(tensors)} tensors were given")
        return session, {name: t.detach().cpu().numpy() for name, t in zip(names, tensors, strict=True)}


def _exported(module: fx.GraphModule, inputs: Inputs) -> bytes:
    """The model as ONNX.

    Raises:
        InputError: PyTorch cannot export it.
    """
    args, named = inputs
    if not all(isinstance(v, Tensor) for v in (*args, *named.values())):
        raise InputError("engine 'onnxruntime' needs inputs that are tensors")
    errors = []
    for modern in (False, True):  # the older exporter takes a fifth of the time, and keeps the order of the graph
        file: Any = io.BytesIO()
        try:
            with warnings.catch_warnings(), torch.no_grad():
                warnings.simplefilter("ignore")
                torch.onnx.export(module.eval(), tuple(args), file, kwargs=named or None, dynamo=modern, verbose=False)
            return bytes(file.getvalue())
        except Exception as error:  # of an exporter, anything
            errors.append(f"{type(error).__name__}: {said(error)}")
    raise InputError(f"engine 'onnxruntime': torch.onnx.export failed: {errors[0]}")


def _owners(exported: bytes, module: fx.GraphModule, places: Mapping[str, int]) -> dict[str, int] | None:
    """Name of a node or of a value of the ONNX graph -> segment; None where its contractions are not those of the graph.

    Both graphs are in the order in which the model was recorded: the n-th contraction of one is the n-th of the other.
    """
    import onnx

    nodes: Sequence[Any] = onnx.load_from_string(exported).graph.node
    ours = iter(_contractions(module, places))
    found, here = {}, 0
    for node in nodes:
        if node.op_type in _CONTRACTIONS:
            following = next(ours, None)
            if following is None:
                return None
            here = following
        for name in (node.name, *node.output):
            found[name] = here
    return None if next(ours, None) is not None else found


def _contractions(module: fx.GraphModule, places: Mapping[str, int]) -> Iterator[int]:
    """Segments in order; one of attention twice, for its two products."""
    last = 0
    for node in module.graph.nodes:
        segment = places.get(node.name, last)
        if segment > last:
            last = segment
            yield segment
            if getattr(node.target, "__name__", "") in _BOTH:
                yield segment


def _by_segment(events: Sequence[Mapping[str, Any]], owners: Mapping[str, int], forwards: int, count: int) -> np.ndarray:
    """Seconds ``[forwards, segments]``. Nodes that the runtime made itself (reordered layouts) go with what ran before them."""
    each, found = len(events) // forwards, np.zeros((forwards, count))
    here = 0
    for number, event in enumerate(events[: each * forwards]):
        name = str(event["name"])
        for ending in _ENDINGS:
            name = name.removesuffix(ending)
        here = owners.get(name, here) if number % each else owners.get(name, 0)
        found[number // each, here] += float(event["dur"]) / 1e6
    return found
