"""Whatever is given to the public functions ends in a result or in one sentence."""

from __future__ import annotations

import collections
import decimal
import fractions
import functools
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import fxprune
from fxprune.criteria import resolve
from fxprune.errors import InputError, NothingToPrune, PruneError
from fxprune.inputs.checkpoints import read_state_dict
from fxprune.inputs.models import load_model
from fxprune.planning import policies
from tests.kinds import sampled

X = torch.randn(2, 3, 6, 6)
LABELS = torch.tensor([0, 1])


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.bn, self.b = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.relu(self.bn(self.a(x)))).mean((2, 3))


def net() -> Net:
    torch.manual_seed(0)
    return Net().eval()


class NoRepr:
    def __repr__(self) -> str:
        raise ValueError("no repr")


class NoEquality:
    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        raise ValueError("no equality")


class NoIteration:
    def __iter__(self) -> Iterator[Any]:
        raise ValueError("no iteration")


class Whole(int):
    pass


CYCLE: list[Any] = []
CYCLE.append(CYCLE)
DEEP: Any = X
for _ in range(500):
    DEEP = [DEEP]
ODD: list[Any] = [
    *(None, True, 0, -1, 10**30, 0.5, -0.5, 1.0, float("nan"), float("inf"), 1e-300, 1j, Whole(1)),
    *("", "x", "l2", "*", "[", "a" * 100_000, "\0", "\ud800", b"x", bytearray(b"x"), Path("x"), Path("/dev/null")),
    *([], [1], ["a"], [None], (), ("a",), {}, {"a": 0.5}, {"*": 0.5}, {1: 0.5}, {"a": float("nan")}, {"a"}),
    *(np.float16(0.5), np.float16("nan"), np.longdouble(0.5), np.int8(1), np.uint64(2**63), np.bool_(True), np.str_("l2")),
    *(np.array(0.5), np.array([]), np.array([1, 2]), np.complex64(1j), np.datetime64("2020"), np.ones((2, 3, 6, 6))),
    *(torch.tensor(0.5), torch.zeros(0, 3, 6, 6), torch.zeros(2, 4, 6, 6), X.long(), X.to(torch.complex64), X.half()),
    *(X.double(), X > 0, X.to("meta"), X.to_sparse(), X * float("nan"), X.requires_grad_(False).expand(2, 3, 6, 6)),
    *([X], {"x": X}, {"y": X}, {1: X}, [X, X], (X, object()), CYCLE, DEEP),
    *(fractions.Fraction(1, 2), fractions.Fraction(10**400), decimal.Decimal("0.5"), object(), NoRepr(), NoEquality()),
    *(NoIteration(), int, nn.Module, nn.Module(), nn.Linear(2, 2), lambda *a, **k: None, iter([]), range(10**12), slice(3)),
    *(..., torch, torch.float32, collections.OrderedDict(a=0.5), ValueError("x"), itertools.repeat("a"), [(X, LABELS)]),
]


def one_sentence(call: Callable[[], Any]) -> str:
    """What is said, or nothing where the call is right."""
    try:
        call()
    except PruneError as error:
        said = str(error)
        assert said and "\n" not in said and len(said) < 1000 and "bug" not in said, said
        said.encode()
        return said
    return ""


def pruned(**options: Any) -> Any:
    return fxprune.prune(net(), **{"ratio": 0.5, "example_inputs": X, "verify": False, **options})


