"""How functions and methods name channel sizes in their arguments: one small function a way of naming.

To teach fxprune the arguments of an operator: a function decorated with ``@repair("name")`` in the file of its kind here,
and a small network in ``tests/networks``. For an operator of your own, in your own file: ``@repair("mylib::crop")``.
"""

from __future__ import annotations

from fxprune.passes.arguments import indices, layers, sizes
from fxprune.passes.arguments.site import Site, repair

__all__ = ["Site", "indices", "layers", "repair", "sizes"]
