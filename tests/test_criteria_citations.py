"""Every criterion says where it comes from."""

from __future__ import annotations

import inspect
import re
import sys

import pytest

from fxprune.criteria import registry


@pytest.mark.parametrize("name", sorted(registry._NAMES))
def test_a_criterion_names_its_paper(name: str) -> None:
    """With a year or a number at arXiv, in the docstring of its class or of its file."""
    kind = type(registry.resolve(name))
    text = f"{sys.modules[kind.__module__].__doc__} {inspect.getdoc(kind)}"
    assert re.search(r"\b(19|20)\d\d\b|arXiv \d{4}\.\d{5}", text), text
