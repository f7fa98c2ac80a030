"""`optimize` and `export`: models for evaluation, and files that are compared before they are kept."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import assert_same, fingerprint, run
from torch import Tensor, nn

import fxprune
from fxprune.cli.app import main
from fxprune.deployment import exporting, optimizing
from fxprune.deployment.formats import FORMATS
from fxprune.deployment.widths import advice
from fxprune.passes.base import PassResult
from fxprune.passes.fold_norms import FoldNorms
from fxprune.proofs.randomize import randomize

X = torch.zeros(2, 3, 8, 8)


def net() -> nn.Module:
    layers = [nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.5), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8)]
    return randomize(nn.Sequential(*layers, nn.ReLU(), nn.Flatten(), nn.Linear(128, 4))).train()


@pytest.fixture(scope="module")
def slim() -> Any:
    torch.manual_seed(0)
    return fxprune.prune(net(), 0.5, X)


def test_a_slim_model_is_optimized_and_left_alone(slim: Any) -> None:
    before = fingerprint(slim)
    fast = fxprune.optimize(slim)
    assert fingerprint(slim) == before
    x = torch.randn(5, 3, 8, 8)
    torch.testing.assert_close(fast(x), run(slim, (x,)), rtol=1e-4, atol=1e-4)
    assert not [m for m in fast.modules() if isinstance(m, (nn.BatchNorm2d, nn.Dropout))]
    assert fast.meta["optimized"]["error"] < 1e-5
    assert not {t.data_ptr() for t in fast.parameters()} & {t.data_ptr() for t in slim.parameters()}


def test_the_report_stays_and_knows_that_the_plan_is_not_of_this_copy(slim: Any, tmp_path: Path) -> None:
    fast = fxprune.optimize(slim)
    report = fast.meta["fxprune"]
    assert report.plan is slim.meta["fxprune"].plan and slim.meta["fxprune"].optimized is None
    assert report.optimized["fold-norms"] == {"norms folded": 2} and report.to_dict()["optimized"] == report.optimized
    fxprune.save(fast, tmp_path)
    assert "then optimized for evaluation: 1 nodes removed" in (tmp_path / "slim.py").read_text()
    images = [(torch.randn(4, 3, 8, 8), torch.zeros(4).long())]
    for verb in (fxprune.verify, fxprune.shrink, lambda model, fast: fxprune.repair(fast, model, images)):
        with pytest.raises(fxprune.InputError, match="was optimized for evaluation"):
            verb(net(), fast)
    assert fxprune.optimize(fast).meta["fxprune"].optimized["fold-norms"] == {"norms folded": 2}  # also the second time


def test_it_refuses_to_train_also_when_written(slim: Any, tmp_path: Path) -> None:
    fast = fxprune.optimize(slim)
    fxprune.save(fast, tmp_path)
    for one in (fast, fxprune.load(tmp_path)):
        x = torch.randn(1, 3, 8, 8)
        torch.testing.assert_close(one.eval()(x), run(slim, (x,)), rtol=1e-4, atol=1e-4)
        with pytest.raises(Exception, match="optimized for evaluation"):
            one.train()(x)


def test_passes_are_chosen_by_name(slim: Any) -> None:
    fast = fxprune.optimize(slim, passes=["drop-idle"])
    assert list(fast.meta["optimized"]["passes"]) == ["keep-evaluation", "drop-idle"]
    assert [m for m in fast.modules() if isinstance(m, nn.BatchNorm2d)]
    for wrong, message in (
        (["fold-norm"], "is not known"),
        (["slice-tensors"], "not for deployment"),
        ("fold-norms", "a list"),
    ):
        with pytest.raises(fxprune.InputError, match=message):
            fxprune.optimize(slim, passes=wrong)


def test_any_model_is_optimized() -> None:
    model = net()
    fast = fxprune.optimize(model, X)
    x = torch.randn(3, 3, 8, 8)
    torch.testing.assert_close(fast(x), run(model, (x,)), rtol=1e-4, atol=1e-4)
    assert_same(run(fxprune.optimize(fast), (x,)), fast(x))  # once more changes nothing


def test_models_of_other_forms(tmp_path: Path) -> None:
    """Inputs by keyword, other precisions, a graph of torch.fx; a model without values is refused."""

    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))

        def forward(self, image: Tensor, scale: Tensor | None = None) -> dict[str, Tensor]:
            y = self.net(image).relu()
            return {"y": y if scale is None else y * scale}

    inputs = {"image": torch.randn(2, 3, 8, 8), "scale": torch.randn(2, 1, 1, 1)}
    assert fxprune.optimize(Named(), inputs).meta["optimized"]["passes"]["fold-norms"] == {"norms folded": 1}
    program = torch.export.load(fxprune.export(Named(), tmp_path / "named.pt2", inputs)).module()
    assert program(**{name: value[:1] for name, value in inputs.items()})["y"].shape == (1, 8, 6, 6)
    halves = {name: value.bfloat16() for name, value in inputs.items()}
    assert fxprune.optimize(Named().bfloat16(), halves).meta["optimized"]["error"] < 5e-2
    assert fxprune.optimize(torch.fx.symbolic_trace(net()), X).meta["optimized"]["error"] < 1e-4
    with pytest.raises(fxprune.InputError, match="no values"):
        fxprune.optimize(Named().to("meta"), inputs)


def test_a_pass_that_changes_the_model_is_found_out(slim: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(self: FoldNorms, module: Any, context: Any = None) -> PassResult:
        module.get_submodule("0").weight.data *= 1.001
        return PassResult.of(norms_folded=1)

    monkeypatch.setattr(FoldNorms, "run", wrong)
    with pytest.raises(fxprune.NotEquivalent, match="float64"):
        fxprune.optimize(slim)
    monkeypatch.setattr(optimizing, "_prove", lambda *_: None)
    with pytest.raises(fxprune.NotEquivalent, match="differs from the original"):
        fxprune.optimize(slim)


def test_a_program_of_torch_export_takes_any_batch(slim: Any, tmp_path: Path) -> None:
    file = fxprune.export(slim, tmp_path / "deep" / "slim.pt2")
    program = torch.export.load(file).module()
    x = torch.randn(7, 3, 8, 8)
    torch.testing.assert_close(program(x), run(slim, (x,)), rtol=1e-4, atol=1e-4)
    assert [path.name for path in file.parent.iterdir()] == ["slim.pt2"]


def test_a_file_that_computes_something_else_is_not_kept(slim: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "slim.pt2").write_text("before")
    monkeypatch.setattr(exporting, "_outputs", lambda model, given: [torch.ones(len(given[0][0]), 4)])
    with pytest.raises(fxprune.NotEquivalent, match="off by"):
        fxprune.export(slim, tmp_path / "slim.pt2", optimize=False, dynamic_batch=False)
    assert (tmp_path / "slim.pt2").read_text() == "before" and len(list(tmp_path.iterdir())) == 1


class FixedBatch(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x).view(2, -1) if x.shape[0] == 2 else self.fc(x).view(3, 2)


def test_what_cannot_be_exported_is_refused_in_a_sentence(slim: Any, tmp_path: Path) -> None:
    for path, message in (("slim", "no format"), ("slim.tflite", "no format")):
        with pytest.raises(fxprune.InputError, match=message):
            fxprune.export(slim, tmp_path / path)
    with pytest.raises(fxprune.PruneError, match="dynamic_batch=False"):
        fxprune.export(FixedBatch(), tmp_path / "fixed.pt2", torch.zeros(2, 4), optimize=False)
    (tmp_path / "file").write_text("")
    with pytest.raises(fxprune.PruneError, match="cannot write"):
        fxprune.export(slim, tmp_path / "file" / "slim.pt2", dynamic_batch=False)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_missing_library_is_named(slim: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FORMATS, ".xml", replace(FORMATS[".xml"], needs={"not_installed_at_all": "openvino"}))
    with pytest.raises(fxprune.InputError, match="OpenVINO needs openvino: pip install openvino"):
        fxprune.export(slim, tmp_path / "slim.xml")


@pytest.mark.slow
def test_onnx_runtime_computes_the_same(slim: Any, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript", reason="needs the extra `onnx`")
    runtime = pytest.importorskip("onnxruntime", reason="needs the extra `onnx`")
    file = fxprune.export(slim, tmp_path / "slim.onnx")
    session = runtime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    for batch in (1, 6):
        x = torch.randn(batch, 3, 8, 8)
        (found,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        torch.testing.assert_close(torch.from_numpy(found), run(slim, (x,)), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_openvino_computes_the_same(slim: Any, tmp_path: Path) -> None:
    """With OpenVINO's own calls, in float32: its CPU plugin rounds to bfloat16 by itself where the processor can."""
    openvino = pytest.importorskip("openvino", reason="needs the extra `openvino`")
    file = fxprune.export(slim, tmp_path / "slim.xml")
    assert {path.name for path in tmp_path.iterdir()} == {"slim.xml", "slim.bin"}
    compiled = openvino.Core().compile_model(file, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    assert compiled.input(0).partial_shape[0].is_dynamic
    for batch in (1, 6):
        x = torch.randn(batch, 3, 8, 8)
        found = torch.from_numpy(compiled(x.numpy())[0])
        torch.testing.assert_close(found, run(slim, (x,)), rtol=1e-4, atol=1e-4)
    fixed = openvino.Core().read_model(fxprune.export(slim, tmp_path / "fixed.xml", dynamic_batch=False))
    assert list(fixed.input(0).shape) == [2, 3, 8, 8]


@pytest.mark.parametrize(
    ("widths", "odd"),
    [((3, 16, 8), 0), ((3, 13, 8), 2), ((1, 6, 21), 2), ((3, *[8] * 12, 21), 0), ((3, 3, 4), 0), ((), 0)],
)
def test_widths_that_a_runtime_is_slow_at_are_told(widths: tuple[int, ...], odd: int) -> None:
    layers = [nn.Conv2d(a, b, 1) for a, b in pairwise(widths)]
    told = advice(nn.Sequential(*layers), FORMATS[".onnx"])
    assert told.startswith(f"{odd} of {len(layers)} convolutions") if odd else not told
    assert "ONNX Runtime" in told or not odd
    assert not advice(nn.Sequential(*layers), FORMATS[".pt2"])


def test_exports_log_what_a_runtime_is_slow_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(FORMATS, ".pt2", replace(FORMATS[".pt2"], runner="it", multiple=4))
    odd = nn.Sequential(nn.Conv2d(3, 5, 1), nn.ReLU(), nn.Conv2d(5, 5, 3, groups=5))
    fxprune.export(odd, tmp_path / "odd.pt2", X)
    assert "odd.pt2: 2 of 2 convolutions" in caplog.text and "round_to=8 or 16" in caplog.text


class TwoInputs(nn.Module):
    """Inputs whose order matters, one that is not read, one that is no tensor; two outputs, one of them whole numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 6)

    def forward(self, ids: Tensor, idle: Tensor, image: Tensor, scale: float = 1.0) -> dict[str, Tensor]:
        y = self.fc(image) * ids.unsqueeze(1) * scale
        return {"y": y, "best": y.argmax(1)}


@pytest.mark.parametrize("suffix", [".pt2", *(pytest.param(s, marks=pytest.mark.slow) for s in (".onnx", ".xml"))])
def test_files_of_models_with_several_inputs_and_outputs(tmp_path: Path, suffix: str) -> None:
    for name in FORMATS[suffix].needs:
        pytest.importorskip(name, reason=f"needs the extra `{FORMATS[suffix].title.lower()}`")
    torch.manual_seed(0)
    inputs = {"scale": 3.0, "image": torch.randn(3, 4), "ids": torch.arange(3), "idle": torch.zeros(3, 1)}
    model = TwoInputs()
    file = fxprune.export(model, tmp_path / f"two{suffix}", inputs)
    given = {"ids": torch.arange(1, 6), "idle": torch.zeros(5, 1), "image": torch.randn(5, 4)}  # as forward takes them
    y, best = FORMATS[suffix].load(file)([*given.values()])
    expected = model(**given, scale=3.0)
    torch.testing.assert_close(y, expected["y"], rtol=1e-4, atol=1e-4)
    assert best.tolist() == expected["best"].tolist()


def test_the_command_line_exports_a_slim_folder(slim: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fxprune.save(slim, tmp_path / "slim")
    file = tmp_path / "slim.pt2"
    main_of = ["export", str(tmp_path / "slim"), "--input-size", "3x8x8"]
    with pytest.raises(SystemExit) as stopped:
        main([*main_of, "--exported-program", str(file)])
    assert not stopped.value.code and str(file) in capsys.readouterr().out and file.is_file()
    for wrong, message in (([], "say what to write"), (["--onnx", "x.pt2"], "must end in .onnx")):
        with pytest.raises(SystemExit) as stopped:
            main([*main_of, *wrong])
        assert stopped.value.code == 2 and message in capsys.readouterr().err
