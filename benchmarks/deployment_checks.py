"""Ways of running a model that deployment takes, each compared with the same model in eager PyTorch.

Checks that share work (three files are made of one exported program) are a group, which runs in one process.
"""

from __future__ import annotations

import contextlib
import copy
import io
import pickle
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from measure import tensors
from torch import Tensor, nn

import fxprune
from fxprune.proofs.errors import relative_error

__all__ = ["CHECKS", "GROUPS", "Result", "checked", "import_all"]

Result = dict[str, Any]  # {"error": relative difference} or {"why": sentence}; "fixed": why the batch is not of any size
Check = Callable[[nn.Module, Tensor], Any]
LIMIT = 300  # characters of a reason


def import_all() -> None:
    """Have the libraries in memory, and their tables made, before processes are forked."""
    import onnxruntime  # noqa: F401
    import openvino.frontend.pytorch.fx_decoder  # noqa: F401
    import torch.distributed.fsdp
    import torchao.quantization.pt2e.quantizer.x86_inductor_quantizer  # noqa: F401

    net, x = nn.Sequential(nn.Linear(2, 2)).eval(), torch.ones(2, 2)
    with quiet(), torch.no_grad(), tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        torch.onnx.export(torch.export.export(net, (x,)), f=f"{folder}/net.onnx", dynamo=True)
        torch.compile(net, backend="aot_eager")(x)  # type: ignore[arg-type]


def checked(group: str, model: nn.Module, x: Tensor, send: Callable[[str, Result], None]) -> None:
    """Run the checks of a group; each result is sent as soon as it is there."""
    if group == "files":
        _files(model, x, send)
        return
    for name in GROUPS[group]:
        send(name, tried(CHECKS[name], model, x))


def tried(way: Check, model: nn.Module, x: Tensor) -> Result:
    """The relative difference that a way of running the model makes, or why it does not run."""
    try:
        expected = _called(copy.deepcopy(model), x)
        with quiet():
            found = way(copy.deepcopy(model), x)
        return compared(found, expected)
    except Exception as error:  # whatever each of them says
        return {"why": _said(error)}


def compared(found: Any, expected: Any) -> Result:
    """The largest relative difference of outputs."""
    a, b = [t.float() for t in tensors(found)], [t.float() for t in tensors(expected)]
    if [t.shape for t in a] != [t.shape for t in b]:
        return {"why": f"outputs of shapes {[tuple(t.shape) for t in a]}, not {[tuple(t.shape) for t in b]}"[:LIMIT]}
    return {"error": float(max(relative_error(one, other) for one, other in zip(a, b, strict=True)))}


def _said(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:LIMIT]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _called(model: nn.Module, x: Tensor) -> Any:
    torch.manual_seed(0)
    with torch.no_grad():
        return model(x)


def _files(model: nn.Module, x: Tensor, send: Callable[[str, Result], None]) -> None:
    """One exported program, of any batch if that goes, as it is, in ONNX, in OpenVINO, and with integers of 8 bits."""
    fixed: Result = {}
    program: Any = None
    for dims in ({0: torch.export.Dim("batch", min=1)}, None):
        try:
            with quiet(), torch.no_grad():
                program = torch.export.export(copy.deepcopy(model), (x,), dynamic_shapes=None if dims is None else (dims,))
            break
        except Exception as error:
            if dims is not None:
                fixed = {"fixed": _said(error)}
                continue
            for name in GROUPS["files"]:
                send(name, {"why": _said(error) if name == "torch.export" else "no exported program"})
            return
    inputs = [x] if fixed else [x, torch.cat([x, x[:1].flip(-1)])]
    trials = [(given, _called(copy.deepcopy(model), given)) for given in inputs]
    for name in GROUPS["files"]:
        send(name, {**_file_check(name, program, trials), **fixed})


