"""`fxprune.study`: how alike criteria are, how far apart their scores, and what the weights look like.

Many expectations are closed forms for filters of n independent Gaussian weights: the variation of the l1 norms is
``sqrt((pi / 2 - 1) / n)``, of the l2 norms ``1 / sqrt(2 n)``, and Pearson's correlation of both is 0.936.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from models import CifarResNet
from safetensors.torch import save_file
from scipy import stats
from torch import Tensor, nn

import fxprune
from fxprune.cli.commands import main
from fxprune.cli.many_values import repeated
from fxprune.criteria.random_scores import Random
from fxprune.errors import InputError, NothingToPrune, PruneError
from fxprune.studies import Study, aura_map, plots
from fxprune.studies.agreement import shared, spearman
from fxprune.studies.distribution import _levene, test_filters

NORMS = ("l1", "l2", "fpgm", "fermat")


class Plain(nn.Module):
    """Three convolutions of 64 filters, the last two of n = 576 weights, all Gaussian."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2, self.conv3 = (nn.Conv2d(i, 64, 3, padding=1, bias=False) for i in (3, 64, 64))
        self.bn = nn.BatchNorm2d(64)
        self.head = nn.Linear(64, 10)
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for conv in (self.conv1, self.conv2, self.conv3):
                fan = conv.weight[0].numel()
                conv.weight.copy_(torch.randn(conv.weight.shape, generator=generator) * math.sqrt(2 / fan))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.conv2(torch.relu(self.conv1(x))))
        return self.head(torch.relu(self.bn(self.conv3(x))).mean((2, 3)))


X = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))
Y = torch.tensor([0, 1, 2, 3])
WIDE = ("conv2.weight", "conv3.weight")


@pytest.fixture(scope="module")
def net() -> nn.Module:
    return Plain().eval()


@pytest.fixture(scope="module")
def found(net) -> Study:
    return fxprune.study(net, NORMS, X)


# -- similarity ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("first", "second", "least"), [("l1", "l2", 0.85), ("l2", "fermat", 0.95), ("fermat", "fpgm", 0.99)])
def test_norms_and_distances_rank_gaussian_filters_alike(found, first, second, least):
    wide = [r for name, r in zip(found.units, found.pair(first, second).layers, strict=True) if name in WIDE]
    assert len(wide) == 2
    assert min(wide) > least


def test_a_pair_has_no_order(found):
    assert found.pair("l1", "l2") is found.pair("l2", "l1")
    assert len(found.pairs) == 6


def test_a_criterion_agrees_with_itself_exactly(net):
    pair = fxprune.study(net, ["fermat", "fermat"], X, weights=False).pair("fermat", "fermat#2")
    assert set(pair.layers) == {1.0}
    assert (pair.everywhere, pair.raw, pair.mean, pair.above()) == (1, 1, 1, 1)
    assert {(o.share, o.jaccard) for o in pair.overlaps} == {(1.0, 1.0)}


def test_independent_scores_share_what_chance_gives(net):
    pair = fxprune.study(net, [Random(seed=1), Random(seed=2)], X, weights=False).pair("Random", "Random#2")
    assert all(abs(r) < 0.35 for r in pair.layers)  # deviation 1 / sqrt(63)
    assert abs(pair.everywhere) < 0.2
    for overlap in pair.overlaps:
        assert abs(overlap.share - overlap.expected) < 0.15


def test_overlap_by_chance_is_the_ratio(found):
    for overlap in found.pair("l1", "fpgm").overlaps:
        gone = 64 - math.floor(64 * (1 - overlap.ratio) + 1e-9)
        ratio = gone / 64 if overlap.scope == "layer" else round(192 * overlap.ratio) / 192
        assert overlap.expected == pytest.approx(ratio)


