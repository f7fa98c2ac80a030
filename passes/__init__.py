"""Graph rewrites, each GraphModule -> GraphModule, one file a pass.

To add one: a file with a frozen dataclass deriving `fxprune.passes.base.Pass` (a name, `run`, and what it requires and
ensures), a line in `fxprune.passes.registry`, and a test in ``tests/test_passes`` that shows the code before and after. One
of your own, from your own file: `register`.
"""

from __future__ import annotations

from fxprune.passes.base import Context, Mismatch, Pass, PassResult
from fxprune.passes.registry import names, pass_of, pipeline, register, unregister

__all__ = ["Context", "Mismatch", "Pass", "PassResult", "names", "pass_of", "pipeline", "register", "unregister"]