def _file_check(name: str, program: Any, trials: list[tuple[Tensor, Any]]) -> Result:
    from fxprune.deployment.formats import FORMATS

    try:
        with quiet(), tempfile.TemporaryDirectory() as folder:
            if name == "torch.export":
                run: Any = program.module()
            elif name == "int8 static":
                run = _static(program.module(), trials[0][0])
            else:
                form = FORMATS[{"ONNX Runtime": ".onnx", "OpenVINO": ".xml"}[name]]
                file = Path(folder) / "model"
                form.write(program, file := file.with_suffix(".onnx" if form.title == "ONNX" else ".xml"))
                loaded = form.load(file)
                run = lambda given: loaded([given])  # noqa: E731
            results = [compared(_called(run, given), expected) for given, expected in trials]
    except Exception as error:
        return {"why": _said(error)}
    bad = [result for result in results if "why" in result]
    return bad[0] if bad else {"error": max(result["error"] for result in results)}


def _static(module: Any, x: Tensor) -> Any:
    """Convolutions and linear layers with weights and inputs of 8 bits, whose ranges one batch has shown (torchao's PT2E)."""
    from torchao.quantization.pt2e import move_exported_model_to_eval
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
    from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86

    quantizer = x86.X86InductorQuantizer().set_global(x86.get_default_x86_inductor_quantization_config())
    prepared = prepare_pt2e(module, quantizer)
    _called(prepared, x)
    converted = convert_pt2e(prepared)
    if not any("quantize" in str(node.target) for node in converted.graph.nodes):
        raise ValueError("nothing was quantised")
    return move_exported_model_to_eval(converted)


def _compiled(model: nn.Module, x: Tensor) -> Any:
    torch.compiler.reset()
    return _called(torch.compile(model, backend="aot_eager", fullgraph=True), x)  # type: ignore[arg-type]


@contextlib.contextmanager
def one_process() -> Iterator[None]:
    """A group of one process."""
    import torch.distributed as dist

    with tempfile.TemporaryDirectory() as folder:
        dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=0, world_size=1)
        try:
            yield
        finally:
            dist.destroy_process_group()


def _trained(model: nn.Module, x: Tensor) -> None:
    """A step of training; every parameter that is read has a gradient."""
    model.train()
    torch.manual_seed(0)
    outputs = [t for t in tensors(model(torch.cat([x, x]))) if t.is_floating_point()]
    sum(t.float().sum() for t in outputs).backward()  # type: ignore[union-attr]
    if not any(p.grad is not None for p in model.parameters()):
        raise ValueError("no parameter has a gradient after backward()")


def _ddp(model: nn.Module, x: Tensor) -> Any:
    with one_process():
        wrapped = nn.parallel.DistributedDataParallel(model)
        found = _called(wrapped, x)
        _trained(wrapped, x)
        return found


def _fsdp(model: nn.Module, x: Tensor) -> Any:
    """Each child with parameters is a unit, and the model is the last one."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    with one_process():
        mesh = init_device_mesh("cpu", (1,))
        for child in model.children():
            if next(child.parameters(), None) is not None and type(child).forward is not nn.Module.forward:
                fully_shard(child, mesh=mesh)
        fully_shard(model, mesh=mesh)
        found = _called(model, x)
        _trained(model, x)
        return found


def _int8(model: nn.Module, x: Tensor) -> Any:
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

    quantize_(model, Int8DynamicActivationInt8WeightConfig())
    return _called(model, x)


GROUPS = {
    "eager": ("deepcopy", "pickle", "channels_last", "bf16", "int8 dynamic", "optimize"),
    "files": ("torch.export", "ONNX Runtime", "OpenVINO", "int8 static"),
    "compile": ("torch.compile",),
    "parallel": ("DDP", "FSDP2"),
}
CHECKS: dict[str, Check] = {
    "deepcopy": lambda m, x: _called(copy.deepcopy(m), x),
    "pickle": lambda m, x: _called(pickle.loads(pickle.dumps(m)), x),
    "channels_last": lambda m, x: _called(
        m.to(memory_format=torch.channels_last),  # type: ignore[call-overload]
        x.to(memory_format=torch.channels_last),
    ),
    "bf16": lambda m, x: _called(m.bfloat16(), x.bfloat16()),
    "int8 dynamic": _int8,
    "optimize": lambda m, x: _called(fxprune.optimize(m, x), x),
    "torch.compile": _compiled,
    "DDP": _ddp,
    "FSDP2": _fsdp,
}
