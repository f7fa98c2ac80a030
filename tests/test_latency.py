"""Latency: predicted from a table as a made engine takes it, met as a budget, kept in a file that resumes."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, fx, nn

import fxprune
from fxprune.analysis.analysis import Analysis
from fxprune.errors import InputError
from fxprune.profiling import using
from fxprune.profiling.designs import design, gone_of
from fxprune.profiling.engines.base import Engine, Inputs, Parts, Run
from fxprune.profiling.engines.eager import Eager
from fxprune.profiling.fitting import fit, misaligned
from fxprune.profiling.measuring import Bench, Sample, middle, timed_in_turns
from fxprune.profiling.predicted import Predicted
from fxprune.profiling.segments import FEATURES, READ, WORK, WRITTEN, segments_of
from fxprune.profiling.steps import step_of
from fxprune.profiling.table import LatencyTable, key_of, path_of, read_table
from fxprune.profiling.verb import measured
from fxprune.submodules.target import Target


class Net(nn.Module):
    """Two blocks on a stream, one of them depthwise, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 3, padding=1)
        self.wide, self.narrow = nn.Conv2d(32, 64, 1), nn.Conv2d(64, 32, 1)
        self.deep = nn.Conv2d(64, 64, 3, padding=1, groups=64)
        self.norm, self.head = nn.BatchNorm2d(64), nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        x = x + self.narrow(self.norm(self.deep(self.wide(x).relu())).relu())
        return self.head(x.mean((2, 3)))


X = torch.zeros(1, 3, 12, 12)


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    return Net().eval()


@pytest.fixture(scope="module")
def analysis(model: nn.Module) -> Analysis:
    return fxprune.analyze(model, X)


