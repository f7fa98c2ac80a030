"""Source of models in which one module has several names: its owner makes it, and hands it to those who use it."""

from __future__ import annotations

from collections import defaultdict

import pytest
import torch
from torch import Tensor, nn

import fxprune
from fxprune.codegen import rebuild
from fxprune.codegen.source_files import generated
from fxprune.codegen.structured.file import structured_source

X = torch.randn(3, 2, 4)


class Bias(nn.Module):
    """What is shared: a parameter of its own, a layer, and what holds no tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.randn(4))
        self.fc, self.act = nn.Linear(4, 4), nn.ReLU()

    def forward(self, x: Tensor, twice: bool = False) -> Tensor:
        return self.act(self.fc(self.fc(x) if twice else x)) * self.scale  # type: ignore[no-any-return]


class Block(nn.Module):
    def __init__(self, inner: int, bias: nn.Module) -> None:
        super().__init__()
        self.up = nn.Linear(4, inner)
        self.bias = bias
        self.down = nn.Linear(inner, 4)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(self.up(self.bias(x)).relu())  # type: ignore[no-any-return]


class Owner(nn.Module):
    """Makes the shared module itself, and calls it as well."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = Bias()
        self.blocks = nn.Sequential(*[Block(n, self.bias) for n in (6, 5, 7)])

    def forward(self, x: Tensor) -> Tensor:
        return self.bias(self.blocks(x))  # type: ignore[no-any-return]


OWNER = """
class Owner(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.bias = Bias()
        self.blocks = nn.Sequential(*[Block(n, self.bias) for n in [6, 5, 7]])

    def forward(self, x: torch.Tensor) -> Any:
        return self.bias(self.blocks(x))
"""


class Stage(nn.Module):
    """Makes it for its parts, and has it under no name of its own."""

    def __init__(self, bias: nn.Module | None = None) -> None:
        super().__init__()
        bias = bias or Bias()
        self.first, self.second = Block(6, bias), Block(5, bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x))  # type: ignore[no-any-return]


class Stages(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = Stage(), Stage()

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x))  # type: ignore[no-any-return]


STAGES = """
class Stage(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        shared_bias = Bias()
        self.first = Block(6, shared_bias)
        self.second = Block(5, shared_bias)

    def forward(self, x: torch.Tensor) -> Any:
        return self.second(self.first(x))


class Stages(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = Stage()
        self.b = Stage()

    def forward(self, x: torch.Tensor) -> Any:
        return self.b(self.a(x))
"""


class Inside(nn.Module):
    """A shared module that a shared module has, handed on by what has no use for it itself."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = Bias()
        self.block = Block(6, self.bias)
        self.stage, self.other = Stage(self.block), Stage(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.other(self.stage(x))  # type: ignore[no-any-return]


INSIDE = """
class Inside(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.bias = Bias()
        self.block = Block(6, self.bias)
        self.stage = Stage(self.block)
        self.other = Stage(self.bias)

    def forward(self, x: torch.Tensor) -> Any:
        return self.other(self.stage(x))
"""


class Layer(nn.Module):
    """A layer of torch.nn, whose first name is deeper than another."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.Linear(4, 4)
        self.one, self.two, self.last = Block(6, layer), Block(5, layer), layer

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.two(self.one(x)))  # type: ignore[no-any-return]


LAYER = """
class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        shared_bias = nn.Linear(4, 4)
        self.one = Block(6, shared_bias)
        self.two = Block(5, shared_bias)
        self.last = shared_bias

    def forward(self, x: torch.Tensor) -> Any:
        return self.last(self.two(self.one(x)))
"""


class Activation(nn.Module):
    """What holds no tensors need not be one."""

    def __init__(self) -> None:
        super().__init__()
        self.act = nn.ReLU()
        self.blocks = nn.Sequential(Block(6, self.act), Block(5, self.act))

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(x)  # type: ignore[no-any-return]


ACTIVATION = """
class Activation(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*[Block(n) for n in [6, 5]])

    def forward(self, x: torch.Tensor) -> Any:
        return self.blocks(x)
"""


class Uncalled(nn.Module):
    """Names by which nobody calls it."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)
        self.alias, self.block = self.fc, Block(6, nn.Linear(4, 4))
        self.other = self.block.up

    def forward(self, x: Tensor) -> Tensor:
        return self.block(self.fc(x))  # type: ignore[no-any-return]


UNCALLED = """
class Uncalled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        shared_up = nn.Linear(4, 6)
        self.fc = nn.Linear(4, 4)
        self.alias = self.fc
        self.block = Block(shared_up)
        self.other = shared_up

    def forward(self, x: torch.Tensor) -> Any:
        return self.block(self.fc(x))
