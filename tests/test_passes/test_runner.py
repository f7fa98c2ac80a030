"""The runner: graph and shapes are checked after each pass, errors name it, and passes of one's own are certified too."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from passes_support import prepared
from torch import Tensor, fx, nn

import fxprune
from fxprune import passes
from fxprune.passes.base import Context, Mismatch, Pass, PassResult, run_passes

X = torch.zeros(2, 3, 4, 4)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.conv(x)).relu())


@dataclass(frozen=True)
class Breaks(Pass):
    """Makes a node read one that comes later."""

    name: ClassVar[str] = "breaks"

    def run(self, module: fx.GraphModule, context: Context) -> PassResult:
        nodes = list(module.graph.nodes)
        nodes[1].args = (nodes[3],)
        return PassResult.of(nodes_broken=1)


@dataclass(frozen=True)
class Transposes(Pass):
    """Gives a node another shape."""

    name: ClassVar[str] = "transposes"

    def run(self, module: fx.GraphModule, context: Context) -> PassResult:
        relu = next(n for n in module.graph.nodes if n.name == "relu")
        relu.target, relu.args = "transpose", (relu.args[0], 1, 2)
        return PassResult.of(nodes_changed=1)


@dataclass(frozen=True)
class Needs(Pass):
    name: ClassVar[str] = "needs"

    def requires(self, module: fx.GraphModule, context: Context) -> None:
        raise fxprune.PruneError("the graph has no attention")


@dataclass(frozen=True)
class FoldsNorms(Pass):
    """``norm(conv(x)) -> conv(x)`` where a batch norm follows a convolution: a pass over weights."""

    name: ClassVar[str] = "folds-norms"
    stage: ClassVar[passes.base.Stage] = "weights"

    def run(self, module: fx.GraphModule, context: Context) -> PassResult:
        conv, norm = module.get_submodule("conv"), module.get_submodule("norm")
        scale = norm.weight / (norm.running_var + norm.eps).sqrt()
        with torch.no_grad():
            conv.bias.copy_((conv.bias - norm.running_mean) * scale + norm.bias)
            conv.weight.mul_(scale[:, None, None, None])
        node = next(n for n in module.graph.nodes if n.target == "norm")
        node.replace_all_uses_with(node.args[0])
        module.graph.erase_node(node)
        module.delete_submodule("norm")
        return PassResult.of(norms_folded=1)


@dataclass(frozen=True)
class Doubles(Pass):
    """Changes what the model computes."""

    name: ClassVar[str] = "doubles"
    stage: ClassVar[passes.base.Stage] = "weights"

    def run(self, module: fx.GraphModule, context: Context) -> PassResult:
        with torch.no_grad():
            module.get_submodule("head").weight.mul_(2)
        return PassResult.of(weights_doubled=1)


@dataclass(frozen=True)
class TakesOut(Pass):
    """Takes a module's call out of the graph: right for an identity, wrong for a norm."""

    name: ClassVar[str] = "takes-out"
    stage: ClassVar[passes.base.Stage] = "weights"
    shapes: ClassVar[str] = "checked"
    kind: ClassVar[type[nn.Module]] = nn.Identity

    def run(self, module: fx.GraphModule, context: Context) -> PassResult:
        parts = dict(module.named_modules())
        nodes = [n for n in module.graph.nodes if n.op == "call_module" and isinstance(parts[n.target], self.kind)]
        for node in nodes:
            node.replace_all_uses_with(node.args[0])
            module.graph.erase_node(node)
        return PassResult.of(nodes_removed=len(nodes))


def normed() -> nn.Module:
    layers = nn.Linear(4, 8), nn.Identity(), nn.LayerNorm(8), nn.Identity(), nn.Linear(8, 2)
    return fxprune.proofs.randomize.randomize(nn.Sequential(*layers)).eval()


@pytest.fixture
def registered() -> Iterator[None]:
    before = passes.names()
    yield
    for name in passes.names():
        if name not in before:
            passes.unregister(name)


