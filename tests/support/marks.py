"""Marks of tests that some Python or machine cannot run."""

from __future__ import annotations

from types import CodeType

import pytest

__all__ = ["needs_positions"]

needs_positions = pytest.mark.skipif(not hasattr(CodeType, "co_positions"), reason="Python 3.10 does not know them")
