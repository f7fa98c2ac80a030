"""Where a repair stands, as one safetensors file: what has changed, and as JSON which sites are done. Nothing is pickled."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from fxprune import nested
from fxprune.errors import InputError, said, shown
from fxprune.inputs.batches import Batch
from fxprune.planning.repaired import SiteRepair
from fxprune.recovery.finetune.files import replaced
from fxprune.state import named_tensors

__all__ = ["Checkpoint"]

_KEY = "fxprune.repair"
_CHANCE = "generator"
_VERSION = 1


class Checkpoint:
    """A file that is replaced whole after every so many sites. Without a path it does nothing.

    Args:
        path: of the file, or None.
        every: so many sites.
        slim: the model as it was before the repair.
    """

    def __init__(self, path: str | os.PathLike[str] | None, every: int, slim: nn.Module) -> None:
        if path is not None and not isinstance(path, (str, os.PathLike)):
            raise InputError(f"checkpoint must be the path of a file, not {shown(path)}")
        if isinstance(every, bool) or not isinstance(every, int) or every < 1:
            raise InputError(f"checkpoint_every must be a whole number of at least 1, not {shown(every)}")
        self.path = None if path is None else Path(path)
        if self.path is not None and self.path.is_dir():
            raise InputError(f"checkpoint must be the path of a file, and {str(path)!r} is a folder")
        self.every, self._before = every, named_tensors(slim, once=True)
        self._images = hashlib.blake2b(digest_size=12)
        self._key: dict[str, Any] = {}

    def watched(self, chunks: Iterable[Batch]) -> Iterator[Batch]:
        """The chunks of images, of which a digest is kept."""
        for batch in chunks:
            if self.path is not None:
                for tensor in nested.tensors(list(batch.inputs)):
                    _add(self._images, str(batch.images), tensor)
            yield batch

    def begin(self, model: nn.Module, options: Mapping[str, Any], slim: nn.Module, chance: torch.Generator) -> list[SiteRepair]:
        """What is done already: the slim model and the generator are put where they stood; nothing without a file.

        Args:
            model: the dense one.
            options: of the repair, as JSON, with all that its result depends on beside models and images.
            slim: the copy that is being repaired.

        Raises:
            InputError: the file is damaged, or of another repair.
            PruneError: it cannot be written.
        """
        if self.path is None:
            return []
        self._key = {
            "dense model": _digest(named_tensors(model, once=True)),
            "slim model": _digest(self._before),
            "images": self._images.hexdigest(),
            "options": dict(options),
        }
        if not self.path.exists():
            self._write([], slim, chance)
            return []
        tensors, document = self._read()
        for what, value in self._key.items():
            if document[what] != value:
                raise InputError(
                    f"{str(self.path)!r} is the checkpoint of a repair with other {what}: remove it, or name another"
                )
        own = named_tensors(slim, once=True)
        chance.set_state(tensors.pop(_CHANCE))
        with torch.no_grad():
            for name, value in tensors.items():
                own[name].copy_(value)
        return [SiteRepair(**entry) for entry in document["sites"]]

    def keep(self, done: list[SiteRepair], slim: nn.Module, chance: torch.Generator, last: bool) -> None:
        """Write what is done, if it is time to.

        Raises:
            PruneError: the disk refuses.
        """
        if self.path is not None and (last or len(done) % self.every == 0):
            self._write(done, slim, chance)

    def _write(self, done: list[SiteRepair], slim: nn.Module, chance: torch.Generator) -> None:
        assert self.path is not None
        own = named_tensors(slim, once=True)
        changed = {name: t.detach() for name, t in own.items() if not torch.equal(t, self._before[name])}
        flat = {name: t.cpu().contiguous().clone() for name, t in (*changed.items(), (_CHANCE, chance.get_state()))}
        document = {"version": _VERSION, **self._key, "sites": [asdict(site) for site in done]}
        text = json.dumps(document, allow_nan=False)
        replaced(self.path, lambda where: save_file(flat, where, metadata={_KEY: text}))

    def _read(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        try:
            with safe_open(self.path, "pt") as file:
                document = json.loads((file.metadata() or {})[_KEY])
                tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118  # not a mapping
            sites = [SiteRepair(**entry) for entry in document["sites"]]
            if (
                document["version"] != _VERSION
                or _CHANCE not in tensors
                or not self._key.keys() <= document.keys()
                or not all(tensors[name].shape == self._before[name].shape for name in tensors if name != _CHANCE)
            ):
                raise ValueError(f"version {shown(document['version'])}, {len(sites)} sites")
        except Exception as error:  # of SafetensorError, KeyError and more, by where the file is damaged
            raise InputError(
                f"{str(self.path)!r} is no readable checkpoint of a repair of this model "
                f"({type(error).__name__}: {said(error)}): remove it to begin anew"
            ) from error
        return tensors, document


def _add(sums: Any, name: str, tensor: Tensor) -> None:
    sums.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    sums.update(flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b"")


def _digest(tensors: Mapping[str, Tensor]) -> str:
    sums = hashlib.blake2b(digest_size=12)
    for name, tensor in tensors.items():
        _add(sums, name, tensor)
    return sums.hexdigest()