def test_without_normalisation_l1_follows_the_size_of_filters_and_l2_does_not(found):
    """With He's scale, the l2 norm is that of every layer and the l1 norm grows as sqrt(n)."""
    pair = found.pair("l1", "l2")
    assert pair.raw < 0.7 < 0.85 < pair.everywhere
    norms = {name: [np.mean(s) for s in found.scores[name]] for name in ("l1", "l2")}
    assert norms["l2"][0] == pytest.approx(norms["l2"][1], rel=0.1)
    assert norms["l1"][1] / norms["l1"][0] == pytest.approx(math.sqrt(576 / 27), rel=0.1)


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ([1, 2, 3], [10, 20, 15], 0.5),
        ([1, 2, 3], [3, 2, 1], -1.0),
        ([1, 2, 3], [5, 5, 5], None),
        ([1, 1, 2, 3], [1, 2, 2, 9], stats.spearmanr([1, 1, 2, 3], [1, 2, 2, 9]).statistic),
    ],
    ids=["partly", "reversed", "a constant has no ranks", "ties"],
)
def test_spearman(a, b, expected):
    r = spearman(np.array(a, float), np.array(b, float))
    assert r == (None if expected is None else pytest.approx(expected))


def test_shared_sets():
    a, b = {"p": np.array([0, 1]), "q": np.array([2])}, {"p": np.array([1, 2])}
    sizes = [("p", 4), ("q", 6)]
    assert shared(a, b, sizes, within=True) == (2 / 5, 2 * (2 * 2 / 4) / 5, 1 / 4)
    assert shared(a, b, sizes, within=False) == (2 / 5, 2 * (3 * 2 / 10) / 5, 1 / 4)
    assert shared({}, {}, sizes, within=True) is None


# -- applicability -------------------------------------------------------------------------------------------------------


def test_variation_has_the_closed_form(found):
    at = found.units.index("conv2.weight")
    variation = {a.criterion: a.variation[at] for a in found.applicability}
    assert variation["l1"] == pytest.approx(math.sqrt((math.pi / 2 - 1) / 576), rel=0.25)
    assert variation["l2"] == pytest.approx(1 / math.sqrt(2 * 576), rel=0.25)
    assert variation["fermat"] == pytest.approx(variation["l2"], rel=0.1)
    assert variation["fpgm"] == pytest.approx(variation["l2"] / 2, rel=0.1)


def test_wide_gaussian_layers_are_called_flat(found):
    assert found.of("l2").flat() == pytest.approx(2 / 3)  # the first layer, of 27 weights, varies by 14 %


def test_margin_is_the_gap_at_the_cut(net):
    scores = torch.arange(64.0) ** 2
    entry = fxprune.study(net, [lambda group, tensors: scores], X, ratios=[0.5], weights=False).applicability[0]
    assert entry.margins == {0.5: (pytest.approx((32**2 - 31**2) / scores.mean().item()),) * 3}
    low, middle, high = np.quantile(scores, [0.25, 0.5, 0.75])
    assert entry.middle[0] == pytest.approx((high - low) / middle)


def test_equal_scores_have_no_ranks_and_no_margin(net):
    study = fxprune.study(net, [lambda group, tensors: torch.ones(64), "l2"], X, weights=False)
    assert study.criteria == ("<lambda>", "l2")
    (pair,) = study.pairs
    assert (pair.mean, pair.least, pair.raw) == (None, None, None)
    assert math.isnan(pair.above())
    assert study.of("<lambda>").margins[0.5] == (0.0, 0.0, 0.0)
    assert "-" in str(study)


def test_ranking_survives_one_percent_of_noise_and_not_a_hundred(net):
    little, much = (fxprune.study(net, ["l2"], X, noise=n, weights=False).of("l2").noise for n in (0.01, 0.99))
    assert little.mean > 0.99 > 0.9 > much.mean
    assert little.overlap("layer", 0.5).share > 0.9
    assert fxprune.study(net, ["l2"], X, noise=0, weights=False).of("l2").noise is None


# -- what is ranked ------------------------------------------------------------------------------------------------------


def test_groups_are_those_that_can_be_pruned(found):
    assert found.units == ("conv1.weight", "conv2.weight", "conv3.weight")
    assert found.sizes == (64, 64, 64)


def test_layers_are_all_that_have_filters(net):
    study = fxprune.study(net, ["l1", "l2"], X, unit="layer", ignore=["conv1"], weights=False)
    assert study.units == ("conv1.weight", "conv2.weight", "conv3.weight", "head.weight")
    expected = net.head.weight.detach().abs().sum(1)
    assert study.scores["l1"][-1] == pytest.approx(expected.tolist(), rel=1e-5)


