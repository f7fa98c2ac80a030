"""Sparse learning before pruning: methods that make whole channels vanish while a model is trained, in anyone's loop.

``coupled.py`` finds the channels of a model's prunable groups in its live parameters; ``base.py`` is what all methods share.
One method a file: ``group_penalty.py``, ``scale_penalty.py``, ``scp.py`` (its formulas in ``gate.py``), ``admm.py``;
``registry.py`` knows them by name. ``compensation.py`` folds the constants of silent channels into the layers that read them.
"""

from __future__ import annotations

from fxprune.recovery.sparsity.admm import ADMM
from fxprune.recovery.sparsity.base import Sparsity
from fxprune.recovery.sparsity.compensation import Compensated, compensate
from fxprune.recovery.sparsity.gate import Gate
from fxprune.recovery.sparsity.group_penalty import GroupPenalty
from fxprune.recovery.sparsity.registry import make, names
from fxprune.recovery.sparsity.scale_penalty import ScalePenalty
from fxprune.recovery.sparsity.scp import SCP

__all__ = ["ADMM", "SCP", "Compensated", "Gate", "GroupPenalty", "ScalePenalty", "Sparsity", "compensate", "make", "names"]
