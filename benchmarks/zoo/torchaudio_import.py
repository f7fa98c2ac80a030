"""Import torchaudio where it was built for another CUDA than torch: on the processor that makes no difference."""

from __future__ import annotations

import torch

__all__ = ["import_torchaudio"]


def import_torchaudio() -> bool:
    """Whether torchaudio could be imported; transformers imports it wherever it is installed, and fails with it."""
    known, names = torch.version.cuda, ("13.0", "12.8", "12.6")
    for version in (known, *names):
        torch.version.cuda = version
        try:
            import torchaudio  # noqa: F401

            return True
        except ImportError:
            return False
        except RuntimeError:  # the versions differ
            continue
        finally:
            torch.version.cuda = known
    return False
