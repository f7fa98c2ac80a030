"""``python -m fxprune`` is the `fxprune` command."""

from __future__ import annotations

from fxprune.cli.app import main

if __name__ == "__main__":
    main()
