"""Where `save` writes, and where it does not: links, rights, odd names, text files."""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path

import pytest
from test_atomic_save import PAIR, full, model, names, number_of

import fxprune
from fxprune.codegen.files import write_text
from fxprune.errors import InputError, PruneError

# -- odd places -----------------------------------------------------------------------------------------------------------

WRONG = {
    "null": "a\0b",
    "null in a name": "x/a\0.py",
    "none": None,
    "number": 3,
    "bytes": b"here",
    "surrogate": "\udcff\ud800",
    "too long a name": "n" * 300,
    "too long a file": "n" * 250 + ".py",
    "too long a path": "/".join(["deep"] * 2000),
    "a device": "/dev/null",
    "below a device": "/dev/null/x",
}


@pytest.mark.parametrize("kind", WRONG)
def test_places_that_are_none(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for do in (lambda place: fxprune.save(model(1), place), fxprune.load):
        with pytest.raises(PruneError) as caught:
            do(WRONG[kind])
        assert len(str(caught.value)) < 1000
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes")
def test_what_is_no_file_stays(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "slim.py")
    with pytest.raises(PruneError, match="is no file"):
        fxprune.save(model(1), tmp_path)
    assert stat.S_ISFIFO((tmp_path / "slim.py").stat().st_mode) and names(tmp_path) == ["slim.py"]
    (tmp_path / "folder" / "slim.safetensors").mkdir(parents=True)
    with pytest.raises(PruneError, match=r"slim\.safetensors"):
        fxprune.save(model(1), tmp_path / "folder")
    assert names(tmp_path / "folder") == ["slim.safetensors"]


@pytest.mark.parametrize("name", ["with space", "ünï", "[*]", "a.b.c", "-x", "'\"", "#%", ".hidden", "new\nline"])
def test_odd_names(name: str, tmp_path: Path) -> None:
    for place in (tmp_path / name, tmp_path / name / f"{name}.py"):
        file = fxprune.save(model(1), place)
        fxprune.save(model(2), place)
        assert number_of(file) == 2
    assert len(names(tmp_path / name)) == 4


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights")
def test_links(tmp_path: Path) -> None:
    """A folder's link is followed; a file's link is replaced, and what it points to stays."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "real" / "slim.py").symlink_to(tmp_path / "other.py")
    (tmp_path / "other.py").write_text("kept")
    fxprune.save(model(1), tmp_path / "link")
    assert number_of(tmp_path / "real") == 1 and not (tmp_path / "real" / "slim.py").is_symlink()
    assert (tmp_path / "other.py").read_text() == "kept"
    (tmp_path / "real" / "slim.py").unlink()
    (tmp_path / "real" / "slim.py").symlink_to("nowhere")
    fxprune.save(model(2), tmp_path / "link")
    assert number_of(tmp_path / "real") == 2
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(PruneError):
        fxprune.save(model(2), tmp_path / "loop")


def test_files_have_the_usual_rights(tmp_path: Path) -> None:
    fxprune.save(model(1), tmp_path)
    plain = tmp_path / "plain"
    plain.touch()
    assert {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in PAIR} == {stat.S_IMODE(plain.stat().st_mode)}


# -- text files -----------------------------------------------------------------------------------------------------------


def test_text_is_replaced_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write_text(tmp_path / "new" / "plan.json", "one")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(PruneError, match=r"cannot write .*plan\.json.*No space"):
        write_text(file, "two")
    assert file.read_text() == "one" and names(file.parent) == ["plan.json"]
    with pytest.raises(InputError):
        write_text(Path("a\0b"), "x")
