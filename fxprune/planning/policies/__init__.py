"""Policies: from scores to the channels that go. One policy, one name, which ``fxprune.prune(scope=...)`` takes.

To add one to the package: a subclass of `Policy` in a file here, a line in the table of `registry`, a test. To add one of
your own: `register`.
"""

from __future__ import annotations

from fxprune.planning.policies.base import Policy, Scores, chosen
from fxprune.planning.policies.registry import names, policy_of, register

__all__ = ["Policy", "Scores", "chosen", "names", "policy_of", "register"]