def test_the_package_runs_its_passes_in_order() -> None:
    order = ["slice-tensors", "resize-leaves", "resize-arguments", "exact-norms", "drop-unused"]
    assert [name for name in passes.names() if name in order] == order
    stages = ("shapes", "weights", "training", "deployment")
    stages = {stage: [step.name for step in passes.pipeline(stage, passes.names())] for stage in stages}
    assert set(order) <= set(stages["shapes"])
    assert stages["training"] == ["over-parameterize", "fold-factors"] and not stages["weights"]
    assert sorted(name for stage in stages.values() for name in stage) == sorted(passes.names())


def test_an_optional_pass_runs_where_it_is_asked_for() -> None:
    plain, asked = (fxprune.prune(Net(), 0.5, X, exact_norms=flag).meta["fxprune"].counters for flag in (False, True))
    assert "exact-norms" not in plain and asked == {**plain, "exact-norms": {}}


def test_a_broken_graph_is_found_after_the_pass_that_broke_it() -> None:
    module, context = prepared(Net(), (X,), {"conv.weight": [0]}, "drop-unused")
    with pytest.raises(fxprune.PruneError, match=r"pass breaks \(after drop-unused\): the graph is broken"):
        run_passes(module, [passes.pass_of("drop-unused"), Breaks()], context)


def test_a_wrong_shape_is_found_after_the_pass_that_made_it() -> None:
    module, context = prepared(Net(), (X,), {"conv.weight": [0]}, "drop-unused")
    with pytest.raises(Mismatch, match=r"node relu has shape \(2, 4, 7, 4\) where \(2, 7, 4, 4\) is predicted"):
        run_passes(module, [Transposes()], context)


def test_what_a_pass_requires_is_said_with_its_name() -> None:
    module, context = prepared(Net(), (X,), {"conv.weight": [0]}, "drop-unused")
    with pytest.raises(fxprune.PruneError, match="pass needs: the graph has no attention"):
        run_passes(module, [Needs()], context)


def test_a_pass_of_ones_own_runs_after_the_weights_are_in(registered: None) -> None:
    passes.register(FoldsNorms)
    model = fxprune.proofs.randomize.randomize(Net()).eval()
    slim = fxprune.prune(model, 0.5, X)
    assert not hasattr(slim, "norm")
    assert slim.meta["fxprune"].counters["folds-norms"] == {"norms folded": 1}
    assert slim.meta["fxprune"].checks.passed


def test_a_pass_that_changes_the_result_is_found_out(registered: None) -> None:
    passes.register(Doubles)
    with pytest.raises(fxprune.NotEquivalent, match="differs from the masked original"):
        fxprune.prune(Net().eval(), 0.5, X)


def test_what_a_statistic_reads_may_be_replaced_by_its_equal(registered: None) -> None:
    passes.register(TakesOut)
    slim = fxprune.prune(normed(), 0.5, torch.zeros(2, 4))
    assert slim.meta["fxprune"].counters["takes-out"] == {"nodes removed": 2}
    assert slim.meta["fxprune"].checks.passed


def test_what_a_statistic_reads_may_not_be_replaced_by_something_else(registered: None) -> None:
    """A pass that takes a tanh for an identity is found out."""
    model = normed()
    model[1] = nn.Tanh()
    passes.register(type("TakesOutTanh", (TakesOut,), {"kind": nn.Tanh}))
    with pytest.raises(fxprune.NotEquivalent):
        fxprune.prune(model, 0.5, torch.zeros(2, 4))


def test_a_statistic_itself_must_stay(registered: None) -> None:
    passes.register(type("TakesOutNorm", (TakesOut,), {"kind": nn.LayerNorm}))
    with pytest.raises(fxprune.NotEquivalent, match="differs from the masked original"):
        fxprune.prune(normed(), 0.5, torch.zeros(2, 4))


@pytest.mark.parametrize("name", ["", "drop-unused"])
def test_a_name_that_is_none_or_taken_is_refused(name: str) -> None:
    @dataclass(frozen=True)
    class Other(Pass):
        pass

    Other.name = name
    with pytest.raises(fxprune.InputError, match="a pass needs a name of its own"):
        passes.register(Other)


def test_an_unknown_pass_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(fxprune.InputError, match="did you mean 'drop-unused'"):
        passes.pass_of("drop-unusd")
    with pytest.raises(fxprune.InputError, match="no pass 'mine' was registered"):
        passes.unregister("mine")
