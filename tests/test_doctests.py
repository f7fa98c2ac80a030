"""The examples in docstrings run, and every public function has one.

They are written with the bare names of their module, and with those of `given`.
"""

from __future__ import annotations

import doctest
import importlib
import inspect
from pathlib import Path

import pytest
import torch
from support.operators import operators_put_back
from torch import nn

import fxprune
import fxprune.passes
from fxprune.codegen import writers
from fxprune.criteria import registry as criteria
from fxprune.passes import registry as passes
from fxprune.planning.policies import registry as policies

# The passes lie beside the package in a checkout: only ever imported by their name in it.
FOLDERS = {"fxprune": Path(fxprune.__file__).parent, "fxprune.passes": Path(fxprune.passes.__file__).parent}


def given() -> dict[str, object]:
    """What every example may use."""
    return {"nn": nn, "torch": torch, "net": nn.Sequential(nn.Linear(8, 16), nn.Linear(16, 2)), "x": torch.zeros(1, 8)}


def modules() -> list[str]:
    """Modules with examples in them, by name."""
    found = set()
    for package, folder in FOLDERS.items():
        for file in folder.rglob("*.py"):
            if ">>>" in file.read_text():
                found.add(".".join([package, *file.relative_to(folder).with_suffix("").parts]).removesuffix(".__init__"))
    return sorted(found)


@pytest.mark.parametrize("name", modules())
def test_examples_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a folder of their own; what they register is forgotten."""
    monkeypatch.chdir(tmp_path)
    for registry in (criteria, passes, policies, writers):
        monkeypatch.setattr(registry, "_registered", dict(registry._registered))
    module = importlib.import_module(name)
    with operators_put_back():
        assert doctest.testmod(module, extraglobs=given()).failed == 0


def test_a_wrong_example_is_found() -> None:
    """What the test above relies on."""
    example = doctest.DocTestParser().get_doctest(">>> 1 + 1\n3\n", {}, "wrong", None, 0)
    assert doctest.DocTestRunner().run(example, out=lambda text: None).failed == 1


@pytest.mark.parametrize("name", [name for name in fxprune.__all__ if inspect.isfunction(getattr(fxprune, name))])
def test_every_public_function_has_an_example(name: str) -> None:
    examples = doctest.DocTestParser().get_examples(inspect.getdoc(getattr(fxprune, name)) or "")
    assert any(not example.options.get(doctest.SKIP) for example in examples)