def test_model_and_criteria_stay_as_they_are(net):
    before = {n: t.clone() for n, t in net.state_dict().items()}
    criterion = fxprune.criteria.resolve("apoz")
    fxprune.study(net, [criterion], X, data=[(X, Y)], weights=False)
    assert not criterion._groups
    assert all(torch.equal(t, before[n]) for n, t in net.state_dict().items())


class Counted:
    """Data that count how often they are read."""

    def __init__(self) -> None:
        self.passes = 0

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        self.passes += 1
        yield X, Y


def test_criteria_that_observe_share_a_pass(net):
    data = Counted()
    study = fxprune.study(net, ["apoz", "taylor", "l2"], X, data=data, noise=0, weights=False)
    assert data.passes == 1
    assert len(study.pairs) == 3
    fxprune.study(net, ["apoz", "taylor"], X, data=data, noise=0.01, weights=False)
    assert data.passes == 3


def test_an_iterator_is_kept_for_the_second_pass(net):
    once, kept = (fxprune.study(net, ["apoz"], X, data=d, weights=False) for d in (iter([(X, Y)]), [(X, Y)]))
    assert once == kept


def test_the_first_batches_are_kept_for_the_second_pass(net):
    """A shuffled loader would begin with others."""
    data = Counted()
    fxprune.study(net, ["apoz"], X, data=data, batches=1, weights=False)
    assert data.passes == 1


def test_scores_are_those_that_prune_uses(net):
    plan = fxprune.plan(net, 0.5, X, criterion="taylor", data=[(X, Y)], scope="layer")
    study = fxprune.study(net, ["taylor"], X, data=[(X, Y)], weights=False)
    for name, scores in zip(study.units, study.scores["taylor"], strict=True):
        lowest = np.argsort(scores, kind="stable")[:32]
        assert set(lowest.tolist()).isdisjoint(plan.group(name).kept)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"criteria": ["l3"]}, "no criterion 'l3'"),
        ({"criteria": "l1"}, "criteria must be a list"),
        ({"criteria": []}, "criteria must be a list"),
        ({"ratios": [0.5, 1.0]}, "ratios must be fractions"),
        ({"ratios": []}, "ratios must be fractions"),
        ({"noise": -0.1}, "noise must be"),
        ({"criteria": ["apoz"]}, "pass data"),
        ({"criteria": ["bn_scale"], "unit": "layer"}, "scores whole groups"),
        ({"unit": "filter"}, "unit must be"),
        ({"criteria": [lambda g, t: torch.full((64,), math.nan)]}, "not finite"),
        ({"criteria": [lambda g, t: torch.ones(3)]}, "of shape"),
    ],
    ids=lambda v: None if isinstance(v, dict) else v.replace(" ", "-"),
)
def test_bad_arguments(net, options, message):
    with pytest.raises(InputError, match=message):
        fxprune.study(net, **{"criteria": ["l1"], "example_inputs": X, **options})


def test_nothing_to_rank():
    with pytest.raises(NothingToPrune):
        fxprune.study(nn.ReLU(), ["l1"], X)


# -- weights -------------------------------------------------------------------------------------------------------------

N, INPUTS, KERNEL = 64, 32, 9


def gaussian(seed: int = 0, shape: tuple[int, int, int] = (N, INPUTS, KERNEL)) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("shape", [(16, 3, 9), (64, 32, 9), (256, 16, 1)], ids=["few", "many", "1 x 1"])
def test_gaussian_filters_hold_the_assumption(seed, shape):
    tests = test_filters(0.02 * gaussian(seed, shape))
    assert tests.gaussian.holds and tests.mean.holds and tests.variance.holds
    if shape[2] == 1:
        assert tests.blocks is None
    else:
        assert tests.blocks.p > 0.001
        assert tests.blocks.energy == pytest.approx(tests.blocks.pairs, abs=0.1)
        assert tests.blocks.inside == pytest.approx(tests.blocks.chance, rel=0.2)


