"""Batches in an order that depends on the seed and the epoch alone, and each process's share of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler, IterableDataset, Subset, TensorDataset, default_collate

from fxprune import nested
from fxprune.errors import InputError, PruneError, said, shown
from fxprune.inputs.samples import Batches as NamedBatches
from fxprune.inputs.samples import Loader, Samples
from fxprune.recovery.finetune import chance
from fxprune.recovery.finetune.options import FinetuneOptions

__all__ = ["Batches", "Part", "batches_of", "share"]

_LABELS = ("label", "labels", "target", "targets", "y")


@dataclass(eq=False)
class Part:
    """What one process has of a batch.

    Attributes:
        args, named: inputs of the model.
        labels: None if there are none.
        rows: places ``[n]`` of these images in the whole batch.
        total: images of the whole batch.
    """

    args: tuple[Any, ...]
    named: dict[str, Any]
    labels: Any
    rows: Tensor
    total: int


def share(total: int, process: int, processes: int) -> Tensor:
    """The rows of a batch that a process takes: whole pairs of the first and the last, the second and the last but one, ...,
    which are those that are mixed with each other; with one process all rows in order.

    >>> share(10, 0, 2), share(10, 1, 2)
    (tensor([0, 1, 8, 9]), tensor([2, 3, 4, 5, 6, 7]))
    """
    half = total // 2
    first = torch.arange(process * half // processes, (process + 1) * half // processes)
    middle = torch.arange(half, total - half) if process == processes - 1 else first[:0]
    return torch.cat([first, middle, total - 1 - first.flip(0)])


class Batches:
    """The batches of a run.

    Attributes:
        steps: batches of an epoch.
        promise: what a resumed run can promise, in a sentence.
    """

    steps: int
    promise: str

    def epoch(self, epoch: int, start: int) -> Iterator[Part]:
        """This process's parts of the batches of an epoch, from number `start` on."""
        raise NotImplementedError


def batches_of(loader: Any, options: FinetuneOptions, process: int, processes: int) -> Batches:
    """
    Raises:
        InputError: `loader` is no source of batches, or cannot be read as often as it must.
    """
    loader = _unordered(loader)
    if isinstance(loader, Dataset) and not isinstance(loader, IterableDataset):
        return _OfDataset(loader, options, process, processes)
    if isinstance(loader, IterableDataset):
        raise InputError("an IterableDataset gives single images: wrap it in a torch.utils.data.DataLoader with a batch size")
    return _OfIterable(loader, options, process, processes)


def _unordered(loader: Any) -> Any:
    """The Dataset behind what `fxprune.inputs.data.load_data` gave, whose order would be the same in each epoch."""
    if isinstance(loader, Loader):
        return loader.samples if len(loader.order) == len(loader.samples) else Subset(loader.samples, loader.order.tolist())
    if isinstance(loader, NamedBatches) and loader.dataset is not None:
        return loader.dataset
    return loader


class _OfDataset(Batches):
    """Our own order over a Dataset of (image, label)."""

    promise = "the order and all that a sample draws follow from the seed: a resumed run reads what an unbroken one would"

    def __init__(self, dataset: Dataset[Any], options: FinetuneOptions, process: int, processes: int) -> None:
        try:
            self.count = len(dataset)  # type: ignore[arg-type]
        except Exception as error:
            raise InputError(f"the Dataset has no length ({type(error).__name__}: {said(error)})") from error
        if not self.count:
            raise InputError("the Dataset holds no images")
        self.dataset, self.options, self.place = dataset, options, (process, processes)
        size = options.batch_size
        if min(size, self.count) < 2 * processes:
            raise InputError(
                f"batches of {min(size, self.count)} images are too few for {processes} processes, each of which needs 2"
            )
        whole, rest = divmod(self.count, size)
        # A last batch that some process would get nothing of is left out, too.
        self.steps = whole + (rest >= 2 * processes and (not options.drop_last or not whole))
        self.steps = min(self.steps, options.steps_per_epoch or self.steps)

    def epoch(self, epoch: int, start: int) -> Iterator[Part]:
        options = self.options
        order = torch.randperm(self.count, generator=chance.generator(options.seed, "order", epoch))
        wholes = order.split(options.batch_size)[: self.steps]
        rows = [share(len(whole), *self.place) for whole in wholes]
        mine = [whole[picked].tolist() for whole, picked in zip(wholes, rows, strict=True)]
        loader = DataLoader(
            _Repeatable(self.dataset, options.seed, epoch),
            batch_sampler=mine[start:],
            num_workers=options.workers,
            collate_fn=_as_it_is,
            pin_memory=options.device != "cpu" and torch.cuda.is_available(),
        )
        reader = iter(loader)
        for picked, whole in zip(rows[start:], wholes[start:], strict=True):
            yield _part(next(reader), picked, len(whole))


