"""With what a watched model is called: the example's values, random ones, other batches and sizes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from fxprune import nested
from fxprune.inputs.examples import own_copy, random_like
from fxprune.proofs.precision import precision_of
from fxprune.proofs.trials import batches_of, other_sizes
from fxprune.shrinking.watched.operators import Leaving, plain_kernels
from fxprune.state import place_of
from fxprune.tracing.skeleton import to_meta
from fxprune.tracing.untouched import seed_all

__all__ = ["Example", "Session", "other_sessions", "run"]

Inputs = tuple[tuple[Any, ...], dict[str, Any]]


@dataclass(frozen=True, eq=False)
class Example:
    """What the user gave.

    Attributes:
        given: positional and keyword inputs; their values count where the model does not take random ones.
        device, dtype: of the runs.
    """

    given: Inputs
    device: torch.device
    dtype: torch.dtype

    @classmethod
    def of(cls, model: nn.Module, args: Sequence[Any], named: dict[str, Any]) -> Example:
        """For a model in its own precision, but no less than float32."""
        return cls((tuple(args), dict(named)), place_of(model)[0], precision_of(model))

    @property
    def has_values(self) -> bool:
        """Whether the inputs are more than shapes."""
        return not any(t.is_meta for t in nested.tensors(self.given))

    @property
    def shapes(self) -> Inputs:
        """On the meta device."""
        args, named = self.given
        return tuple(to_meta(args)), to_meta(named)

    def values(self, seed: int) -> Inputs:
        """Those of the user, or random ones where there are none."""
        if not self.has_values:
            return self.random(self.shapes, seed)

        def mine(v: Any) -> Any:
            if not isinstance(v, Tensor):
                return v
            return v.detach().to(self.device, self.dtype if v.is_floating_point() else v.dtype, copy=True)

        found: Inputs = nested.map(mine, self.given)
        return found

    def random(self, shapes: Inputs, seed: int) -> Inputs:
        """Random ones of these shapes."""
        found: Inputs = random_like(shapes, self.device, self.dtype, seed)
        return found


@dataclass(frozen=True, eq=False)
class Session:
    """Calls of one copy of a model, one after the other: what a call leaves for the next counts, too.

    Attributes:
        name: for reports.
        inputs: of the calls, each with whether it is in training.
        own: on the user's weights; else on random ones.
        flipped: the number of a truth value that is told the other way round, so that the other branch runs.
        training: the modes in which the parts of the user's model are count for nothing: all are in one.
    """

    name: str
    inputs: tuple[tuple[Inputs, bool], ...]
    own: bool = True
    flipped: int | None = None
    seed: int = 0

    def flip(self, number: int, place: str) -> Session:
        """The same with one truth value the other way round."""
        return replace(self, name=f"{self.name}, the branch at {place or 'a value'} taken the other way", flipped=number)


def run(model: nn.Module, session: Session, hear: Callable[[Tensor], None] | None = None) -> list[Any]:
    """What the calls of a session return; the caller has entered a mode that sees their operators.

    The copy `model` is changed by it.

    Args:
        hear: gets the tensors whose values leave PyTorch.
    """
    found = []
    with torch.inference_mode(), plain_kernels(), Leaving(hear):
        for inputs, training in session.inputs:
            model.train(training)
            args, named = own_copy(inputs)
            seed_all(session.seed)
            found.append(model(*args, **named))
    return found


def other_sessions(example: Example) -> Iterator[list[Session]]:
    """Alternatives for each kind of inputs that the analysis has not seen, of which the model may take none: other batches
    (of a list of images, a longer one), then other sizes. Of random values, or of the user's where the shape is still theirs.
    """
    shapes = example.shapes
    batches = [(f"batch {n}", other) for n, other in batches_of(shapes, shapes)[1]]
    longer = _longer(shapes)
    if longer is not None:
        batches.insert(0, (_LONGER, longer))
    for seed, found in enumerate((batches, list(other_sizes(shapes))), start=1):
        made = [(name, example.random(other, seed)) for name, other in found]
        if example.has_values:
            mine = example.values(0)
            made += [(name, _longer(mine) if name == _LONGER else _like(mine, values)) for name, values in made]  # type: ignore[misc]
        yield [Session(name, ((inputs, False),), own=False, seed=seed) for name, inputs in made]


_LONGER = "a longer list"


def _like(given: Any, others: Any) -> Any:
    """The given tensors, where the others have the same shape."""
    return nested.map(lambda a, b: a if isinstance(a, Tensor) and a.shape == b.shape else b, given, others)


def _longer(inputs: Inputs) -> Inputs | None:
    """Each list of the inputs with its first entry once more at its end; None where they hold no list of tensors."""
    args, named = inputs
    found = False

    def grown(value: Any) -> Any:
        nonlocal found
        if isinstance(value, list) and value and nested.tensors(value[0]):
            found = True
            return [*value, value[0]]
        return value

    made = tuple(map(grown, args)), {name: grown(value) for name, value in named.items()}
    return made if found else None
