"""Output forms: what `save` writes, whole or not at all, and forms of the user's own."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import fx, nn

import fxprune
from fxprune.codegen import writers
from fxprune.codegen.writers import Writer, names, register, save
from fxprune.errors import InputError, PruneError


def slim(width: int = 3) -> fx.GraphModule:
    return fx.symbolic_trace(nn.Sequential(nn.Linear(2, width), nn.ReLU()).eval())


@pytest.fixture(autouse=True)
def own(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A form of the user's own, forgotten after the test."""
    monkeypatch.setattr(writers, "_registered", {})

    @register("npz")
    class Npz(Writer):
        suffixes = (".npz",)

        def contents(self, slim: fx.GraphModule, stem: str) -> list[Callable[[Path], object]]:
            state = slim.state_dict()
            if any(value.is_meta for value in state.values()):
                raise PruneError("the model has no values")
            return [lambda path: np.savez(path, **{name: value.numpy() for name, value in state.items()})]

    yield


def reads_source(path: Path) -> dict[str, torch.Tensor]:
    return fxprune.load(path).state_dict()


def reads_npz(path: Path) -> dict[str, torch.Tensor]:
    with np.load(path) as stored:
        return {name: torch.from_numpy(stored[name]) for name in stored.files}


# Form -> the files that it makes, the first of which is returned, and what reads it back.
FORMS = {
    "source": (["slim.py", "slim.safetensors"], reads_source),
    "npz": (["slim.npz"], reads_npz),
}


def test_every_form_has_a_case() -> None:
    assert names() == list(FORMS)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("named", [False, True], ids=["directory", "file name"])
def test_a_form_writes_its_files(form: str, named: bool, tmp_path: Path) -> None:
    files, read = FORMS[form]
    model = slim()
    written = fxprune.save(model, tmp_path / "new" / (files[0] if named else ""), format=form)
    assert written == tmp_path / "new" / files[0]
    assert sorted(path.name for path in written.parent.iterdir()) == sorted(files)
    found, expected = read(written), model.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())


@pytest.mark.parametrize("form", FORMS)
def test_the_same_model_gives_the_same_bytes(form: str, tmp_path: Path) -> None:
    model = slim()
    first, second = (fxprune.save(model, tmp_path / name, format=form) for name in ("a", "b"))
    assert [f.read_bytes() for f in first.parent.iterdir()] == [f.read_bytes() for f in second.parent.iterdir()]


@pytest.mark.parametrize("form", FORMS)
def test_a_form_refuses_a_model_before_it_touches_the_disk(form: str, tmp_path: Path) -> None:
    with pytest.raises(PruneError, match="no values"):
        fxprune.save(slim().to("meta"), tmp_path / "new", format=form)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("form", FORMS)
def test_a_form_refuses_a_file_of_another_kind(form: str, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    first = FORMS[form][0][0]
    with pytest.raises(InputError, match=f"ends in {Path(first).suffix}"):
        fxprune.save(slim(), tmp_path / "taken", format=form)
    (tmp_path / first).mkdir()
    with pytest.raises(InputError, match="not a place"):
        fxprune.save(slim(), tmp_path / first, format=form)


def test_source_is_what_save_writes_unasked(tmp_path: Path) -> None:
    assert save(slim(), tmp_path / "a").read_bytes() == save(slim(), tmp_path / "b", format="source").read_bytes()


def _disk_full(path: Path) -> None:
    path.write_text("half")
    raise OSError("no space left on device")


@pytest.mark.parametrize(
    ("last", "message"),
    [(_disk_full, "no space left"), (lambda path: None, "No such file"), (lambda path: {}["key"], "key")],
    ids=["disk full", "nothing written", "bug in the writer"],
)
def test_all_files_or_none(last: Callable[[Path], object], message: str, tmp_path: Path) -> None:
    @register("pair")
    class Pair(Writer):
        suffixes = (".a", ".b")
        last = staticmethod(lambda path: path.write_text("good"))

        def contents(self, slim: fx.GraphModule, stem: str) -> list[Callable[[Path], object]]:
            return [lambda path: path.write_text(stem), type(self).last]

    save(slim(), tmp_path / "model.a", format="pair")
    Pair.last = staticmethod(last)
    with pytest.raises((PruneError, KeyError), match=message):
        save(slim(), tmp_path / "model.a", format="pair")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"model.a": "model", "model.b": "good"}


def test_parts_keep_the_suffix(tmp_path: Path) -> None:
    """Libraries append a suffix that they miss, or pick a format by it."""
    seen = []

    @register("seen")
    class Seen(Writer):
        suffixes = (".one", ".two")

        def contents(self, slim: fx.GraphModule, stem: str) -> list[Callable[[Path], object]]:
            return [lambda path: (seen.append(path), path.touch())] * 2

    save(slim(), tmp_path, format="seen")
    assert [(path.parent.parent, path.name) for path in seen] == [(tmp_path, "slim.one"), (tmp_path, "slim.two")]
    assert not any(path.exists() for path in seen)


def test_a_writer_may_do_all_by_itself(tmp_path: Path) -> None:
    @register("listing")
    class Listing(Writer):
        suffixes = (".txt",)

        def write(self, slim: fx.GraphModule, path: str | os.PathLike[str]) -> Path:
            Path(path).write_text("\n".join(slim.state_dict()))
            return Path(path)

    assert save(slim(), tmp_path / "names", format="listing").read_text() == "0.weight\n0.bias"


@pytest.mark.parametrize("wrong", ["sauce", "", None, ["source"]])
def test_unknown_forms_are_named_with_those_that_exist(wrong: object, tmp_path: Path) -> None:
    hint = r" \(did you mean 'source'\?\)" if wrong == "sauce" else ".*"
    with pytest.raises(InputError, match=f"there is no output form .*{hint}; known: {', '.join(FORMS)}"):
        save(slim(), tmp_path, format=wrong)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("taken", ["source", "npz"])
def test_names_are_given_once(taken: str) -> None:
    with pytest.raises(InputError, match="already"):
        register(taken)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda slim, path: path, "subclass of Writer"),
        (type("Empty", (Writer,), {}), "with suffixes"),
        (type("Bare", (Writer,), {"suffixes": ("onnx",)}), "'onnx' is not a suffix"),
        (type("Double", (Writer,), {"suffixes": (".tar.gz",)}), "'.tar.gz' is not a suffix"),
    ],
    ids=["function", "no files", "no dot", "two dots"],
)
def test_what_is_no_writer_is_refused(wrong: type[Writer], message: str) -> None:
    with pytest.raises(InputError, match=message):
        register("mine")(wrong)
    assert "mine" not in names()