class _Repeatable(Dataset[Any]):
    """Batches of a Dataset, each sample of which draws what follows from the seed, the epoch and its number alone, in whichever
    process it is read.
    """

    def __init__(self, dataset: Dataset[Any], seed: int, epoch: int) -> None:
        self.dataset, self.seed, self.epoch = dataset, seed, epoch

    def __getitems__(self, numbers: Sequence[int]) -> Any:
        dataset, picked = self.dataset, list(numbers)
        while type(dataset) is Subset:
            picked, dataset = [dataset.indices[number] for number in picked], dataset.dataset
        if type(dataset) is TensorDataset:  # which draws nothing, as little as the next
            return [tensor[torch.tensor(picked)] for tensor in dataset.tensors]
        if isinstance(dataset, Samples):
            return list(dataset.batch(picked))
        samples = [self._sample(number) for number in numbers]
        try:
            return default_collate(samples)
        except (TypeError, RuntimeError) as error:
            raise InputError(
                f"samples of the Dataset do not go together ({said(error)}): give it a transform that makes tensors of one "
                "shape"
            ) from error

    def _sample(self, number: int) -> Any:
        chance.seed_everything(self.seed, "sample", self.epoch, number, devices=False)
        return self.dataset[number]


def _as_it_is(batch: Any) -> Any:
    return batch


class _OfIterable(Batches):
    """Batches as somebody else orders them. Every process reads all of them and takes its share of each."""

    promise = (
        "the batches are those of an iterable: a resumed run reads it from the start of the epoch, skips what was seen, and "
        "gives the same weights if the iterable draws from the global generators alone, or always gives the same batches (a "
        "Dataset needs no such condition)"
    )

    def __init__(self, loader: Any, options: FinetuneOptions, process: int, processes: int) -> None:
        try:
            once = iter(loader) is loader
        except Exception as error:
            raise InputError(
                f"loader must be a Dataset, or an iterable of batches (images, labels), not {shown(loader)}"
            ) from error
        if once and options.epochs > 1:
            raise InputError("loader is an iterator, which can be read once only: give a Dataset, a DataLoader or a list")
        if processes > 1 and _shared_already(loader):
            raise InputError(
                "the DataLoader is shared among processes already (a DistributedSampler, or accelerate's prepare): give it as "
                "one process would read it, as finetune shares each batch itself"
            )
        if isinstance(loader, (Mapping, str, bytes, Tensor)):
            raise InputError(f"loader must be a Dataset, or an iterable of batches (images, labels), not {shown(type(loader))}")
        self.loader, self.options, self.place = loader, options, (process, processes)
        length = _length(loader)
        if length is None and options.steps_per_epoch is None:
            raise InputError("loader has no length, which the schedule needs: give steps_per_epoch")
        if length == 0:
            raise InputError("loader holds no batches")
        known = [count for count in (length, options.steps_per_epoch) if count is not None]
        self.steps = min(known)

    def epoch(self, epoch: int, start: int) -> Iterator[Part]:
        seed = self.options.seed
        chance.seed_everything(seed, "epoch", epoch)
        reader = iter(self.loader)
        for number in range(self.steps):
            chance.seed_everything(seed, "batch", epoch, number)
            try:
                batch = next(reader)
            except StopIteration:
                if number == 0:
                    raise PruneError(
                        f"loader gave no batches in epoch {epoch}: an iterable must be readable each epoch"
                    ) from None
                return
            if number >= start:
                yield self._own(batch)

    def _own(self, batch: Any) -> Part:
        process, processes = self.place
        total = _images(batch)
        if total < 2 * processes and processes > 1:
            raise InputError(f"a batch of {total} images is too small for {processes} processes, each of which needs 2")
        rows = share(total, process, processes)
        if processes > 1:
            batch = nested.map(lambda v: v[rows] if isinstance(v, Tensor) and v.dim() and len(v) == total else v, batch)
        return _part(batch, rows, total)


def _shared_already(loader: Any) -> bool:
    kinds = [type(loader), *(type(getattr(loader, name, None)) for name in ("sampler", "batch_sampler"))]
    return any(issubclass(kind, DistributedSampler) or kind.__module__.startswith("accelerate.") for kind in kinds)


def _length(loader: Any) -> int | None:
    try:
        return len(loader)
    except Exception:
        return None


def _images(batch: Any) -> int:
    first = next((v for v in nested.tensors(batch) if v.dim()), None)
    if first is None or not len(first):
        raise InputError(f"a batch must be (images, labels), tensors with at least one image, not {shown(batch)}")
    return len(first)


def _part(batch: Any, rows: Tensor, total: int) -> Part:
    """Take a batch apart: (inputs ..., labels), inputs alone, or a mapping of inputs by name with labels beside them.

    Raises:
        InputError: it has another structure.
    """
    if isinstance(batch, Tensor):
        return Part((batch,), {}, None, rows, total)
    if isinstance(batch, Mapping):
        key = next((k for k in _LABELS if k in batch), None)
        return Part((), {k: v for k, v in batch.items() if k != key}, None if key is None else batch[key], rows, total)
    if not isinstance(batch, (list, tuple)) or not batch:
        raise InputError(f"a batch must be (images, labels), or a mapping of them by name, not {shown(batch)}")
    if len(batch) == 1:
        return Part((batch[0],), {}, None, rows, total)
    return Part(tuple(batch[:-1]), {}, batch[-1], rows, total)