"""


class Again(nn.Module):
    """What is handed has parts that are handed, and is called with what it gave."""

    def __init__(self) -> None:
        super().__init__()
        self.a = Stage()
        self.b, self.c = self.a, nn.Sequential(self.a, nn.Linear(4, 4))
        self.d = nn.Sequential(self.c, self.a.first)

    def forward(self, x: Tensor) -> Tensor:
        return self.d(self.c(self.b(x)))  # type: ignore[no-any-return]


AGAIN = """
class Again(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        shared_bias = Bias()
        shared_first = Block(6, shared_bias)
        self.a = Stage(shared_first, shared_bias)
        self.b = self.a
        self.c = nn.Sequential(self.a, nn.Linear(4, 4))
        self.d = nn.Sequential(self.c, shared_first)

    def forward(self, x: torch.Tensor) -> Any:
        return self.d(self.c(self.a(x)))
"""

CASES: dict[str, tuple[type[nn.Module], str]] = {
    "a part of its owner": (Owner, OWNER),
    "of its users alone": (Stages, STAGES),
    "inside one another": (Inside, INSIDE),
    "a layer": (Layer, LAYER),
    "without tensors": (Activation, ACTIVATION),
    "names that nobody calls": (Uncalled, UNCALLED),
    "parts of what is handed": (Again, AGAIN),
}


@pytest.mark.parametrize("name", CASES)
def test_the_owner_makes_it(name: str) -> None:
    make, expected = CASES[name]
    model = make()
    source = written(model)
    assert bool(shared(model)) == (name != "without tensors")
    assert expected.strip() in source and "get_submodule" not in source.split("def slim_")[0], source


class Numbered(nn.Sequential):
    """The whole has no statements of its own."""

    def __init__(self) -> None:
        bias = Bias()
        super().__init__(Block(6, bias), Block(5, bias))


class Reader(nn.Module):
    def __init__(self, bias: Bias) -> None:
        super().__init__()
        self.bias, self.fc = bias, nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.bias.fc(x) * self.bias.scale)  # type: ignore[no-any-return]


class Apart(nn.Module):
    """Users that call its parts, not itself."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = Bias()
        self.a, self.b = Reader(self.bias), Reader(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x))  # type: ignore[no-any-return]


class User(nn.Module):
    def __init__(self, bias: Bias, twice: bool) -> None:
        super().__init__()
        self.bias, self.fc, self.twice = bias, nn.Linear(4, 4), twice

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.bias(x, self.twice))  # type: ignore[no-any-return]


class Differs(nn.Module):
    """Calls that do different things."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = Bias()
        self.a, self.b = User(self.bias, True), User(self.bias, False)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x))  # type: ignore[no-any-return]


class Twice(nn.Module):
    """Two places of one container."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.Linear(4, 4)
        self.seq = nn.Sequential(layer, nn.ReLU(), layer)

    def forward(self, x: Tensor) -> Tensor:
        return self.seq(x)  # type: ignore[no-any-return]


class Attention(nn.Module):
    """A part of what torch's own code calls."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.out = self.attention.out_proj

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.attention(x, x, x, need_weights=False)[0])  # type: ignore[no-any-return]


class Odd(nn.Module):
    """Names that look like what stands for shared modules in unfinished texts."""

    def __init__(self) -> None:
        super().__init__()
        self._shared_0 = nn.Linear(4, 4)
        self._shared_1 = nn.Sequential(Block(6, self._shared_0), Block(5, self._shared_0))

    def forward(self, x: Tensor) -> Tensor:
        return self._shared_1(self._shared_0(x)) * self._shared_0(x)  # type: ignore[no-any-return]


@pytest.mark.parametrize("make", [Numbered, Apart, Differs, Twice, Attention, Odd])
def test_what_cannot_be_handed_stays_one_as_well(make: type[nn.Module]) -> None:
    written(make())


def written(model: nn.Module) -> str:
    """The source in classes, found to be the same model, whose modules have the same names in common."""
    slim = fxprune.trace(model, X)
    source = structured_source(slim)
    assert generated(slim)[0] == source, "it was found to be the same model"
    made = rebuild(slim)
    assert [*made.state_dict()] == [*slim.state_dict()] and shared(made) == shared(slim) == shared(model)
    assert torch.equal(made(X), slim(X)) and torch.equal(made.train()(X), slim.train()(X))
    return source


def shared(model: nn.Module) -> list[list[str]]:
    """The names of each tensor that has several."""
    names: dict[int, list[str]] = defaultdict(list)
    for name, tensor in model.state_dict(keep_vars=True).items():
        names[id(tensor)].append(name)
    return [several for several in names.values() if len(several) > 1]
