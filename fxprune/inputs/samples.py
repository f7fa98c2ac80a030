"""Samples that are read when they are wanted, and batches of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from fxprune import nested
from fxprune.errors import InputError

__all__ = ["Batches", "Loader", "Samples"]


class Samples(Dataset[tuple[Tensor, ...]]):
    """Samples by number, as a map-style dataset: ``(input, label)``, or ``(input,)`` where there are no labels.

    A `torch.utils.data.DataLoader` takes them as they are, with shuffling and workers of its own.

    Args:
        read: numbers -> inputs ``[n, ...]`` as the model takes them.
        labels: class numbers ``[n]``, int64, if there are any.
        count: how many samples there are.
        name: what they are called in messages.
        classes: how many there are, where that is known.
        note: what to know of the data, in a sentence.

    Raises:
        InputError: there are none, or not as many labels.
    """

    def __init__(
        self, read: Callable[[Sequence[int]], Tensor], labels: Tensor | None, count: int, name: str, classes: int | None = None
    ) -> None:
        if not count:
            raise InputError(f"{name} holds no inputs")
        self.read, self.labels, self.count, self.name, self.classes = read, labels, count, name, classes
        self.note = ""

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[tuple[Tensor, ...]]:
        """Several at once, which `torch.utils.data` asks for."""
        return list(zip(*self.batch(indices), strict=True))

    def batch(self, indices: Sequence[int]) -> tuple[Tensor, ...]:
        """Inputs ``[n, ...]``, and labels ``[n]`` if there are any."""
        inputs = self.read(indices)
        return (inputs,) if self.labels is None else (inputs, self.labels[torch.as_tensor(indices)])


class Loader:
    """Batches of samples in an order of their own, which is the same at every pass.

    >>> samples = Samples(lambda numbers: torch.tensor(numbers).float(), None, 10, "ten numbers")
    >>> [len(x) for (x,) in Loader(samples, 4)]
    [4, 4, 2]
    >>> [x.tolist() for (x,) in Loader(samples, 4, limit=4, seed=None)]
    [[0.0, 1.0, 2.0, 3.0]]

    Args:
        batch_size: of every batch but the last.
        limit: so many samples at most, drawn at random.
        seed: of the order and the choice; None takes them as they come.
        skip: leave out those that a limit of so many would take.
    """

    def __init__(
        self, samples: Samples, batch_size: int = 64, limit: int | None = None, seed: int | None = 0, skip: int = 0
    ) -> None:
        _check(batch_size, limit)
        self.samples, self.batch_size = samples, batch_size
        count = len(samples)
        order = torch.arange(count) if seed is None else torch.randperm(count, generator=torch.Generator().manual_seed(seed))
        self.order = order[skip:][:limit]

    @property
    def notes(self) -> tuple[str, ...]:
        """What to know of the data, in sentences."""
        return (self.samples.note,) if self.samples.note else ()

    @property
    def images(self) -> int:
        """How many samples a pass shows."""
        return len(self.order)

    def __len__(self) -> int:
        return -(-len(self.order) // self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        for part in self.order.split(self.batch_size):
            yield self.samples.batch(part.tolist())


@dataclass(frozen=True, eq=False)
class Batches:
    """The batches that a user's function makes, asked for anew at every pass.

    Attributes:
        make: gives an iterable of batches.
        limit: the first batches that hold so many samples.
        dataset: what they are batches of, where that is known.
        skip: without the batches that a limit of so many would take.
    """

    make: Callable[[], Iterable[Any]]
    limit: int | None = None
    notes: tuple[str, ...] = ()
    dataset: Dataset[Any] | None = None
    skip: int = 0

    def __post_init__(self) -> None:
        _check(1, self.limit)

    def __iter__(self) -> Iterator[Any]:
        seen = 0
        for batch in self.make():
            if self.limit is not None and seen >= self.skip + self.limit:
                return
            if seen >= self.skip:
                yield batch
            first = next((t for t in nested.tensors(batch) if t.dim()), None)
            seen += 1 if first is None else len(first)


def _check(batch_size: int, limit: int | None) -> None:
    if batch_size < 1:
        raise InputError(f"the batch size must be at least 1, not {batch_size}")
    if limit is not None and limit < 1:
        raise InputError(f"the limit must be at least 1 sample, not {limit}")
