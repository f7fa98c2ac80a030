"""The base of every mode here that sees operators run."""

from __future__ import annotations

from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["DispatchMode"]


class DispatchMode(TorchDispatchMode):
    """PyTorch's, without what it does for compiled code."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # its wrapper imports torch._dynamo, and takes longer than many operators