def test_uniform_weights_are_not_gaussian():
    tests = test_filters(np.random.default_rng(0).uniform(-1, 1, (N, INPUTS, KERNEL)))
    assert not tests.gaussian.holds
    assert tests.gaussian.kurtosis == pytest.approx(-1.2, abs=0.05)
    assert tests.mean.holds and tests.variance.holds


def test_heavy_tails_are_not_gaussian():
    assert not test_filters(np.random.default_rng(0).laplace(size=(N, INPUTS, KERNEL))).gaussian.holds


def test_shifted_weights_have_no_zero_mean():
    tests = test_filters(gaussian() + 0.2)
    assert not tests.mean.holds
    assert tests.mean.effect == pytest.approx(0.2, abs=0.02)
    assert tests.gaussian.holds and tests.variance.holds


def test_a_shift_that_is_significant_and_small_holds():
    tests = test_filters(gaussian(shape=(128, 64, 9)) + 0.02)
    assert tests.mean.p < 0.001
    assert tests.mean.holds


def test_coordinates_of_different_scale_have_no_equal_variance():
    scale = np.linspace(0.7, 1.3, INPUTS * KERNEL).reshape(INPUTS, KERNEL)
    tests = test_filters(gaussian() * scale)
    assert not tests.variance.holds
    assert tests.variance.excess == pytest.approx(scale.std() / scale.mean(), rel=0.1)
    assert tests.variance.ratio > 1.5 * tests.variance.expected_ratio
    assert tests.mean.holds


def test_spread_of_equal_variances_is_what_sampling_gives():
    variance = test_filters(gaussian(shape=(128, 64, 9))).variance
    assert variance.spread == pytest.approx(variance.expected_spread, rel=0.1)
    assert variance.ratio == pytest.approx(variance.expected_ratio, rel=0.2)


def test_planted_blocks_are_found():
    shared_part = gaussian(1)[:, :, :1]  # one number a kernel
    tests = test_filters(np.sqrt(0.9) * gaussian() + np.sqrt(0.1) * shared_part)
    assert tests.blocks.found
    expected = math.sqrt(0.1**2 + tests.blocks.chance**2)
    assert tests.blocks.inside == pytest.approx(expected, rel=0.1)
    assert tests.blocks.outside == pytest.approx(tests.blocks.chance, rel=0.05)
    assert tests.blocks.energy > 1.3 * tests.blocks.pairs


def test_correlation_between_inputs_is_no_block():
    tests = test_filters(gaussian() + 0.5 * gaussian(1)[:, :1, :1])  # one number a filter
    assert not tests.blocks.found
    assert tests.blocks.outside > 1.2 * tests.blocks.chance


def test_levene_is_that_of_scipy():
    rows = gaussian()[:, :, 0] * np.linspace(0.9, 1.1, INPUTS)
    assert _levene(rows) == pytest.approx(stats.levene(*rows.T).pvalue, rel=1e-9)


def test_weights_of_a_model_are_tested_by_convolution(found):
    assert [(w.layer, w.filters, w.inputs, w.kernel) for w in found.weights] == [
        ("conv1.weight", 64, 3, 9),
        ("conv2.weight", 64, 64, 9),
        ("conv3.weight", 64, 64, 9),
    ]
    assert all(w.gaussian.holds and w.mean.holds and w.variance.holds for w in found.weights)


# -- text, JSON, pictures ------------------------------------------------------------------------------------------------


def test_json_round_trip(found):
    text = found.to_json()
    again = Study.from_json(text)
    assert again == found
    assert again.to_json() == text
    assert json.loads(text)["format"] == "fxprune-study"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON"),
        ("{}", "not a study"),
        ('{"format": "fxprune-study", "version": 9}', "version 9"),
        ('{"format": "fxprune-study", "version": 1}', "damaged"),
    ],
)
def test_damaged_json(text, message):
    with pytest.raises(InputError, match=message):
        Study.from_json(text)


def test_text_tells_every_pair_and_layer(found):
    text = str(found)
    for words in ("l1, l2", "fpgm, fermat", "Similarity", "Applicability", "conv3", "Gaussian 3 of 3"):
        assert words in text
    assert max(map(len, text.splitlines())) <= 100


