"""`fxprune.shrink` and methods that stand for a forward: exporters put them in its place."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from support.marks import needs_positions
from torch import Tensor, nn

import fxprune

torch.set_num_threads(1)


class Halves(nn.Module):
    """One layer in two halves, in two ways of saying so; and methods that do something else."""

    def __init__(self) -> None:
        super().__init__()
        self.c = 8
        self.first, self.m, self.last = nn.Conv2d(4, 16, 1), nn.Conv2d(8, 8, 1), nn.Conv2d(24, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = list(self.first(x).chunk(2, 1))
        y.append(self.m(y[-1]))
        return self.last(torch.cat(y, 1))  # type: ignore[no-any-return]

    def forward_split(self, x: Tensor) -> Tensor:
        y = list(self.first(x).split((self.c, self.c), 1))
        y.append(self.m(y[-1]))
        return self.last(torch.cat(y, 1))  # type: ignore[no-any-return]

    def forward_other(self, x: Tensor) -> Tensor:
        y = self.first(x).split((self.c, self.c), 1)
        return self.m(y[0] - y[1])  # type: ignore[no-any-return]

    def forward_in_training(self, x: Tensor) -> Tensor:
        y = self.forward_split(x)
        return y * 2 if self.training else y

    def split(self, x: Tensor) -> Tensor:
        return self.forward_split(x)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.block, self.head = nn.Conv2d(3, 4, 1), Halves(), nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.block(self.stem(x)))  # type: ignore[no-any-return]


X = torch.randn(2, 3, 5, 5)


@pytest.fixture
def own() -> nn.Module:
    """One in which the halves have lost different numbers of channels."""
    torch.manual_seed(0)
    model = Net().eval()
    with torch.no_grad():  # of the second half more goes
        model.block.first.weight[[0, 1, 8, 9, 10, 11, 12]] *= 1e-3
    return fxprune.prune(model, 0.25, X, ignore=["stem", "block.last"], form="module")  # type: ignore[no-any-return]


@needs_positions
def test_a_method_that_stands_for_the_forward_follows(own: nn.Module) -> None:
    report = own.meta["fxprune"].own_class  # type: ignore[index, union-attr]
    assert len(set(report.sized["block"].values())) == 1 and "chunk" in str(report.sized), report
    assert report.alternatives == {"block": ["forward_split"]} and not report.generated, report
    expected = own(X)
    for made in (own, copy.deepcopy(own), pickle.loads(pickle.dumps(own))):
        made.block.forward = made.block.forward_split
        assert torch.equal(made(X), expected)
        made.block.last.weight.data.zero_()
        assert not torch.equal(made(X), expected)


def test_methods_that_do_something_else_are_left_alone(own: nn.Module) -> None:
    assert not {"forward_other", "forward_in_training", "split"} & own.block.__dict__.keys()  # type: ignore[union-attr, operator]


def test_methods_that_follow_are_left_alone() -> None:
    own = fxprune.prune(Net().eval(), 0.5, X, scope="layer", form="module")
    assert own.block.c == 4 and not own.meta["fxprune"].own_class.alternatives
    own.block.forward = own.block.forward_split
    assert own(X).shape == (2, 2, 5, 5)


class Pieces(nn.Module):
    """One number, said twice, of two halves that lose different numbers of channels."""

    def __init__(self) -> None:
        super().__init__()
        self.c, self.first, self.last = 8, nn.Conv2d(3, 16, 1), nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.first(x).split((self.c, self.c), dim=1)
        return self.last(a) + b.relu().mean((1, 2, 3), keepdim=True)


class OnLines(Pieces):
    """A call whose object begins on an earlier line: Python knows where its name stands."""

    def forward(self, x: Tensor) -> Tensor:
        a, b = (
            self.first(x)
            .relu()
            .sin()  # that nothing be long enough for one line, a remark
            .split([self.c, self.c], dim=1)
        )
        return self.last(a) + b.relu().mean((1, 2, 3), keepdim=True)


class InComprehension(Pieces):
    """Code of its own, before Python 3.12."""

    def forward(self, x: Tensor) -> Tensor:
        ((a, b),) = [y.split([self.c, self.c], dim=1) for y in [self.first(x)]]
        return self.last(a) + b.relu().mean((1, 2, 3), keepdim=True)


@needs_positions
@pytest.mark.parametrize("kind", [Pieces, OnLines, InComprehension])
def test_sizes_that_one_number_said_are_written_apart(kind: type[Pieces]) -> None:
    torch.manual_seed(0)
    model = kind().eval()
    with torch.no_grad():
        model.first.weight[[0, 1, 8, 9, 10, 11, 12]] *= 1e-3
    own = fxprune.prune(model, 0.45, X, form="module")
    sized = own.meta["fxprune"].own_class.sized[""]["self.c"]
    assert (
        [int(n) for n in sized.split(", ")] == [own.last.in_channels, own.first.out_channels - own.last.in_channels] == [6, 3]
    )


class Stage(nn.Module):
    """Writes into the list that it gets."""

    def __init__(self) -> None:
        super().__init__()
        self.c, self.branches = 8, nn.ModuleList([nn.Conv2d(4, 8, 1), nn.Conv2d(4, 8, 1)])

    def forward(self, x: list[Tensor]) -> Tensor:
        for i, branch in enumerate(self.branches):
            x[i] = branch(x[i])
        return x[0][:, : self.c] + x[1]


class Listed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.stage, self.last = nn.Conv2d(3, 4, 1), Stage(), nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.last(self.stage([x, x.relu()]))  # type: ignore[no-any-return]


def test_a_part_that_writes_into_its_list_is_fitted() -> None:
    own = fxprune.prune(Listed().eval(), 0.5, X, scope="layer", form="module")
    report = own.meta["fxprune"].own_class
    assert own.stage.c == 4 and not report.generated and own(X).shape == (2, 2, 5, 5)


class Table(nn.Module):
    """Positions, which a method gives: no call of it is heard."""

    def __init__(self) -> None:
        super().__init__()
        self.dim, self.periods = 8, nn.Parameter(torch.rand(4))

    def embed(self) -> Tensor:
        assert self.periods.numel() == self.dim // 2
        return torch.cat([self.periods.sin(), self.periods.cos()])


class Prefixed(nn.Module):
    """Two numbers are to be set at once, among others: one of its own, and one of a part whose method it calls."""

    def __init__(self) -> None:
        super().__init__()
        self.others = [8] * 12
        self.prefix, self.tokens, self.table = 4, nn.Parameter(torch.randn(1, 4, 8)), Table()
        self.first, self.last = nn.Linear(3, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.tokens.expand(len(x), -1, -1), self.first(x) * self.table.embed()], 1)
        return self.last(x.softmax(1))[:, self.prefix :]  # type: ignore[no-any-return]


@pytest.mark.slow
def test_numbers_of_a_module_and_of_a_part_are_set_together() -> None:
    torch.manual_seed(0)
    own = fxprune.prune(Prefixed().eval(), 0.5, torch.randn(2, 5, 3), scope="layer", form="module")
    report = own.meta["fxprune"].own_class
    assert not report.generated and not report.sized and own.table.dim < 8, report
    assert set(report.settings[""]) == {"prefix", "table.dim"}