PLAN = fxprune.plan(net(), 0.5, X)
SLIM = fxprune.prune(net(), 0.5, X)
GROUPS = fxprune.analyze(net(), X)
BATCHES = [(X, LABELS)]
ARGUMENTS: dict[str, Callable[[Any], Any]] = {
    **{
        name: functools.partial(lambda name, value: pruned(**{name: value}), name)
        for name in "ratio example_inputs criterion scope ignore max_ratio round_to attention verify seed submodules".split()
    },
    "normalization": lambda value: pruned(normalization=value),
    "seed of random": lambda value: pruned(criterion="random", seed=value),
    "data": lambda value: pruned(criterion="apoz", data=value, batches=2),
    "data of gradients": lambda value: pruned(criterion="taylor", data=value, batches=2),
    "loss": lambda value: pruned(criterion="taylor", data=BATCHES, loss=value),
    "batches": lambda value: pruned(criterion="taylor", data=BATCHES, batches=value),
    "model": lambda value: fxprune.plan(value, 0.5),
    "model and input": lambda value: fxprune.analyze(value, X),
    "plan": lambda value: fxprune.apply(net(), value),
    "slim": lambda value: fxprune.verify(net(), value, latency=False),
    "original": lambda value: fxprune.verify(value, SLIM, latency=False),
    "seed of verify": lambda value: fxprune.verify(net(), SLIM, latency=False, seed=value),
    "layer": lambda value: fxprune.why(PLAN, value),
    "explained": lambda value: fxprune.why(value, "a", X),
    "saved": lambda value: fxprune.save(value, "never"),
    "form": lambda value: fxprune.save(SLIM, "never", format=value),
    "loaded": lambda value: fxprune.load(value),
    "text of a plan": lambda value: fxprune.Plan.from_json(value),
    "text of a study": lambda value: fxprune.Study.from_json(value),
    "group": lambda value: GROUPS.group(value),
    "group of a plan": lambda value: PLAN.group(value),
    "name of a criterion": lambda value: resolve(value),
    "name to register": lambda value: fxprune.criteria.register(value),
    "policy to register": lambda value: policies.register("never")(value),
    "name of a model": lambda value: load_model(value),
    "checkpoint": lambda value: read_state_dict(value),
    "studied": lambda value: fxprune.study(value, ["l1"], X, weights=False),
    "criteria": lambda value: fxprune.study(net(), value, X, weights=False, noise=0),
    "ratios": lambda value: fxprune.study(net(), ["l1"], X, weights=False, noise=0, ratios=value),
    "noise": lambda value: fxprune.study(net(), ["l1"], X, weights=False, noise=value),
    "unit": lambda value: fxprune.study(net(), ["l1"], X, weights=False, noise=0, unit=value),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("argument", sampled([pytest.param(name, id=str(name)) for name in ARGUMENTS], 4))
def test_any_value_of_any_argument(argument: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for value in ODD:
        one_sentence(lambda value=value: ARGUMENTS[argument](value))  # type: ignore[misc]
    assert not [path for path in tmp_path.iterdir() if path.name == "never"] or argument == "form"


# -- weights ----------------------------------------------------------------------------------------------------------------


NOT_FINITE = itertools.product(
    [torch.float32, torch.float16, torch.bfloat16, torch.float64],
    ["a.weight", "bn.running_var", "b.weight", "bn.weight"],
    [float("nan"), float("inf"), -float("inf")],
)


@pytest.mark.parametrize(
    ("dtype", "name", "value"), sampled([pytest.param(*case, id="-".join(map(str, case))) for case in NOT_FINITE], 5)
)
def test_weights_that_are_not_finite(dtype: torch.dtype, name: str, value: float) -> None:
    """One NaN would make all scores of its group equal."""
    model = net().to(dtype)
    model.get_submodule(name.partition(".")[0])
    tensor = dict(model.named_parameters()) | dict(model.named_buffers())
    tensor[name].data.view(-1)[1] = value
    for do in (fxprune.prune, fxprune.plan):
        with pytest.raises(InputError, match=f"1 of {tensor[name].numel()} in '{name}'"):
            do(model, 0.5, X.to(dtype))
    with pytest.raises(InputError, match="1 of"):
        fxprune.study(model, ["l1"], X.to(dtype))
    fxprune.analyze(model, X.to(dtype))


def test_huge_weights_are_finite() -> None:
    model = net()
    model.a.weight.data.fill_(3e38)
    fxprune.plan(model, 0.5, X, criterion="random")


def test_a_mask_may_be_infinite() -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = nn.Linear(4, 8), nn.Linear(8, 4)
            self.register_buffer("mask", torch.full((4, 4), -float("inf")).triu(1))

        def forward(self, x: Tensor) -> Tensor:
            return (self.head(self.body(x)) + self.mask).softmax(-1)

    assert fxprune.prune(Masked(), 0.5, torch.zeros(4, 4)).body.out_features == 4


def on_meta() -> nn.Module:
    return net().to("meta")


def test_a_model_without_values() -> None:
    """What needs shapes alone works on the meta device."""
    assert fxprune.analyze(on_meta(), X).free
    plan = fxprune.plan(on_meta(), 0.5, X, criterion="random")
    assert plan.to_json() == fxprune.plan(net(), 0.5, X, criterion="random").to_json()
    assert fxprune.prune(on_meta(), 0.5, X, criterion="random", verify=False).a.out_channels == 4
    assert fxprune.apply(on_meta(), plan, verify=False).a.weight.is_meta
    for call in (
        lambda: fxprune.prune(on_meta(), 0.5, X),
        lambda: fxprune.plan(on_meta(), 0.5, X),
        lambda: fxprune.prune(on_meta(), 0.5, X, criterion="random"),
        lambda: fxprune.apply(on_meta(), plan),
        lambda: fxprune.study(on_meta(), ["l1"], X),
        lambda: fxprune.verify(on_meta(), SLIM),
    ):
        with pytest.raises(InputError, match="on the meta device"):
            call()


@pytest.mark.parametrize("part", ["a", "bn", "b"])
def test_a_model_without_some_values(part: str) -> None:
    model = net()
    model.get_submodule(part).to("meta")
    with pytest.raises(InputError, match=rf"tensors are on the meta device.*'?{part}\."):
        fxprune.prune(model, 0.5, X)


class Marked(Tensor):
    pass


def strange(kind: str) -> nn.Module:
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
    weight = model[0].weight.data
    if kind in ("sparse", "csr"):
        model[0].weight = nn.Parameter(weight.to_sparse() if kind == "sparse" else weight.to_sparse_csr())
    elif kind == "subclass":
        model[0].weight = nn.Parameter(weight.as_subclass(Marked))
    elif kind == "quantized":
        model[0].register_buffer("q", torch.quantize_per_tensor(weight, 0.1, 0, torch.qint8))
    elif kind == "parallel":
        return nn.DataParallel(model)
    elif kind == "parallel part":
        model[0] = nn.DataParallel(model[0])
    return model


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("sparse", r"'0\.weight' is sparse"),
        ("csr", r"'0\.weight' is sparse"),
        ("subclass", r"'0\.weight' is a Marked"),
        ("quantized", r"'0\.q' is quantized"),
        ("parallel", r"the model is wrapped in DataParallel: give the module inside, its \.module"),
        ("parallel part", r"the part '0' is wrapped in DataParallel"),
    ],
)
def test_tensors_that_are_not_plain(kind: str, said: str) -> None:
    for do in (fxprune.prune, fxprune.plan):
        with pytest.raises(InputError, match=said):
            do(strange(kind), 0.5, torch.zeros(2, 8))


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (nn.Sequential(), "no channel of Sequential"),
        (nn.Sequential(nn.ReLU()), "no channel of Sequential"),
        (nn.Sequential(nn.Conv2d(3, 4, 1)), "part of the model's output"),
        (nn.Flatten(), "no channel of Flatten"),
    ],
    ids=["empty", "no weights", "output alone", "no parts"],
)
@pytest.mark.parametrize("scope", ["global", "layer"])
def test_models_with_nothing_to_prune(model: nn.Module, said: str, scope: str) -> None:
    with pytest.raises(NothingToPrune, match=said):
        fxprune.prune(model, 0.5, X, scope=scope)
