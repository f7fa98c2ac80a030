"""The output form ``"source"``: a readable ``.py`` that needs torch alone, and its weights in ``.safetensors``."""

from __future__ import annotations

import functools
import itertools
import json
import re
import sys
import types
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fxprune.codegen import reader
from fxprune.codegen.assembly import mark_of
from fxprune.codegen.reader import waiting_name
from fxprune.codegen.replacing import move
from fxprune.codegen.source import source_of
from fxprune.codegen.structured.file import structured_source
from fxprune.codegen.structured.same import difference
from fxprune.codegen.writers import Writer
from fxprune.errors import PruneError
from fxprune.passes.do_conv import check_folded

__all__ = ["SourceFiles", "execute", "generated"]

_serial = itertools.count()


class SourceFiles(Writer):
    """A Python file and its weights, which `fxprune.load` reads again.

    Attributes:
        classes: whether the file has classes as the original's where they can be shown to do the same.
    """

    suffixes = (".py", ".safetensors")
    classes = True

    def contents(self, slim: torch.fx.GraphModule, stem: str) -> Sequence[Callable[[Path], object]]:
        source, tensors = generated(slim, stem, classes=self.classes)
        self._mark = mark_of(source)
        return [
            lambda path: path.write_text(source, encoding="utf-8", newline="\n"),
            lambda path: _write_tensors(tensors, path, self._mark),
        ]

    def move(self, parts: Sequence[Path], files: Sequence[Path], work: Path) -> None:
        """Put the source in its place when its weights lie beside it under a name that only this source looks for: that one
        renaming makes the new model, and the next gives the weights their usual name."""
        (source, weights), (source_file, file) = parts, files
        waiting = waiting_name(file, self._mark)
        move([(weights, waiting), (source, source_file), (waiting, file)], work)
        for stale in file.parent.iterdir():  # of saves that were stopped
            if re.fullmatch(rf"\.{re.escape(file.stem)}\.[0-9a-f]{{12}}\.safetensors", stale.name):
                stale.unlink(missing_ok=True)


def _write_tensors(tensors: dict[str, torch.Tensor], path: Path, mark: str) -> None:
    """
    Raises:
        OSError: the disk refuses.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    metadata = {"format": "pt", "code": mark}
    try:
        save_file(tensors, path, metadata=metadata)
    except SafetensorError as error:
        raise OSError(str(error)) from error
    with open(path, "r+b") as file:  # the library writes the two in random order, and one model must give the same bytes
        header = file.read(int.from_bytes(file.read(8), "little"))
        swapped = json.dumps(dict([*metadata.items()][::-1]), separators=(",", ":")).encode()
        file.seek(8)
        file.write(header.replace(swapped, json.dumps(metadata, separators=(",", ":")).encode(), 1))


def generated(slim: torch.fx.GraphModule, stem: str = "slim", *, classes: bool = True) -> tuple[str, dict[str, torch.Tensor]]:
    """Return the source of `slim` and the weights that go with it, checked to have the same names and shapes.

    Args:
        classes: False for one forward, whatever the model.

    Raises:
        InputError, PruneError: as `source_of`; also where the generated model would have another state, or a tensor
            has no values.
    """
    check_folded(slim, "the generated file would need fxprune for it")
    note = ""
    try:
        if classes:
            source = structured_source(slim, stem)
            model = _skeleton(slim, source)
            tensors = _tensors(slim, model)
            departure = difference(slim, model)
            if not departure:
                return source, tensors
            note = f"its classes would not do the same: {departure}"
    except PruneError as error:
        note = str(error)
    except Exception as error:  # of whatever kind: the flat form is written, and says what it can about the model
        note = f"its classes cannot be made: {type(error).__name__}: {error}"
    source = source_of(slim, stem, _why(note))
    return source, _tensors(slim, _skeleton(slim, source))


def _why(note: str) -> str:
    """What the header of the flat form says of the other one."""
    text = " ".join(note.split()).replace("\\", "/").replace('"', "'")
    return f"Written as one forward: {text:.300}" if text else ""


def execute(source: bytes, filename: str) -> types.ModuleType:
    """Run generated source as a module of its own, without writing byte code beside it."""
    name = f"_fxprune_generated_{next(_serial)}"
    module = types.ModuleType(name)
    module.__file__ = filename
    code = compile(source, filename, "exec", dont_inherit=True)
    sys.modules[name] = module  # classes of the file find their module while they are made
    try:
        exec(code, module.__dict__)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _skeleton(slim: torch.fx.GraphModule, source: str) -> nn.Module:
    """Return the generated model on the meta device, after checking that it has the state of `slim`."""
    module = execute(source.encode(), "<generated by fxprune>")
    del sys.modules[module.__name__]
    model: nn.Module
    with torch.device("meta"):
        model = vars(module)["load"].__annotations__["return"]()
    for (name, *found), (expected_name, *expected) in itertools.zip_longest(
        _described(model), _described(slim), fillvalue=("nothing",)
    ):
        if (name, found) != (expected_name, expected):
            raise PruneError(
                f"the generated model would hold {name} {found} where the pruned one holds {expected_name} "
                f"{expected}: give the module of {expected_name} the state of a plain torch.nn module"
            )
    return model


def _described(model: nn.Module) -> list[tuple[Any, ...]]:
    state = model.state_dict(keep_vars=True)
    return [(name, tuple(t.shape), t.dtype, t.requires_grad) for name, t in state.items()]


def _tensors(slim: torch.fx.GraphModule, model: nn.Module) -> dict[str, torch.Tensor]:
    """Return the values of every parameter and buffer of `model`, tied ones once, under their first name."""
    everything = [
        *model.named_parameters(remove_duplicate=False),
        *model.named_buffers(remove_duplicate=False),
    ]
    first: dict[int, str] = {}
    for name, like in everything:
        first.setdefault(id(like), name)
    tensors = {}
    for name in first.values():
        value: Any = functools.reduce(getattr, name.split("."), slim)
        if value.is_meta:
            raise PruneError(f"{name} is on the meta device and has no values: load weights before saving")
        if str(value.dtype).removeprefix("torch.") not in reader.DTYPES.values():
            raise PruneError(f"{name} is of {value.dtype}, which safetensors cannot hold: convert the model before saving")
        tensors[name] = _alone(value.detach())
    return tensors


def _alone(tensor: torch.Tensor) -> torch.Tensor:
    """Return `tensor` contiguous, in memory that it shares with no other."""
    alone = tensor.is_contiguous() and tensor.untyped_storage().nbytes() == tensor.nbytes
    return tensor if alone else tensor.clone(memory_format=torch.contiguous_format)
