"""Fine-tuning of a pruned model, on one process or many.

``verb.py`` is `fxprune.finetune`; ``options.py`` what it can be told; ``loop.py`` the training itself, which uses the other
files: ``data.py`` batches in an order that a resumed run repeats, ``chance.py`` seeds, ``lesson.py`` what becomes of a batch
(``augment.py``, ``mixing.py``), ``losses.py``, ``optimizers.py``, ``schedule.py``, ``checkpoint.py``, ``distributed.py``
processes, ``journal.py`` what is told while it runs.
"""

from __future__ import annotations

from fxprune.recovery.finetune.options import FinetuneOptions
from fxprune.recovery.finetune.verb import finetune

__all__ = ["FinetuneOptions", "finetune"]