def test_unknown_criterion_of_a_study(found):
    with pytest.raises(InputError, match="did you mean 'fpgm'"):
        found.of("fpgn")
    with pytest.raises(InputError, match="two criteria"):
        found.pair("l1", "l1")


def test_pictures_are_written(found, tmp_path):
    pytest.importorskip("matplotlib")
    written = plots.save(plots.figures(found), tmp_path / "pictures")
    assert sorted(p.name for p in written) == [
        f"{name}.{kind}" for name in ("layers", "scores", "similarity") for kind in ("png", "svg")
    ]
    for path in written:
        start = path.read_bytes()[:200]
        assert start.startswith(b"\x89PNG") if path.suffix == ".png" else b"<?xml" in start
    before = [p.read_bytes() for p in written]
    plots.save(plots.figures(Study.from_json(found.to_json())), tmp_path / "pictures")
    assert [p.read_bytes() for p in written] == before


def test_pictures_of_one_criterion_and_of_equal_scores(net, tmp_path):
    pytest.importorskip("matplotlib")
    study = fxprune.study(net, [lambda group, tensors: torch.zeros(64)], X, weights=False)
    assert [p.name for p in plots.save(plots.figures(study), tmp_path, ["png"])] == ["scores.png"]
    plots.layers(fxprune.study(net, ["l1", lambda group, tensors: torch.zeros(64)], X, weights=False))
    with pytest.raises(InputError, match="formats"):
        plots.save({}, tmp_path, ["gif"])


def test_pictures_without_matplotlib(found, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(PruneError, match=r"fxprune\[plot\]"):
        plots.figures(found)


# -- aura entropies ------------------------------------------------------------------------------------------------------


class Texture(nn.Module):
    """Channel 0 passes the image on, 1 is its mean over 3 x 3, 2 is constant."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 3, 3, padding=1)
        self.head = nn.Linear(3, 2)
        with torch.no_grad():
            self.conv.weight.zero_()
            self.conv.bias.copy_(torch.tensor([0.0, 0.0, 1.0]))
            self.conv.weight[0, 0, 1, 1] = 1
            self.conv.weight[1] = 1 / 9

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.conv(x)).mean((2, 3)))


def test_aura_map_tells_noise_from_smooth_from_constant(tmp_path):
    images = torch.rand(8, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    found = aura_map(Texture(), [images], images[:2])
    assert (found.sites, found.images) == (("conv",), 8)
    (entropies,) = found.entropies
    assert entropies[0] > entropies[1] > entropies[2] == 0
    assert entropies.max() <= 2 * math.log2(found.levels)
    assert np.allclose(found.examples[0][0], images[0, 0])
    assert json.loads(json.dumps(found.to_dict()))["entropies"]["conv"] == pytest.approx(entropies.tolist(), rel=1e-5)
    pytest.importorskip("matplotlib")
    assert [p.suffix for p in plots.save({"aura": plots.aura(found)}, tmp_path)] == [".png", ".svg"]


class Residual(nn.Module):
    """A block with a shortcut, whose two halves of channels go different ways: two groups on one axis."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = (nn.Conv2d(i, 8, 3, padding=1) for i in (3, 8))
        self.bn1, self.bn2 = nn.BatchNorm2d(8), nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.bn1(self.conv1(x)))
        x = torch.relu(self.bn2(self.conv2(x)) + x)
        return self.head(torch.cat([x[:, :4].mean((2, 3)), x[:, 4:].amax((2, 3))], 1))


def test_aura_map_shows_shared_channels_in_every_block():
    found = aura_map(Residual().eval(), [X], X)
    assert found.sites == ("bn1", "bn2")
    assert [c.tolist() for c in found.channels] == [list(range(8))] * 2


@pytest.mark.slow
def test_benchmark_of_criteria(tmp_path):
    """On fresh weights of a small network of that family."""
    root = Path(__file__).parent.parent
    save_file(CifarResNet(8).state_dict(), tmp_path / "small.safetensors")
    command = [sys.executable, root / "benchmarks" / "study.py", "--weights", "small.safetensors", "--out", tmp_path]
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH")]))}
    done = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "| l1, l2 |" in (tmp_path / "small-layers.md").read_text()
    assert (tmp_path / "small-layers-similarity.png").exists()


