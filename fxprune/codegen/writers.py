"""Output forms: what `save` can write a model as. One form, one name, which ``fxprune.save(format=...)`` takes.

To add one to the package: a subclass of `Writer` in a file here, a line in the table below, a test. To add one of your
own: `register`.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ClassVar, TypeVar

import torch

from fxprune.codegen.replacing import checked_path, move, replace
from fxprune.errors import InputError, nearest, shown

__all__ = ["Writer", "names", "register", "save"]

_NAMES = {
    "source": "fxprune.codegen.source_files:SourceFiles",
}
_registered: dict[str, type[Writer]] = {}
_Made = TypeVar("_Made", bound="type[Writer]")


class Writer:
    """Writes a model in one form: files that lie side by side and differ in their suffix alone.

    Attributes:
        suffixes: one a file; the first is that of the file which `save` returns.
    """

    suffixes: ClassVar[tuple[str, ...]] = ()

    def contents(self, slim: torch.fx.GraphModule, stem: str) -> Sequence[Callable[[Path], object]]:
        """For each suffix, what writes that file to a path. All that can be refused is refused here: no file is open yet.

        Args:
            slim: what `prune` or `trace` returned. It must not be changed.
            stem: name of the files without suffix.

        Raises:
            InputError, PruneError: the model cannot be written in this form.
        """
        raise NotImplementedError

    def files(self, path: str | os.PathLike[str]) -> list[Path]:
        """The files for a path: ``slim`` with each suffix in that directory, or what lies beside a named first file.

        Raises:
            InputError: the path is none, or a file of another kind.
        """
        target, suffix = checked_path(path), self.suffixes[0]
        first = target if target.suffix == suffix else target / f"slim{suffix}"
        try:
            taken = first.is_dir() or (first.parent.exists() and not first.parent.is_dir())
        except OSError as error:  # too long a name, or a folder that may not be looked into
            raise InputError(f"{target!s:.200} is not a place to save to: {error.strerror}") from error
        if taken:
            raise InputError(f"{target} is not a place to save to: pass a directory or a file name that ends in {suffix}")
        return [first.with_suffix(suffix) for suffix in self.suffixes]

    def move(self, parts: Sequence[Path], files: Sequence[Path], work: Path) -> None:
        """Rename the files that `contents` wrote, all of them whole and in the folder `work`, to `files`.

        One after the other, the first last: a process that is killed in between leaves files of two models. A form for which
        that matters has to tell them apart when it is read, as ``"source"`` does.
        """
        move([*zip(parts, files, strict=True)][::-1], work)

    def write(self, slim: torch.fx.GraphModule, path: str | os.PathLike[str]) -> Path:
        """Write the files whole in another folder, then rename them; return the first.

        Raises:
            InputError: the path is a file of another kind.
            PruneError: the model cannot be written in this form, or the disk refuses.
        """
        files = self.files(path)
        contents = self.contents(slim, files[0].stem)
        replace(files, contents, lambda parts, work: self.move(parts, files, work))
        return files[0]


def save(slim: torch.fx.GraphModule, path: str | os.PathLike[str], *, format: str = "source") -> Path:
    """Write `slim` as a Python file that needs torch alone, with its weights beside it; return that file.

    Args:
        slim: what `prune` or `trace` returned. It is not changed.
        path: a directory, made if needed, for ``slim.py`` and ``slim.safetensors``; or a name that ends in
            ``.py``.
        format: what to write the model as: ``"source"``, or the name of an output form of your own
            (`fxprune.codegen.writers.register`), which has its own suffixes.

    All files are written whole in a folder beside them and then renamed: a full disk or a killed process leaves the old model
    or the new one. The same model gives the same bytes.

    >>> from fxprune import trace
    >>> save(trace(net, x), "folder").as_posix()
    'folder/slim.py'

    Raises:
        InputError: `slim` is no GraphModule, `path` is a file of another kind, or `format` names nothing.
        PruneError: the model cannot be written as source that needs torch alone, or the disk refuses.
    """
    return _writer(format).write(slim, path)


def names() -> list[str]:
    """All output forms by name: those of the package, then those registered."""
    return [*_NAMES, *_registered]


def register(name: str) -> Callable[[_Made], _Made]:
    """Decorate a `Writer` to make it known by a name: ``fxprune.save(slim, path, format=name)``.

    >>> @register("torch_file")
    ... class StateDict(Writer):
    ...     suffixes = (".pt",)
    ...     def contents(self, slim, stem):
    ...         return [lambda path: torch.save(slim.state_dict(), path)]
    >>> "torch_file" in names()
    True

    Raises:
        InputError: the name is taken, or this is no `Writer` with suffixes such as ``".onnx"``.
    """
    if not isinstance(name, str) or not name:
        raise InputError(f"an output form's name must be text, not {shown(name)}")
    if name in names():
        raise InputError(f"there is an output form {name!r} already: choose another name")

    def keep(made: _Made) -> _Made:
        if not (isinstance(made, type) and issubclass(made, Writer) and made.suffixes):
            raise InputError(f"output form {name!r} must be a subclass of Writer with suffixes, not {shown(made)}")
        if wrong := [suffix for suffix in made.suffixes if Path(f"slim{suffix}").suffix != suffix]:
            raise InputError(f"output form {name!r}: {wrong[0]!r} is not a suffix such as '.onnx'")
        _registered[name] = made
        return made

    return keep


def _writer(name: str) -> Writer:
    known = names()
    if not isinstance(name, str) or name not in known:
        raise InputError(f"there is no output form {shown(name)}{nearest(name, known)}; known: {', '.join(known)}")
    if name in _registered:
        return _registered[name]()
    module, _, attribute = _NAMES[name].partition(":")
    made: type[Writer] = getattr(importlib.import_module(module), attribute)
    return made()
