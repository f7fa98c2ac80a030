"""Statistics over channels that go: what the slim model does there is held against a reference of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

import fxprune
from fxprune.proofs.masked import masked_error, masked_run
from fxprune.proofs.randomize import randomize
from fxprune.proofs.references import Whole, reference_of
from tests.kinds import sampled

X = torch.zeros(3, 6, 8)


class Net(nn.Module):
    """Linear layers around one statistic over channels."""

    def __init__(self, statistic: Callable[[Any, Tensor], Tensor], layer: nn.Module | None = None) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(8, 16), nn.Linear(8, 16), nn.Linear(16, 4)
        self.statistic, self.layer = statistic, nn.Identity() if layer is None else layer
        self.weight, self.bias = nn.Parameter(torch.ones(16)), nn.Parameter(torch.ones(16))
        self.x: Any = None

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        self.other = self.second(x)
        return self.last(h + self.statistic(self, h))


def over(name: str, *args: Any, **kwargs: Any) -> Callable[[Any, Tensor], Tensor]:
    return lambda m, h: getattr(h, name)(*args, **kwargs)


STATISTICS: dict[str, tuple[Callable[[Any, Tensor], Tensor], nn.Module | None]] = {
    "mean": (over("mean", -1, keepdim=True), None),
    "mean of two axes": (over("mean", (1, 2), keepdim=True), None),
    "mean of torch": (lambda m, h: torch.mean(h, dim=2, keepdim=True), None),
    "var": (over("var", -1, keepdim=True), None),
    "var without correction": (over("var", -1, correction=0, keepdim=True), None),
    "var, biased by position": (over("var", 2, False, True), None),
    "std": (lambda m, h: torch.std(h, dim=-1, unbiased=False, keepdim=True), None),
    "var_mean": (lambda m, h: sum(torch.var_mean(h, -1, keepdim=True)), None),
    "std_mean": (lambda m, h: sum(torch.std_mean(h, -1, keepdim=True)), None),
    "amax": (over("amax", -1, keepdim=True), None),
    "amin": (over("amin", -1, True), None),
    "aminmax": (lambda m, h: sum(torch.aminmax(h, dim=-1, keepdim=True)), None),
    "prod": (lambda m, h: h.tanh().add(1.5).prod(-1, keepdim=True), None),
    "logsumexp": (over("logsumexp", -1, keepdim=True), None),
    "norm": (over("norm", dim=-1, keepdim=True), None),
    "l1 norm": (over("norm", 1, -1, True), None),
    "largest": (lambda m, h: torch.linalg.vector_norm(h, float("inf"), -1, True), None),
    "linalg": (lambda m, h: torch.linalg.vector_norm(h, 3, dim=-1, keepdim=True), None),
    "normalize": (lambda m, h: F.normalize(h, dim=-1), None),
    "normalize, l1": (lambda m, h: F.normalize(h, p=1.0, dim=2, eps=1e-3), None),
    "softmax": (lambda m, h: h.softmax(-1), None),
    "softmax of F": (lambda m, h: F.softmax(h, dim=2), None),
    "log_softmax": (lambda m, h: torch.log_softmax(h, 2), None),
    "Softmax": (lambda m, h: m.layer(h), nn.Softmax(-1)),
    "LogSoftmax": (lambda m, h: m.layer(h), nn.LogSoftmax(dim=-1)),
    "layer_norm": (lambda m, h: F.layer_norm(h, (16,), m.weight, m.bias, 0.1), None),
    "layer_norm, plain": (lambda m, h: F.layer_norm(h, (16,)), None),
    "LayerNorm": (lambda m, h: m.layer(h), nn.LayerNorm(16, eps=0.1)),
    "RMSNorm": (lambda m, h: m.layer(h), nn.RMSNorm(16, eps=0.1)),
    "rms_norm": (lambda m, h: F.rms_norm(h, (16,), m.weight), None),
    "GroupNorm": (lambda m, h: m.layer(h.transpose(1, 2)).transpose(1, 2), nn.GroupNorm(4, 16, eps=0.1)),
    "GroupNorm of one": (lambda m, h: m.layer(h.transpose(1, 2)).transpose(1, 2), nn.GroupNorm(1, 16)),
    "group_norm": (lambda m, h: F.group_norm(h.transpose(1, 2), 2, m.weight, m.bias).transpose(1, 2), None),
    "instance_norm": (lambda m, h: F.instance_norm(h, eps=0.1), None),
    "batch_norm": (lambda m, h: F.batch_norm(h, None, None, training=True, eps=0.1), None),
    "cosine": (lambda m, h: F.cosine_similarity(h, m.other, -1).unsqueeze(-1), None),
    "CosineSimilarity": (lambda m, h: m.layer(h, m.other).unsqueeze(-1), nn.CosineSimilarity(2)),
    "pairwise": (lambda m, h: F.pairwise_distance(h, m.other, eps=0.1, keepdim=True), None),
}


def pair(name: str) -> tuple[Any, nn.Module, Any]:
    model = randomize(Net(*STATISTICS[name])).eval()
    slim = fxprune.prune(model, 0.5, X, scope="layer", verify=False)
    analysis = fxprune.analyze(model, X)
    return analysis.cut(slim.meta["fxprune"].plan.gone(analysis.free)), model, slim


@pytest.mark.parametrize("name", STATISTICS)
def test_a_statistic_is_computed_by_its_reference(name: str) -> None:
    cut, model, slim = pair(name)
    run = masked_run(cut, model, slim)
    assert run.error < 1e-5
    assert run.referenced and not run.own, (run.own, [g.reason for g in cut.analysis.groups])


@pytest.mark.parametrize("name", sampled([pytest.param(name, id=name) for name in STATISTICS]))
def test_all_that_is_proved_counts_statistics_by_their_reference(name: str) -> None:
    _, model, slim = pair(name)
    checks = fxprune.verify(model, slim, latency=False)
    assert checks.passed and checks.statistics > 0 and not checks.unreferenced


def nodes(slim: Any, *targets: Any) -> list[fx.Node]:
    return [n for n in slim.graph.nodes if n.target in targets or getattr(n.target, "__name__", "") in targets]


def set_argument(node: fx.Node, place: int, value: Any) -> None:
    node.args = (*node.args[:place], value, *node.args[place + 1 :])


def with_key(key: str, value: Any) -> Callable[[fx.Node], None]:
    return lambda n: n.update_kwarg(key, value)


def other_divisor(node: fx.Node) -> None:
    """What the original divides by, which has as many channels as before: 16."""
    node.update_kwarg("correction", -8)


def of_one_less(node: fx.Node) -> None:
    with node.graph.inserting_before(node):
        source = node.args[0]
        node.args = (node.graph.call_method("narrow", (source, -1, 0, 3)), *node.args[1:])


LAYER_FAULTS: dict[str, tuple[str, Callable[[Any], None]]] = {
    "LayerNorm, eps": ("LayerNorm", lambda m: setattr(m, "eps", 1e-5)),
    "RMSNorm, eps": ("RMSNorm", lambda m: setattr(m, "eps", 1e-6)),
    "GroupNorm, eps": ("GroupNorm", lambda m: setattr(m, "eps", 1e-5)),
    "GroupNorm, groups": ("GroupNorm", lambda m: setattr(m, "num_groups", 1)),
    "LayerNorm, weight": ("LayerNorm", lambda m: m.weight.data.mul_(1.01)),
    "Softmax, dim": ("Softmax", lambda m: setattr(m, "dim", 1)),
}

NODE_FAULTS: dict[str, tuple[str, str, Callable[[fx.Node], None]]] = {
    "var, divisor": ("var", "var", other_divisor),
    "var without correction": ("var without correction", "var", with_key("correction", 1)),
    "mean, fewer": ("mean", "mean", of_one_less),
    "amax, fewer": ("amax", "amax", of_one_less),
    "norm, fewer": ("norm", "norm", of_one_less),
    "logsumexp, fewer": ("logsumexp", "logsumexp", of_one_less),
    "norm, p": ("norm", "norm", with_key("p", 1)),
    "linalg, p": ("linalg", "linalg_vector_norm", lambda n: set_argument(n, 1, 2)),
    "layer_norm, eps": ("layer_norm", "layer_norm", with_key("eps", 1e-5)),
    "instance_norm, eps": ("instance_norm", "instance_norm", with_key("eps", 1e-5)),
    "batch_norm, eps": ("batch_norm", "batch_norm", with_key("eps", 1e-5)),
    "pairwise, eps": ("pairwise", "pairwise_distance", with_key("eps", 1e-6)),
}


@pytest.mark.parametrize("fault", LAYER_FAULTS)
def test_a_wrong_setting_of_a_layer_is_seen(fault: str) -> None:
    name, change = LAYER_FAULTS[fault]
    cut, model, slim = pair(name)
    change(slim.layer)
    assert masked_error(cut, model, slim) > 1e-4


@pytest.mark.parametrize("fault", NODE_FAULTS)
def test_a_wrong_setting_of_an_operator_is_seen(fault: str) -> None:
    name, target, change = NODE_FAULTS[fault]
    cut, model, slim = pair(name)
    (node,) = nodes(slim, target)
    change(node)
    slim.recompile()
    assert masked_error(cut, model, slim) > 1e-4


@pytest.mark.parametrize("name", ["mean", "softmax", "LayerNorm", "GroupNorm", "normalize", "amax"])
def test_a_wrong_kept_set_is_seen(name: str) -> None:
    cut, model, slim = pair(name)
    gone = {n: (np.asarray(g) + 1) % cut.analysis.group(n).size for n, g in cut.gone.items()}
    assert masked_error(cut.analysis.cut(gone), model, slim) > 1e-3


class Attention(nn.Module):
    """Attention over learned keys, whose number is a channel that goes."""

    def __init__(self, **settings: Any) -> None:
        super().__init__()
        self.q, self.k, self.v, self.out = (nn.Linear(8, 8) for _ in range(4))
        self.memory, self.settings = nn.Parameter(torch.ones(1, 12, 8)), settings

    def forward(self, x: Tensor) -> Tensor:
        memory = self.memory.expand(x.shape[0], -1, -1)
        return self.out(F.scaled_dot_product_attention(self.q(x), self.k(memory), self.v(memory), **self.settings))


@pytest.mark.parametrize("settings", [{}, {"scale": 0.2}])
def test_attention_is_computed_by_its_reference(settings: dict[str, Any]) -> None:
    model = randomize(Attention(**settings)).eval()
    slim = fxprune.prune(model, 0.5, X, scope="layer", verify=False)
    analysis = fxprune.analyze(model, X)
    cut = analysis.cut(slim.meta["fxprune"].plan.gone(analysis.free))
    run = masked_run(cut, model, slim)
    assert run.error < 1e-5 and run.referenced and not run.own
    (node,) = nodes(slim, "scaled_dot_product_attention")
    node.update_kwarg("scale", 0.9)
    slim.recompile()
    assert masked_error(cut, model, slim) > 1e-3


def test_what_has_no_reference_is_said() -> None:
    """A reference that does not know these arguments leaves the node to the slim model's own operator."""
    model = randomize(Net(lambda m, h: torch.linalg.norm(h, dim=-1, keepdim=True), None)).eval()
    slim = fxprune.prune(model, 0.5, X)
    checks = slim.meta["fxprune"].checks
    assert checks.passed and checks.statistics == 1 and len(checks.unreferenced) == 1
    assert checks.to_dict()["unreferenced"] == checks.unreferenced


def test_references_hold_where_nothing_goes() -> None:
    x = torch.randn(4, 6, dtype=torch.float64)
    whole = Whole((4, 6), (None, None))
    for name, args, expected in (
        ("all", (x > 0, 1), (x > 0).all(1)),
        ("any", (x > 1, 1), (x > 1).any(1)),
        ("count_nonzero", (x > 0, 1), (x > 0).count_nonzero(1)),
        ("softmin", (x, 1), F.softmin(x, 1)),
        ("cdist", (x, x[:2]), torch.cdist(x, x[:2])),
        ("max", (x,), x.max()),
        ("min", (x,), x.min()),
    ):
        function = reference_of(name)
        assert function is not None
        assert torch.allclose(function(whole, *args).double(), expected.double()), name
