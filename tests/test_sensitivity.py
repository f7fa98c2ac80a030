"""How much of each group may go, by trying: the figures by hand, what they predict, and what is said of bad input."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import fxprune
from fxprune import InputError
from fxprune.studies import classifies
from fxprune.studies.curves import Curve, Point, Sensitivity, marginal_losses

torch.set_num_threads(1)


def net() -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 10), nn.ReLU(), nn.Linear(10, 3),
    ).eval()  # fmt: skip
    return model, torch.randn(32, 6)


def distance(model: nn.Module, x: Tensor) -> Any:
    dense = model(x).detach()
    return lambda slim: (slim(x) - dense).square().mean().item()


def test_each_point_is_what_prune_gives() -> None:
    """Values, costs and counts are those of a model with one group cut by a ratio, and of the same repaired."""
    model, x = net()
    images = torch.randn(64, 6)
    before = {n: v.clone() for n, v in model.state_dict().items()}
    found = fxprune.sensitivity(
        model, distance(model, x), x[:1], ratios=(0.5, 0.25), better="lower", criterion="l1", repair=images
    )
    assert found.dense == 0 and [c.group for c in found.curves] == ["0.weight", "2.weight"]
    for layer, curve in zip(("0", "2"), found.curves, strict=True):
        for ratio, point in zip((0.25, 0.5), curve.points, strict=True):
            slim = fxprune.prune(model, {layer: ratio}, x[:1], criterion="l1")
            plan = slim.meta["fxprune"].plan
            assert plan.group(curve.group).removed == sorted(curve.order[: point.removed])
            assert (point.macs, point.params) == (plan.macs[1], plan.params[1])
            assert point.value == pytest.approx(distance(model, x)(slim), rel=1e-6)
            better = fxprune.repair(slim, model, images)
            assert point.repaired == pytest.approx(distance(model, x)(better), rel=1e-5)
    assert all(torch.equal(v, before[n]) for n, v in model.state_dict().items())
    again = Sensitivity.from_json(found.to_json())
    assert again == found and again.to_json() == found.to_json()
    assert "0.weight" in str(found) and " / " in str(found) and " / " not in str(found.without_repair())


def test_marginal_losses_by_hand() -> None:
    for counts, losses, size, expected in (
        ([1, 3], [0.1, 0.5], 4, [0.1, 0.2, 0.2, 0.2]),  # straight lines, and on
        ([2], [-0.3], 3, [0, 0, 0]),  # better than the whole model: free
        ([1, 2, 3], [0.3, 0.1, 0.5], 3, [0.2, 0.2, 0.3]),  # 0.3 and 0.1 become 0.2 each; then no less than before
        ([1, 2, 3], [0.0, 0.8, 0.8], 4, [0.0, 0.8, 0.8, 0.8]),  # levels off: what went is not free
    ):
        np.testing.assert_allclose(marginal_losses(counts, losses, size), expected, atol=1e-12)


def curves(losses: dict[str, list[float]], better: str = "higher") -> Sensitivity:
    """Of groups of four channels, whose losses after 1, 2, 3 are known."""
    sign = -1 if better == "higher" else 1
    made = [
        Curve(group, 4, (3, 1, 0, 2), tuple(Point(k, 0.9 + sign * loss, None, 0, 0) for k, loss in enumerate(found, 1)))
        for group, found in losses.items()
    ]
    return Sensitivity("Sequential", "", {"better": better, "ratios": [0.25, 0.5, 0.75], "repair": False}, 0.9, tuple(made))


@pytest.mark.parametrize("better", ["higher", "lower"])
def test_a_budget_takes_what_is_predicted_to_cost_least(better: str) -> None:
    """All choices of two groups are tried: none within the budget has a smaller predicted loss."""
    model, x = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 4), nn.Linear(4, 3)).eval(), torch.zeros(1, 3)
    found = curves({"0.weight": [0.05, 0.15, 0.4], "1.weight": [0.01, 0.3, 0.6]}, better)
    plan = fxprune.plan(model, example_inputs=x, macs=0.6, criterion=found)
    best = min(
        found.losses("0.weight")[: 4 - a].sum() + found.losses("1.weight")[: 4 - b].sum()
        for a, b in product(range(1, 5), repeat=2)
        if 3 * a + a * b + 3 * b <= 0.6 * 40
    )
    assert found.predicted(plan) == pytest.approx(best)
    assert plan.macs == (40, plan.macs[1]) and plan.macs[1] <= 24 and plan.options["criterion"] == "Sensitivity"
    gone = [plan.group(name).removed for name in ("0.weight", "1.weight")]
    assert all(channels == sorted((3, 1, 0, 2)[: len(channels)]) for channels in gone)


def test_curves_that_do_not_fit_are_refused() -> None:
    model, x = net()
    with pytest.raises(InputError, match=r"not measured for '0.weight' of 8 channels .*ignore"):
        fxprune.plan(model, 0.5, x, criterion=curves({"0.weight": [0.1, 0.2, 0.3]}))
    found = fxprune.sensitivity(model, distance(model, x), x[:1], groups="2", better="lower", verify=False)
    with pytest.raises(InputError, match=r"not measured for '0\.weight'"):
        fxprune.plan(model, example_inputs=x, macs=0.5, criterion=found)
    plan = fxprune.plan(model, example_inputs=x, macs=0.7, criterion=found, ignore=["0"])
    assert found.predicted(plan) > 0 and plan.group("0.weight").status == "protected"
    for bad in ("no", "{}", found.to_json().replace('"removed":', '"removed":9'), found.to_json().replace("[", "[7,", 1)):
        with pytest.raises(InputError):
            Sensitivity.from_json(bad)


# -- killed, and going on ---------------------------------------------------------------------------------------------------


class Stop(BaseException):
    pass


def test_it_goes_on_from_its_file(tmp_path: Path) -> None:
    """Killed after every measurement: nothing is measured twice, and the end is the same, byte for byte."""
    model, x = net()
    options: dict[str, Any] = {"ratios": (0.25, 0.5), "better": "lower", "verify": False}
    whole = fxprune.sensitivity(model, distance(model, x), x[:1], **options)
    file, calls = tmp_path / "new" / "curves.json", []

    def evaluate(slim: nn.Module) -> float:
        calls.append(slim)
        if len(calls) % 3 == 0:  # the whole model, one cut, and the end
            raise Stop
        return distance(model, x)(slim)

    ends = 0
    while True:
        try:
            found = fxprune.sensitivity(model, evaluate, x[:1], checkpoint=file, **options)
            break
        except Stop:
            ends += 1
    assert ends == 3 and found == whole and file.read_text() == whole.to_json()
    for changed, text in (({"ratios": (0.5,)}, "another ratios"), ({"criterion": "l1"}, "another criterion")):
        with pytest.raises(InputError, match=text):
            fxprune.sensitivity(model, distance(model, x), x[:1], checkpoint=file, **{**options, **changed})
    with pytest.raises(InputError, match="another measure"):
        fxprune.sensitivity(model, lambda slim: 1.0, x[:1], checkpoint=file, **options)
    with torch.no_grad():
        model.get_submodule("4").bias.add_(1)
    with pytest.raises(InputError, match="on other weights"):
        fxprune.sensitivity(model, distance(model, x), x[:1], checkpoint=file, **options)
    file.write_text("{")
    with pytest.raises(InputError, match="holds no measurement"):
        fxprune.sensitivity(model, distance(model, x), x[:1], checkpoint=file, **options)


# -- bad input ----------------------------------------------------------------------------------------------------------------

WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "evaluate": ({"evaluate": 3}, "must be a function of a model"),
    "better": ({"better": "more"}, "better must be"),
    "ratios": ({"ratios": (0.5, 1.0)}, "fractions between 0 and 1"),
    "no ratios": ({"ratios": ()}, "at least one"),
    "groups": ({"groups": "layer9"}, "matches none that may be pruned"),
    "criterion": ({"criterion": "l3"}, "did you mean"),
    "repair": ({"repair": "images"}, "repair must be images"),
    "once": ({"repair": iter([1]), "criterion": "l1"}, "not an iterator"),
    "checkpoint": ({"checkpoint": 3}, "path of a file"),
    "no number": ({"evaluate": lambda slim: "good"}, "one finite number, and gave 'good' for the whole model"),
    "nan": ({"evaluate": lambda slim: float("nan")}, "one finite number"),
    "fails": ({"evaluate": lambda slim: 1 / 0}, "evaluate failed on the whole model: ZeroDivisionError"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_bad_arguments(kind: str) -> None:
    model, x = net()
    options, text = WRONG[kind]
    with pytest.raises(InputError, match=text):
        fxprune.sensitivity(model, **{"evaluate": lambda slim: 0.0, "example_inputs": x[:1], **options})


def test_classifiers_are_measured_as_validate_does() -> None:
    model, x = net()
    labels = torch.arange(32) % 3
    data = [(x[:20], labels[:20]), (x[20:], labels[20:])]
    found = fxprune.validate(model, model, data, latency=False).of("dense")
    assert classifies(data)(model) == pytest.approx(found.top1.value)
    assert classifies(data, "loss")(model) == pytest.approx(found.loss.value)
    for loader, text in ((iter(data), "again and again"), ("digits", "again and again")):
        with pytest.raises(InputError, match=text):
            classifies(loader)
    with pytest.raises(InputError, match="no labels"):
        classifies([x])(model)
    with pytest.raises(InputError, match="too few classes"):
        classifies(data, "top5")(model)


def test_the_picture(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from fxprune.studies import plots

    found = curves({"0.weight": [0.05, 0.15, 0.4], "1.weight": [0.01, 0.3, 0.6]})
    figure = plots.sensitivity(found)
    lines, heat = figure.axes[0], figure.axes[1]
    assert lines.lines[0].get_ydata() == pytest.approx([0.9, 0.85, 0.75, 0.5])
    assert heat.images[0].get_array().tolist()[1] == pytest.approx([0.01, 0.3, 0.6])
    assert len(plots.save({"sensitivity": figure}, tmp_path)) == 2


# -- the command --------------------------------------------------------------------------------------------------------------


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from test_repair_command import NET, run

    (tmp_path / "nets.py").write_text(NET)
    rng = np.random.default_rng(0)
    for name in ("some", "others"):
        np.savez(tmp_path / f"{name}.npz", inputs=rng.normal(size=(60, 3, 6, 6)).astype("f"), labels=rng.integers(0, 4, 60))
    out, given = tmp_path / "out", ["sensitivity", f"{tmp_path}/nets.py:net", "--input-size", "3x6x6", "--no-verify"]
    given += ["--data", f"{tmp_path}/some.npz", "--ratios", "0.25", "0.5", "--no-plots"]
    code, text, _ = run(
        capsys, *given, "--measure", "loss", "--repair-data", f"{tmp_path}/others.npz", "--repair", 40, "--out", out, "--json"
    )
    document = json.loads(text)
    assert code == 0 and document["options"]["better"] == "lower" and document["options"]["criterion"] == "surgeon"
    assert Sensitivity.from_json((out / "sensitivity.json").read_text()).curves[0].points[0].repaired is not None
    assert "0.weight" in (out / "sensitivity.txt").read_text()
    code, _, said = run(capsys, *given, "--repair", 40)
    assert code == 2 and "--repair-data" in said
    code, _, said = run(capsys, *given[:5])
    assert code == 2 and "give --data" in said