# -- command line --------------------------------------------------------------------------------------------------------

FILE = """
import torch
from torch import nn

def small():
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 16, 4))
"""


@pytest.fixture
def run(tmp_path, capsys):
    """Run `fxprune study` on a small model; gives the exit code, stdout and stderr."""
    (tmp_path / "nets.py").write_text(FILE)

    def call(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as stopped:
            main(["study", f"{tmp_path / 'nets.py'}:small", "--input-size", "3x8x8", *map(str, arguments)])
        out, err = capsys.readouterr()
        return int(stopped.value.code or 0), out, err

    return call


def test_command_takes_several_values_and_prints_json(run):
    code, out, _ = run("--criteria", "l1", "l2", "random", "--ratios", "0.25", "0.5", "--unit", "layer", "--json")
    document = json.loads(out)
    assert code == 0
    assert document["criteria"] == ["l1", "l2", "random"]
    assert document["options"]["ratios"] == [0.25, 0.5]
    assert document["units"] == ["0.weight", "2.weight", "5.weight"]
    assert document["notes"] == document["written"] == []


def test_command_says_that_inputs_are_random(run):
    code, out, _ = run("--criteria", "l2,apoz,taylor")
    assert code == 0
    assert "random inputs with random labels" in " ".join(out.split())


def test_command_writes_files_and_reads_data(run, tmp_path):
    pytest.importorskip("matplotlib")
    np.savez(tmp_path / "data.npz", inputs=X.numpy(), labels=Y.numpy())
    out = tmp_path / "out"
    code, text, _ = run("--criteria", "l1", "taylor", "--data", tmp_path / "data.npz", "--out", out)
    assert code == 0
    assert "random inputs" not in text
    pictures = {f"{name}.{kind}" for name in ("aura", "layers", "scores", "similarity") for kind in ("png", "svg")}
    assert {p.name for p in out.iterdir()} == pictures | {"study.json", "study.txt", "aura.json"}
    assert Study.from_json((out / "study.json").read_text()).criteria == ("l1", "taylor")


def test_command_wants_matplotlib_before_it_works(run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    code, _, err = run("--out", tmp_path / "out")
    assert code == 2
    assert "fxprune[plot]" in err
    assert not (tmp_path / "out").exists()
    assert run("--out", tmp_path / "out", "--no-plots")[0] == 0
    assert (tmp_path / "out" / "study.txt").exists()


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"pixels": X.numpy()}, "it has pixels"),
        ({"x": X.numpy(), "y": Y.numpy()[:2]}, "labels must be 4 whole numbers"),
        ({"x": np.array([{}], dtype=object)}, "not a readable .npz"),
        ({"x": X.numpy()[:0]}, "holds no inputs"),
    ],
    ids=["other names", "too few labels", "pickled objects", "empty"],
)
def test_command_refuses_other_data(run, tmp_path, arrays, message):
    np.savez(tmp_path / "data.npz", **arrays)
    code, _, err = run("--criteria", "apoz", "--data", tmp_path / "data.npz")
    assert code == 2
    assert message in err


def test_command_refuses_what_is_no_file_of_data(run, tmp_path: Path):
    (tmp_path / "data.npz").write_text("no zip")
    assert run("--data", tmp_path / "data.npz")[0] == 2
    assert run("--data", tmp_path / "none.npz")[0] == 2


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("m:x --criteria l1 l2,fpgm --json", "m:x --criteria l1 --criteria l2 --criteria fpgm --json"),
        ("--criteria l1 l2 m:x", "--criteria l1 --criteria l2 m:x"),
        ("m:x --criteria --json", "m:x --criteria --json"),
        ("m:x --criteria l1 --criteria l2", "m:x --criteria l1 --criteria l2"),
        ("m:x --out folder", "m:x --out folder"),
    ],
)
def test_several_values_after_one_name(written, meant):
    assert " ".join(repeated(written.split(), {"--criteria"})) == meant
