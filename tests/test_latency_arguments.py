"""What users may say of latency, and the sentences that they get for anything else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from test_latency import CPU, Made, Net, X, table_of
from torch import nn

import fxprune
from fxprune.errors import InputError, PlanMismatch
from fxprune.profiling.engines.registry import engine_of
from fxprune.profiling.measuring import Bench
from fxprune.profiling.segments import segments_of
from fxprune.profiling.table import LatencyTable
from fxprune.profiling.verb import complete


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    return Net().eval()


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"engine": "egar"}, "did you mean 'eager'"),
        ({"engine": 3}, "engine must be one of 'eager', 'compile', 'onnxruntime'"),
        ({"device": "tpu"}, "device must be"),
        ({"device": "meta"}, "not on 'meta'"),
        ({"threads": 0}, "threads must be a whole number"),
        ({"samples": 3}, "samples must be a whole number of at least 6"),
        ({"cache": 7}, "a path must be text"),
    ],
    ids=str,
)
def test_bad_arguments_of_profile(model: nn.Module, given: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        fxprune.profile(model, X, **{"cache": False, **given})


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_there(model: nn.Module) -> None:
    with pytest.raises(InputError, match="there is no CUDA device"):
        fxprune.profile(model, X, device="cuda")


def test_an_engine_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"needs onnx and onnxruntime: pip install 'fxprune\[onnx\]'"):
        engine_of("onnxruntime")


@pytest.mark.parametrize("asked", [4, "4", "4 min", 0, -0.5, "fast"])
def test_what_is_no_budget_of_time(model: nn.Module, asked: Any) -> None:
    with pytest.raises(InputError, match="latency must be"):
        fxprune.plan(model, example_inputs=X, latency=asked)


def test_profile_must_be_a_table(model: nn.Module) -> None:
    with pytest.raises(InputError, match=r"profile must be what fxprune\.profile gives"):
        fxprune.plan(model, example_inputs=X, latency=0.5, profile=3)  # type: ignore[arg-type]


def test_complete_says_minutes_of_slow_models(model: nn.Module) -> None:
    @dataclass(frozen=True)
    class Slow(Made):
        setup: ClassVar[float] = 60.0

    told: list[str] = []

    def stop(sentence: str, *_: int) -> None:
        told.append(sentence)
        raise KeyboardInterrupt

    engine, analysis = Slow(CPU, 1), fxprune.analyze(model, X)
    with pytest.raises(KeyboardInterrupt):
        complete(LatencyTable({}, wanted=10), Bench(analysis, model, segments_of(analysis), engine), stop)
    assert told == ["measuring 10 slim models with eager: about 10 min"]


def test_a_table_for_another_model_is_refused(model: nn.Module) -> None:
    table, other = table_of(model, 6), nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
    with pytest.raises(PlanMismatch, match="was made for a Net"):
        fxprune.plan(other, example_inputs=X, latency=0.5, profile=table)
    with pytest.raises(PlanMismatch, match="another attention or ignore"):
        fxprune.plan(model, example_inputs=X, latency=0.5, profile=table, ignore=["stem"])
