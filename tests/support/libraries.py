"""Libraries that few tests need, which may not be there."""

from __future__ import annotations

import importlib
import sys
from typing import Any

import pytest


def library(name: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Import a library, or skip the test with a sentence.

    Where torchaudio is installed for another PyTorch, it fails when it is imported, and so does transformers, which imports it
    wherever it is: there it is as if it were not.
    """
    try:
        importlib.import_module("torchaudio")
    except Exception:
        monkeypatch.setitem(sys.modules, "torchaudio", None)
    return pytest.importorskip(name, reason=f"{name} is not installed")
