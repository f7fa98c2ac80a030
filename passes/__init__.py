"""Graph rewrites, each GraphModule -> GraphModule, one file a pass.

To add one: a file with a frozen dataclass deriving `fxprune.passes.base.Pass` (a name, `run`, and what it requires and
ensures), a line in the sequence that uses it, and a test.
"""
