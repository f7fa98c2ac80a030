"""exact-norms: what a norm puts out is what it would if the channels that went were there and zero."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from passes_support import assert_rewrites, forward_of, prepared
from torch import Tensor, nn
from torch.nn import functional as F

import fxprune
from fxprune.cli.app import main
from fxprune.passes import pass_of
from fxprune.proofs.randomize import randomize

torch.set_num_threads(1)
X = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """A convolution, a norm of 12 channels, and a head that reads its result."""

    def __init__(self, norm: Any = None, last: bool = False) -> None:
        super().__init__()
        self.first, self.norm, self.head, self.last = nn.Conv2d(3, 12, 3), norm, nn.Conv2d(12, 4, 1), last

    def normed(self, x: Tensor) -> Tensor:
        return self.norm(x)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        x = self.normed(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2) if self.last else self.normed(x)
        return self.head(x.sigmoid())


class Functions(Net):
    """The same with functions; `kind` says which."""

    def __init__(self, kind: str, last: bool = False) -> None:
        super().__init__(None, last)
        self.kind, self.scale, self.shift = kind, nn.Parameter(torch.ones(12)), nn.Parameter(torch.ones(12))

    def normed(self, x: Tensor) -> Tensor:
        if self.kind == "layer":
            return F.layer_norm(x, (x.shape[-1],), self.scale, bias=self.shift, eps=1e-3)
        if self.kind == "torch.layer":
            return torch.layer_norm(x, [12], None, self.shift)
        if self.kind == "rms":
            return F.rms_norm(x, (12,), self.scale)
        return F.group_norm(x, 2, self.scale, self.shift, 1e-2)


class Own2d(nn.LayerNorm):
    """As libraries have it: channels first."""

    def forward(self, x: Tensor) -> Tensor:
        x = x.permute(0, 2, 3, 1)
        return F.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps).permute(0, 3, 1, 2)


NETS: dict[str, Callable[[], nn.Module]] = {
    "layer norm": lambda: Net(nn.LayerNorm(12), True),
    "layer norm without weights": lambda: Net(nn.LayerNorm(12, elementwise_affine=False), True),
    "layer norm without a bias": lambda: Net(nn.LayerNorm(12, bias=False), True),
    "layer norm of whole maps": lambda: Net(nn.LayerNorm([12, 4, 4])),
    "layer norm of a subclass": lambda: Net(Own2d(12)),
    "rms norm": lambda: Net(nn.RMSNorm(12, eps=1e-2), True),
    "rms norm, eps of the dtype": lambda: Net(nn.RMSNorm(12), True),
    "rms norm without weights": lambda: Net(nn.RMSNorm(12, 1e-2, elementwise_affine=False), True),
    "group norm": lambda: Net(nn.GroupNorm(3, 12, 1e-2)),
    "group norm of one group": lambda: Net(nn.GroupNorm(1, 12)),
    "group norm without weights": lambda: Net(nn.GroupNorm(2, 12, affine=False)),
    **{f"functional {kind}": lambda kind=kind: Functions(kind, "group" not in kind) for kind in ("layer", "rms", "group")},
    "torch.layer_norm": lambda: Functions("torch.layer", True),
}


@pytest.mark.parametrize("make", NETS.values(), ids=NETS.keys())
def test_a_norm_does_what_it_does_with_zeros_in_place_of_what_went(
    make: Callable[[], nn.Module], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In float64 against the masked original, against the original run by hand, and from the saved source with torch alone."""
    model, x = randomize(make()).double().eval(), X.double()
    slim = fxprune.prune(model, {"first": 0.5}, x, exact_norms=True)
    report = slim.meta["fxprune"]
    assert report.checks.masked_error < 1e-12 and report.checks.passed and report.checks.statistics == 0
    assert len(report.exact_norms) == 1 and not report.notes and "1 norms kept exact" in str(report)
    assert report.to_dict()["exact_norms"] == list(report.exact_norms.values())

    kept = report.plan.kept["first.weight"][0]
    mask = torch.zeros(12, dtype=torch.float64)
    mask[kept] = 1
    monkeypatch.setattr(model.first, "forward", lambda x: nn.Conv2d.forward(model.first, x) * mask[:, None, None])
    with torch.no_grad():
        model.head.weight *= mask[:, None, None]
        expected = model(x)
        assert torch.allclose(slim(x), expected, rtol=0, atol=1e-12 * float(expected.abs().max()))

    fxprune.save(slim, tmp_path / "slim.py")
    spec: Any = importlib.util.spec_from_file_location("slim", tmp_path / "slim.py")
    code = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(code)
    assert "fxprune" not in [line.split()[1] for line in (tmp_path / "slim.py").read_text().splitlines() if "import " in line]
    assert torch.equal(code.load()(x), slim(x))


