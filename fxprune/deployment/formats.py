"""Forms for other runtimes: each writes an exported program to a file, and runs that file."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fxprune.errors import InputError

__all__ = ["FORMATS", "Format", "format_of"]

Runner = Callable[[Sequence[Tensor]], list[Tensor]]


@dataclass(frozen=True)
class Format:
    """A kind of file.

    Attributes:
        title: as users call it.
        needs: modules that have to be installed, and the names under which pip knows them.
        write: puts an exported program into a file.
        load: makes of a file a function from input tensors to output tensors, in their order.
        beside: suffixes of the files that belong to one.
        runner: the runtime, as users call it.
        multiple: of channels that its convolutions need for fast kernels on the CPU.
    """

    title: str
    needs: dict[str, str]
    write: Callable[[Any, Path], None]
    load: Callable[[Path], Runner]
    beside: tuple[str, ...] = ()
    runner: str = ""
    multiple: int = 1

    def check_installed(self) -> None:
        """
        Raises:
            InputError: a library is missing.
        """
        missing = [pip for name, pip in self.needs.items() if importlib.util.find_spec(name) is None]
        if missing:
            raise InputError(f"{self.title} needs {' and '.join(missing)}: pip install {' '.join(missing)}")


def format_of(path: Path) -> Format:
    """The format of a file, by its suffix.

    Raises:
        InputError: no format has it, or a library that it needs is missing.
    """
    if path.suffix not in FORMATS:
        known = ", ".join(f"{suffix} ({form.title})" for suffix, form in FORMATS.items())
        raise InputError(f"no format writes {path.name!r}: there are {known}")
    found = FORMATS[path.suffix]
    found.check_installed()
    return found


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Exporters tell a lot; what fails, they raise."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _write_program(program: Any, path: Path) -> None:
    torch.export.save(program, path)


def _inputs(program: Any) -> list[Any]:
    """What a program takes, in order: the names of tensors, and constants (which have a value)."""
    from torch.export.graph_signature import InputKind

    return [spec.arg for spec in program.graph_signature.input_specs if spec.kind is InputKind.USER_INPUT]


def _load_program(path: Path) -> Runner:
    program = torch.export.load(path)
    module, inputs = program.module(), _inputs(program)

    def run(tensors: Sequence[Tensor]) -> list[Tensor]:
        from torch.utils import _pytree

        rest = iter(tensors)
        given = [one.value if hasattr(one, "value") else next(rest) for one in inputs]
        args, kwargs = _pytree.tree_unflatten(given, module._in_spec)
        with torch.no_grad():
            return [t for t in _pytree.tree_leaves(module(*args, **kwargs)) if isinstance(t, Tensor)]

    return run


def _write_onnx(program: Any, path: Path) -> None:
    size = sum(t.nbytes for t in program.state_dict.values())
    with _quiet():
        torch.onnx.export(program, f=path, dynamo=True, external_data=size > 1_500_000_000)


def _load_onnx(path: Path) -> Runner:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [given.name for given in session.get_inputs()]

    def run(tensors: Sequence[Tensor]) -> list[Tensor]:
        given = {name: t.numpy() for name, t in zip(names, tensors, strict=True)}
        return [torch.from_numpy(value) for value in session.run(None, given)]

    return run


def _write_openvino(program: Any, path: Path) -> None:
    import openvino

    with _quiet():
        model = openvino.convert_model(program)
        _give_sizes(model, program)
        openvino.save_model(model, path, compress_to_fp16=False)


def _give_sizes(model: Any, program: Any) -> None:
    """Have the inputs of an OpenVINO model the sizes of those of its program: the converter leaves every axis open.

    Sizes that were known when the model was exported are in its code, too; with others it would fail somewhere inside. Inputs
    that are no tensors are constants of the program, and go.
    """
    known = {node.name: node.meta["val"] for node in program.graph.nodes if node.op == "placeholder"}
    shapes = {}
    for port, one in zip(list(model.inputs), _inputs(program), strict=True):
        if hasattr(one, "value"):
            model.remove_parameter(port.get_node())
        else:
            shapes[port] = [size if isinstance(size, int) else -1 for size in known[one.name].shape]
    model.reshape(shapes)


def _load_openvino(path: Path) -> Runner:
    import openvino

    # Where the processor can, the CPU plugin computes in bfloat16 unless told: the file is what is compared, not that choice.
    compiled = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

    def run(tensors: Sequence[Tensor]) -> list[Tensor]:
        found = compiled([t.numpy() for t in tensors])
        return [torch.from_numpy(found[output].copy()) for output in compiled.outputs]

    return run


FORMATS = {
    ".onnx": Format(
        "ONNX",
        {"onnx": "onnx", "onnxscript": "onnxscript", "onnxruntime": "onnxruntime"},
        _write_onnx,
        _load_onnx,
        (".onnx.data",),
        "ONNX Runtime",
        4,
    ),
    ".pt2": Format("torch.export", {}, _write_program, _load_program),
    ".xml": Format("OpenVINO", {"openvino": "openvino"}, _write_openvino, _load_openvino, (".bin",)),
}
