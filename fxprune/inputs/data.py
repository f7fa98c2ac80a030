"""Data by name: what ``--data`` takes. Nothing is downloaded, and nothing is unpickled."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset

from fxprune.errors import InputError, shown
from fxprune.inputs.archives import archive
from fxprune.inputs.digits import digit_samples
from fxprune.inputs.folders import cifar_file, folder
from fxprune.inputs.preparing import Preparation, preparation_of
from fxprune.inputs.samples import Batches, Loader, Samples
from fxprune.inputs.user_code import called, named_in_file, named_in_module

__all__ = ["DataSpec", "load_data"]

_FORMS = (
    "digits, an .npz file, a folder with one folder of images a class, CIFAR's binary version, file.py:function or "
    "module:function (PATH:train names one part of several)"
)
_ENDINGS = (".npz", ".bin", ".py")
_PICKLES = (".pkl", ".pickle", ".pt", ".pth", ".npy")


@dataclass(frozen=True)
class DataSpec:
    """Data by name, and how much of it in what form.

    Attributes:
        source: ``digits`` (``digits:train``, ``digits:test``: the same 450 are held out always); an ``.npz`` file (see
            `fxprune.inputs.archives`); a folder as `torchvision.datasets.ImageFolder` has it, of images without labels, or of
            CIFAR's binary version; ``file.py:function`` or ``module:function``, which gives an iterable of batches or a
            dataset. ``PATH:train``: a folder in that folder, arrays ``x_train`` and ``y_train``, or CIFAR's part of that name.
        size: channels, height and width of images; by default what the model's configuration says.
        mean, std, crop: as in `fxprune.inputs.preparing.preparation_of`.
        batch_size: samples of every batch but the last.
        limit: so many samples at most: drawn at random; of a user's own batches, the first ones that hold as many.
        seed: of the order and the choice; None takes samples as they come.
        skip: without the samples that a limit of so many would take.
    """

    source: str
    size: Sequence[int] | None = None
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
    crop: float | None = None
    batch_size: int = 64
    limit: int | None = None
    seed: int | None = 0
    skip: int = 0

    def loader(self, model: nn.Module) -> Loader | Batches:
        """Batches for a model: an iterable that can be gone through many times.

        Raises:
            InputError: there is no such data, or it does not hold what it should.
        """
        if not isinstance(self.source, str) or not self.source:
            raise InputError(f"data are named by text, as {_FORMS}: not {shown(self.source)}")
        where, part = _parted(self.source)
        if where is None or where.suffix == ".py":
            return self._made(where, part)
        return Loader(self._samples(where, part, model), self.batch_size, self.limit, self.seed, self.skip)

    def _samples(self, where: Path, part: str, model: nn.Module) -> Samples:
        if str(where) == "digits" and not where.exists():
            return digit_samples(part, self._preparation(model))
        if where.is_dir():
            return folder(where, part, self._preparation(model))
        if where.suffix == ".npz":
            return archive(where, part, self._preparation(model))
        if where.suffix == ".bin" and not part:
            return cifar_file(where, self._preparation(model))
        why = ": pickled data may run any code, and are not opened" if where.suffix in _PICKLES else ""
        raise InputError(f"{shown(str(where))} is none of the data that can be read{why}; give {_FORMS}")

    def _preparation(self, model: nn.Module) -> Preparation:
        return preparation_of(model, self.size, mean=self.mean, std=self.std, crop=self.crop)

    def _made(self, file: Path | None, name: str) -> Any:
        """Batches of a user's own function, or a dataset in batches."""
        if file is not None and not name:
            raise InputError(f"{str(file)!r} names no function: write {file}:NAME, NAME being what gives batches")
        module = self.source.rpartition(":")[0]
        found = named_in_module(module, name) if file is None else named_in_file(file, name)

        def make() -> Any:
            return called(found, self.source, file) if callable(found) else found

        made = make()
        if isinstance(made, Dataset) and not isinstance(made, IterableDataset):
            return self._of_dataset(made)
        if not isinstance(made, Iterable) or isinstance(made, (str, bytes, Tensor)):
            raise InputError(f"{self.source} gave a {type(made).__name__}, not an iterable of batches")
        if isinstance(made, tuple) and all(isinstance(value, Tensor) for value in made):
            raise InputError(f"{self.source} gave a tuple of tensors, not batches: give [(inputs, labels)], a list of pairs")
        return Batches(_again(made, make), self.limit, skip=self.skip)

    def _of_dataset(self, dataset: Any) -> Any:
        count = len(dataset)
        if not count:
            raise InputError(f"{self.source} gave an empty dataset")
        order = torch.arange(count)
        if self.seed is not None:
            order = torch.randperm(count, generator=torch.Generator().manual_seed(self.seed))
        picked = Subset(dataset, order[self.skip :][: self.limit].tolist())
        return Batches(lambda: DataLoader(picked, self.batch_size), dataset=picked)


def load_data(source: str, model: nn.Module, **options: Any) -> Loader | Batches:
    """Batches of data by name, as a model takes them; `options`: the fields of `DataSpec`.

    >>> images, labels = next(iter(load_data("digits:test", nn.Flatten(), batch_size=8)))
    >>> images.shape, labels.shape
    (torch.Size([8, 1, 8, 8]), torch.Size([8]))

    Raises:
        InputError: there is no such data, or it does not hold what it should.
    """
    return DataSpec(source, **options).loader(model)


def _parted(source: str) -> tuple[Path | None, str]:
    """The path of a source and the part of it that is named; None where a module is meant."""
    head, colon, tail = source.rpartition(":")
    if source == "digits" or head == "digits":
        return Path("digits"), tail if colon else ""
    if _exists(source):
        return Path(source), ""
    if colon and _exists(head):
        return Path(head), tail
    if colon and tail.isidentifier() and all(map(str.isidentifier, head.split("."))) and not head.endswith(_ENDINGS):
        return None, tail
    raise InputError(f"there is no file or folder {shown(head if head.endswith(_ENDINGS) else source)}; give {_FORMS}")


def _exists(name: str) -> bool:
    try:
        return Path(name).exists()
    except (OSError, ValueError):  # a name that no file can have
        return False


def _again(made: Any, make: Callable[[], Any]) -> Callable[[], Any]:
    """Gives batches at every call: the same ones again, or if they can be gone through once only, new ones."""
    if not isinstance(made, Iterator):
        return lambda: made
    pending = [made]
    return lambda: pending.pop() if pending else make()