def test_the_code_before_and_after() -> None:
    before = """
    first = self.first(x)
    norm = self.norm(first)
    sigmoid = norm.sigmoid()
    head = self.head(sigmoid)
    return head"""
    after = """
    first = self.first(x)
    norm_weight = self.norm.weight
    norm_bias = self.norm.bias
    unflatten = norm_weight.unflatten(0, (3, 2))
    pad = torch.nn.functional.pad(unflatten, (0, 2))
    flatten = pad.flatten(0, 1)
    unflatten_1 = norm_bias.unflatten(0, (3, 2))
    pad_1 = torch.nn.functional.pad(unflatten_1, (0, 2))
    flatten_1 = pad_1.flatten(0, 1)
    unflatten_2 = first.unflatten(1, (3, 2))
    pad_2 = torch.nn.functional.pad(unflatten_2, (0, 0, 0, 0, 0, 2))
    flatten_2 = pad_2.flatten(1, 2)
    group_norm = torch.nn.functional.group_norm(flatten_2, 3, flatten, flatten_1, 1e-05)
    unflatten_3 = group_norm.unflatten(1, (3, 4))
    getitem = unflatten_3[(slice(None, None, None), slice(None, None, None), slice(None, 2, None))]
    norm = getitem.flatten(1, 2)
    sigmoid = norm.sigmoid()
    head = self.head(sigmoid)
    return head"""
    strip = [textual.replace("    ", "") for textual in (before, after)]
    model, gone = Net(nn.GroupNorm(3, 12)), {"first.weight": [0, 3]}
    assert_rewrites("exact-norms", model, (X,), gone, (strip[0], strip[1]), {"norms made exact": 1}, forward_of)


@pytest.mark.parametrize(
    ("norm", "gone"),
    [
        (nn.GroupNorm(12, 12), "first"),  # a group a channel: whole groups go
        (nn.InstanceNorm2d(12, affine=True), "first"),
        (nn.BatchNorm2d(12), "first"),
    ],
    ids=lambda v: type(v).__name__,
)
def test_norms_without_a_statistic_over_what_goes_stay(norm: nn.Module, gone: str) -> None:
    slim = fxprune.prune(Net(norm).eval(), {gone: 0.5}, X, exact_norms=True)
    report = slim.meta["fxprune"]
    assert not report.exact_norms and not report.notes and not any(report.counters["exact-norms"].values())
    assert isinstance(slim.get_submodule("norm"), type(norm)) and any(n.target == "norm" for n in slim.graph.nodes)


@pytest.mark.parametrize("kind", ["layer", "group"])
def test_a_norm_whose_sizes_are_computed_is_left_and_named(kind: str) -> None:
    module, context = prepared(Functions(kind, kind == "layer"), (X,), {"first.weight": [0, 3]}, "exact-norms")
    node = next(n for n in module.graph.nodes if n.name == f"{kind}_norm")
    with module.graph.inserting_before(node):
        node.update_arg(1, module.graph.call_method("size", (node.args[0], 1)))
    before = forward_of(module)
    result = pass_of("exact-norms").run(module, context)
    assert not result.modified and +result.counters == {"norms left": 1} and forward_of(module) == before
    (note,) = context.notes
    assert f"the norm {kind}_norm takes its statistics over the channels that are left" in note and "is computed" in note


def test_the_plan_remembers_it_and_verify_proves_it() -> None:
    model = randomize(Net(nn.LayerNorm(12), True)).eval()
    plan = fxprune.plan(model, 0.5, X, exact_norms=True)
    again = fxprune.Plan.from_json(plan.to_json())
    exact, plain = fxprune.apply(model, again), fxprune.prune(model, 0.5, X)
    assert exact.meta["fxprune"].exact_norms == {"norm": "norm"} and "exact_norms" not in plain.meta["fxprune"].plan.options
    assert [*exact.state_dict()] == [*plain.state_dict()] and not torch.allclose(exact(X), plain(X), atol=1e-3)
    assert fxprune.verify(model, exact, latency=False).passed
    exact.meta["fxprune"].exact_norms.clear()  # it would be a layer norm over what is kept, then, which it is not
    assert not fxprune.verify(model, exact, latency=False).passed
    with pytest.raises(fxprune.InputError, match="exact_norms must be True or False"):
        fxprune.plan(model, 0.5, X, exact_norms="yes")  # type: ignore[arg-type]


def test_a_wrong_count_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """One zero too few."""
    from fxprune.passes.exact_norms import _Norm

    model, right = randomize(Net(nn.LayerNorm(12), True)).eval(), _Norm._padded
    monkeypatch.setattr(_Norm, "_layer", lambda self, x: _short(self, x, right))
    with pytest.raises(fxprune.PruneError, match="differs from the masked original"):
        fxprune.prune(model, 0.5, X, exact_norms=True)


def _short(norm: Any, x: Any, padded: Any) -> Any:
    weight, bias = norm.given["weight"], norm.given["bias"]
    return norm._call(F.layer_norm, x, (norm.last[0][1],), weight, bias, 1e-5)


def test_half_precision_and_gradients() -> None:
    """The operator is the model's own: large values do not overflow in half precision, and all weights learn."""
    model = randomize(Net(nn.LayerNorm(12), True)).eval()
    slim = fxprune.prune(model, 0.5, X, exact_norms=True)
    slim(X).square().sum().backward()
    assert all(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in slim.parameters())
    wide = slim(600 * X).detach()
    assert torch.allclose(slim.bfloat16()(600 * X.bfloat16()).float(), wide, atol=0.05 * float(wide.abs().max()))


def test_the_command_line_asks_for_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ("prune", "timm:test_vit", "--ratio", "0.5", "--scope", "layer", "--no-verify", "--json", "--out", str(tmp_path))
    with pytest.raises(SystemExit):
        main([*given, "--exact-norms"])
    assert len(json.loads(capsys.readouterr().out)["exact_norms"]) == 13
    assert json.loads((tmp_path / "plan.json").read_text())["options"]["exact_norms"] is True
    with pytest.raises(SystemExit):
        main([*given])
    assert json.loads(capsys.readouterr().out)["exact_norms"] == []
