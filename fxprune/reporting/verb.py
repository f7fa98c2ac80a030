"""`fxprune.report`: a plan, or what was done by one, as an HTML page."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from fxprune.codegen.files import write_text
from fxprune.codegen.replacing import checked_path
from fxprune.errors import InputError, PruneError, shown
from fxprune.planning.plan import Plan
from fxprune.planning.report import Report, report_of
from fxprune.planning.validation import Validation

__all__ = ["checked_file", "report", "require"]

_SUFFIXES = (".html", ".htm")


def report(what: Any, path: str | os.PathLike[str], *, validation: Validation | None = None) -> Path:
    """Write a report as one HTML file that needs nothing else: no network, no other file, no library (extra ``report``).

    >>> from fxprune import prune
    >>> print(report(prune(net, 0.5, x), "report.html"))
    report.html

    It shows accuracy (where the model was validated), MACs, parameters, memory and latency before and after; widths along the
    network; scores and where they were cut; the groups as a drawing to move in; what stayed whole, and why; what was proved;
    budgets, and which of them binds; the error of each layer before and after a repair.

    Args:
        what: what `prune`, `apply`, `repair`, `shrink` or `finetune` gave, its `Report`, or a `Plan`.
        path: of the file; a file that is there is replaced.
        validation: what `validate` found of this model alone; that in the report if not given.

    Returns:
        The path.

    Raises:
        InputError: there is nothing to tell of `what`, or `path` names no HTML file.
        PruneError: jinja2 is not installed, or the file cannot be written.
    """
    file = checked_file(path)
    require()
    plan, found = _told(what)
    if validation is not None and not isinstance(validation, Validation):
        raise InputError(f"validation must be what validate() gives, not {shown(validation)}")
    if validation is not None and len(validation.slim) != 1:
        raise InputError(f"a report is of one slim model, and the validation of {len(validation.slim)}: validate it alone")
    from fxprune.reporting.document import document_of
    from fxprune.reporting.page import page_of

    return write_text(file, page_of(document_of(plan, found, validation)))


def require() -> None:
    """Make sure, before work is done, that a page can be written.

    Raises:
        PruneError: jinja2 is not installed.
    """
    try:
        import jinja2  # noqa: F401
    except ImportError as error:
        raise PruneError('a report needs jinja2: pip install "fxprune[report]"') from error


def checked_file(path: Any) -> Path:
    """
    Raises:
        InputError: it names no HTML file.
    """
    file = checked_path(path)
    if file.suffix.lower() not in _SUFFIXES:
        raise InputError(f"a report is an HTML file: name it report.html or the like, not {shown(str(path))}")
    if file.is_dir():
        raise InputError(f"a report is a file, and {shown(str(path))} is a folder")
    return file


def _told(what: Any) -> tuple[Plan, Report | None]:
    """
    Raises:
        InputError: it is neither a plan, nor a report, nor a model that has one.
    """
    if isinstance(what, Plan):
        return what, None
    found = what if isinstance(what, Report) else report_of(what)
    if found is None:
        raise InputError(f"a report is of what prune() or apply() gives, of its Report, or of a Plan, not of {shown(what)}")
    return found.plan, found
