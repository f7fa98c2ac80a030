"""How labels flow through ATen operators: small functions in one table, a file a family.

To teach fxprune an operator: a function decorated with ``@rule("name")`` in the file of its family (or a new file, listed
in ``fxprune.labels.table.FAMILIES``), and a small network in ``tests/networks``. A rule gets a `fxprune.labels.call.Call`;
its docstring begins with a line that shows the shapes. Operators that PyTorch tags as pointwise share one rule without being
named. An operator of your own gets its rule from your own file: ``@fxprune.rule("mylib::swish")``.
"""