def seconds_of(module: fx.GraphModule, block: int) -> list[float]:
    """What the made engine takes for each layer: its work in blocks of channels, what it writes, and a call."""
    found = []
    for node in module.graph.nodes:
        layer = module.get_submodule(str(node.target)) if node.op == "call_module" else None
        if isinstance(layer, nn.Conv2d):
            ins, outs = (-(-n // block) * block for n in (layer.in_channels, layer.out_channels))
            ins = 1 if layer.weight.shape[1] == 1 and layer.kernel_size[0] == 3 else ins
            area = layer.kernel_size[0] ** 2 * 144
            found.append(2e-6 + 1e-10 * ins * outs * area + 4e-10 * layer.out_channels * 144)
        elif isinstance(layer, nn.Linear):
            found.append(2e-6 + 1e-10 * layer.in_features * layer.out_features)
    return found


@dataclass(frozen=True)
class Made(Engine):
    """Takes what `seconds_of` says; nothing is run."""

    block: int = 1
    tells: bool = True

    name: ClassVar[str] = "eager"
    setup: ClassVar[float] = 0.1

    def prepared(self, module: fx.GraphModule, inputs: Inputs) -> Run:
        return lambda: sum(seconds_of(module, self.block)) * 1.1 + 5e-6

    def seconds(self, run: Run) -> float:
        return float(run())

    def parts(self, module: fx.GraphModule, inputs: Inputs, places: Mapping[str, int], count: int) -> Parts | None:
        each = np.array([1e-9, *seconds_of(module, self.block)])
        assert len(each) == count
        return (lambda rounds: np.tile(each, (rounds, 1))) if self.tells else None


CPU = torch.device("cpu")


def table_of(model: nn.Module, samples: int = 18, cache: Any = False, **made: Any) -> LatencyTable:
    return measured(Target.of(model, (), X), Made(CPU, 1, **made), samples, ("head_dim", (), 0), (cache, None))


@pytest.fixture(scope="module")
def table(model: nn.Module) -> LatencyTable:
    return table_of(model)


def truth(analysis: Analysis, model: nn.Module, kept: np.ndarray, block: int) -> float:
    bench = Bench(analysis, model, segments_of(analysis), Made(CPU, 1, block=block))
    return sum(seconds_of(bench.slim(gone_of(analysis, kept))[1], block)) * 1.1 + 5e-6


# -- segments and their features ------------------------------------------------------------------------------------


def test_segments_begin_at_contractions_and_their_work_is_what_the_analysis_counts(analysis: Analysis) -> None:
    segments = segments_of(analysis)
    names = [analysis.traced.graph.find_nodes(op="call_module", target=n)[0].name for n in ("stem", "wide", "deep", "narrow")]
    assert segments.anchors[:5] == ["", *names] and len(segments) == 6
    assert segments.operations[1:] == ["Conv2d 3x3", "Conv2d 1x1", "depthwise Conv2d 3x3", "Conv2d 1x1", "Linear"]
    kept = np.array([g.size // 2 for g in analysis.free], np.float64)
    features = segments.values(kept, np.ones(6))
    cut = analysis.cut(gone_of(analysis, kept.astype(int)))
    assert features.shape == (6, len(FEATURES)) and features[:, WORK].sum() == cut.total_macs
    wide = next(k for k, g in zip(kept, analysis.free, strict=True) if g.id == "wide.weight")
    assert features[2, WRITTEN] == wide * 144 * analysis.batch == features[3, READ]


def test_work_is_done_in_blocks(analysis: Analysis) -> None:
    segments = segments_of(analysis)
    sizes = np.array([g.size for g in analysis.free], np.float64)
    odd, even = (segments.values(np.where(sizes == 64, k, sizes), np.full(6, 16.0)) for k in (33.0, 48.0))
    assert odd[2, WORK] == even[2, WORK] and odd[2, WRITTEN] < even[2, WRITTEN]


# -- the fit --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("block", [1, 16])
def test_designs_that_were_not_measured_are_predicted(model: nn.Module, analysis: Analysis, block: int) -> None:
    table, segments = table_of(model, block=block), segments_of(analysis)
    predicted = table.predicted(analysis, segments)
    errors = []
    for number in range(100, 112):
        kept = design(analysis, number)
        errors.append(predicted.seconds(kept.astype(float)) / truth(analysis, model, kept, block) - 1)
    assert np.quantile(np.abs(errors), 0.9) < (0.02 if block == 1 else 0.05), errors
    assert step_of(predicted, analysis) == block
    assert ("16" in str(predicted.fitted.multiples)) == (block == 16)


def test_where_an_engine_cannot_tell_segments_apart_the_whole_is_still_predicted(model: nn.Module, analysis: Analysis) -> None:
    predicted = table_of(model, tells=False).predicted(analysis, segments_of(analysis))
    errors = [
        predicted.seconds(kept.astype(float)) / truth(analysis, model, kept, 1) - 1
        for kept in (design(analysis, number) for number in range(100, 106))
    ]
    assert np.quantile(np.abs(errors), 0.9) < 0.2, errors


def test_slopes_are_those_of_the_values(table: LatencyTable, analysis: Analysis) -> None:
    segments = segments_of(analysis)
    predicted = table.predicted(analysis, segments)
    kept = np.array([g.size / 2 for g in analysis.free])  # multiples of 16, and so is one block more
    for group in range(len(kept)):
        step = np.zeros(len(kept))
        step[group] = 16.0
        rise = (predicted.values(kept + step) - predicted.values(kept))[0] / 16
        # A product of two widths of one group bends upwards: the slope lies below the rise.
        assert predicted.slopes(kept)[0, group] == pytest.approx(rise, rel=0.35)
    weights, one = np.linspace(1, 2, len(segments.constants)), np.zeros(len(segments.constants), np.int64)
    assert np.allclose(
        segments.slope(weights, kept), replace(segments, constants=segments.constants * weights).slopes_of(one, 1, kept)[0]
    )
    assert predicted.names == ("latency",) and predicted.exact and not predicted.convex.any()


def test_a_slower_machine_during_one_design_changes_nothing(table: LatencyTable, analysis: Analysis) -> None:
    samples, segments = table.samples, segments_of(analysis)
    slow = [
        Sample(s.number, s.kept, 3 * s.whole, 3 * s.dense, [3 * p for p in s.parts or ()]) if s.number in (4, 7) else s
        for s in samples
    ]
    one, other = (Predicted(segments, fit(segments, each), {}) for each in (samples, slow))
    kept = design(analysis, 50).astype(float)
    assert one.seconds(kept) == pytest.approx(other.seconds(kept), rel=1e-6)


def test_a_machine_that_slows_down_between_a_whole_and_its_parts_changes_little(
    table: LatencyTable, analysis: Analysis
) -> None:
    segments, kept = segments_of(analysis), design(analysis, 50).astype(float)
    slow = [
        replace(s, parts=[(1.4 if s.number % 3 == 0 else 0.8) * p for p in s.parts or ()]) if s.number % 3 < 2 else s
        for s in table.samples
    ]
    one, other = (Predicted(segments, fit(segments, each), {}) for each in (table.samples, slow))
    assert other.seconds(kept) == pytest.approx(one.seconds(kept), rel=0.01)
    shares = [each.by_segment(kept)[1:] / each.by_segment(kept).sum() for each in (other, one)]
    assert shares[0] == pytest.approx(shares[1], rel=0.03)


def test_misaligned_widths_are_told_by_their_last_two_axes(analysis: Analysis) -> None:
    segments = segments_of(analysis)
    sizes = np.array([g.size for g in analysis.free], np.float64)
    assert not misaligned(segments, sizes).any()
    off = misaligned(segments, np.where(sizes == 64, 60.0, sizes))  # no multiple of 8, but one of 4
    assert off[2].tolist() == [False, True, True, False, False, False]  # outputs of `wide`
    assert off[4].tolist() == [False, False, False, False, True, True]  # inputs of `narrow`


def test_branches_that_are_gone_take_no_time(table: LatencyTable, analysis: Analysis) -> None:
    predicted = table.predicted(analysis, segments_of(analysis))
    [branch] = [name for name, found in analysis.branches.all.items() if not found.reason]
    rest = analysis.without([branch])
    reduced = predicted.within(rest)
    assert predicted.within(analysis) is predicted and [g.id for g in rest.free] == ["stem.weight"]
    kept = np.array([20.0])
    parts = reduced.by_segment(kept)
    assert (parts[2:5] < 1e-9).all() and reduced.values(kept)[0] < predicted.values(np.array([20.0, 64.0]))[0]
    assert parts[1] == predicted.by_segment(np.array([20.0, 7.0]))[1] and reduced.slopes(kept).shape == (1, 1)


def test_designs_are_the_same_every_time_and_cover_the_widths(analysis: Analysis) -> None:
    all_kept = np.stack([design(analysis, number) for number in range(40)])
    assert (all_kept == np.stack([design(analysis, number) for number in range(40)])).all()
    sizes = np.array([g.size for g in analysis.free])
    assert (all_kept[0] == sizes).all() and (all_kept >= 1).all() and (all_kept <= sizes).all()
    assert (all_kept.min(0) < 0.2 * sizes).all() and (all_kept[1:].mean(0) > 0.4 * sizes).all()
    assert (design(analysis, 3, seed=1) != all_kept[3]).any()


# -- measuring ------------------------------------------------------------------------------------------------------


def test_the_middle_half_is_deaf_to_outliers() -> None:
    assert middle(np.array([1.0, 100.0, 2.0, 3.0, 0.0, 2.5, 2.5, 90.0])) == pytest.approx(2.5)
    assert middle(np.array([[1.0, 5.0]])).tolist() == [1.0, 5.0]


def test_runs_are_timed_in_turns_by_the_clock_that_is_given() -> None:
    now, order = [0.0], []

    def run(name: str, seconds: float) -> Callable[[], None]:
        def call() -> None:
            order.append(name)
            now[0] += seconds

        return call

    engine = Eager(CPU, 1, lambda: now[0])
    found = timed_in_turns(engine, [run("a", 0.2), run("b", 0.3)])
    assert found == pytest.approx([0.2, 0.3])
    assert order[4:8] == ["a", "b", "b", "a"]  # the first two of each warm up


def test_eager_parts_run_the_model_and_are_told_by_segment(model: nn.Module, analysis: Analysis) -> None:
    ticks = iter(range(10**6))
    engine = Eager(CPU, 1, lambda: float(next(ticks)))
    segments = segments_of(analysis)
    sample = Bench(analysis, model, segments, engine).sample(5, design(analysis, 5))
    # Every operation takes one tick of this clock: so many ticks a segment as it has operations that compute.
    ran = [n for n in analysis.traced.graph.nodes if n.op not in ("placeholder", "output", "get_attr")]
    assert sample.parts == [float(sum(segments.places[n.name] == number for n in ran)) for number in range(len(segments))]
    assert sample.kept == design(analysis, 5).tolist() and sample.whole == sample.dense == 1.0


# -- the table's file -----------------------------------------------------------------------------------------------


def test_a_table_that_was_interrupted_goes_on(model: nn.Module, tmp_path: Path) -> None:
    whole = table_of(model, 8, tmp_path / "a")
    target, told = Target.of(model, (), X), []

    def stop(sentence: str, done: int, total: int) -> None:
        told.append((sentence, done, total))
        if done == 5:
            raise KeyboardInterrupt

    around = (tmp_path / "b", stop)
    with pytest.raises(KeyboardInterrupt):
        measured(target, Made(CPU, 1), 8, ("head_dim", (), 0), around)
    [file] = (tmp_path / "b").iterdir()
    assert len(read_table(file).samples) == 5 and told[0][0].startswith("measuring 8 slim models with eager: about ")
    resumed = measured(target, Made(CPU, 1), 8, ("head_dim", (), 0), (tmp_path / "b", lambda *a: told.append(a)))
    assert "measuring 3 slim models" in told[6][0] and resumed.to_dict() == whole.to_dict()
    assert read_table(file).to_dict() == whole.to_dict()
    told.clear()
    again = measured(target, Made(CPU, 1), None, ("head_dim", (), 0), (tmp_path / "b", lambda *a: told.append(a)))
    assert not told and again.to_dict() == whole.to_dict()


def test_the_key_names_what_times_depend_on(model: nn.Module, analysis: Analysis, tmp_path: Path) -> None:
    key = key_of(analysis, model, Made(CPU, 1), 0)
    others = [key_of(analysis, model, Made(CPU, 2), 0), key_of(analysis, model, Eager(CPU, 1), 1)]
    others += [key_of(fxprune.analyze(model, torch.zeros(4, 3, 12, 12)), model, Made(CPU, 1), 0)]
    others += [key_of(fxprune.analyze(model, X, ignore=["stem"]), model, Made(CPU, 1), 0)]
    others += [key | {"versions": {"torch": "0"}}, key | {"device": "cpu: another"}, key | {"engine": "compile"}]
    files = {path_of(tmp_path, each) for each in (key, *others)}
    assert len(files) == len(others) + 1 and path_of(None, key) is None
    assert path_of(tmp_path, key) == path_of(tmp_path, json.loads(json.dumps(key)))


@pytest.mark.parametrize("text", ["{", "[]", '{"format": "fxprune-latency", "version": 1}', '{"format": "fxprune-plan"}'])
def test_what_is_no_table_is_refused(text: str, tmp_path: Path) -> None:
    file = tmp_path / "table.json"
    file.write_text(text)
    with pytest.raises(InputError, match="latency"):
        read_table(file)


def test_a_damaged_sample_is_refused(model: nn.Module, tmp_path: Path) -> None:
    document = table_of(model, 6).to_dict()
    document["samples"][2]["whole"] = -1.0
    (tmp_path / "table.json").write_text(json.dumps(document))
    with pytest.raises(InputError, match="damaged"):
        read_table(tmp_path / "table.json")


def test_too_few_samples_teach_nothing(model: nn.Module, analysis: Analysis) -> None:
    table = table_of(model, 6)
    table.samples = table.samples[:5]
    with pytest.raises(InputError, match="5 samples, of 6"):
        table.predicted(analysis, segments_of(analysis))


# -- budgets --------------------------------------------------------------------------------------------------------


@pytest.fixture
def made_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(using, "engine_of", lambda name, device, threads: Made(CPU, threads))


@pytest.mark.usefixtures("made_engine")
@pytest.mark.parametrize(("asked", "scope"), [(0.6, "global"), (0.35, "layer")])
def test_a_budget_of_time_is_met(model: nn.Module, table: LatencyTable, asked: float, scope: Any) -> None:
    slim = fxprune.prune(model, example_inputs=X, latency=asked, profile=table, scope=scope)
    report = slim.meta["fxprune"]
    [budget] = report.plan.account.budgets
    assert budget.name == "latency" and budget.after <= budget.target and budget.after >= 0.95 * budget.target
    (_, predicted), (dense, took) = report.latency.predicted, report.latency.measured
    assert took / dense == pytest.approx(asked, rel=0.06) and predicted * 1e9 == pytest.approx(budget.after, abs=1)
    assert report.latency.error == pytest.approx(0, abs=0.05) and "ms measured" in str(report)
    assert report.to_dict()["latency"]["measured"] == (dense, took)


@pytest.mark.usefixtures("made_engine")
def test_time_beside_other_budgets_and_in_units(model: nn.Module, table: LatencyTable, tmp_path: Path) -> None:
    file = table.save(tmp_path / "table.json")
    limit = table.dense * 0.7
    options: dict[str, Any] = {"latency": f"{limit * 1e6:.3f} us", "macs": 0.5, "profile": file}
    plan = fxprune.plan(model, example_inputs=X, **options)
    macs, latency = plan.account.budgets
    assert macs.after <= 0.5 * macs.before and latency.after <= limit * 1e9 and " ms; budget " in str(latency)
    assert fxprune.Plan.from_json(plan.to_json()).settings.latency == pytest.approx(limit * 1e9, rel=1e-4)
    assert plan.to_json() == fxprune.plan(model, example_inputs=X, **options).to_json()


@pytest.mark.usefixtures("made_engine")
def test_multiples_come_from_the_table(model: nn.Module) -> None:
    plan = fxprune.plan(model, 0.4, X, round_to="auto", profile=table_of(model, block=16))
    assert plan.options["round_to"] == 16 and plan.account is None
    assert all(len(g.kept) % 16 == 0 or len(g.kept) == g.size for g in plan.groups if g.status == "free")


def test_a_budget_that_cannot_be_met_says_what_binds(model: nn.Module, table: LatencyTable) -> None:
    with pytest.raises(InputError, match=r"no choice of channels meets the budgets: latency=0.01 allows"):
        fxprune.plan(model, example_inputs=X, latency=0.01, profile=table)
