"""A traced or pruned model as files to read: a ``.py`` that needs torch alone, and its weights."""

from __future__ import annotations

from fxprune.codegen.roundtrip import check_round_trip
from fxprune.codegen.source import source_of
from fxprune.codegen.store import load, rebuild
from fxprune.codegen.writers import save

__all__ = ["check_round_trip", "load", "rebuild", "save", "source_of"]
