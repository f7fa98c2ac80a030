"""A table of small networks, each of which shows one coupling of channels, with the facts that theory gives.

A place is written ``"conv1.weight:0"`` (a tensor's name and an axis), or ``"conv1.weight:0[::2]"`` for some
entries of that axis. To add a network, decorate a module class (or a function that builds one) with
`network`, in the file of its family; a new family is listed in `FAMILIES`.
"""

from __future__ import annotations

from importlib import import_module

from networks.base import NETWORKS, Network, Pair, conv, image, network, tokens

__all__ = ["FAMILIES", "NETWORKS", "Network", "Pair", "conv", "image", "network", "tokens"]

# In the order of the table.
FAMILIES = "joining parting moving folding convolutions norms gates products attention sharing ends layers".split()

for _family in FAMILIES:
    import_module(f"networks.{_family}")
