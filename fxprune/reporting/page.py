"""From the document of a report to its page: a template, a style sheet and a script, all in one file.

No chart library is in it. Plotly's script is 4.8 MB, and three charts of 1,000 groups take it four times as long to open as
this page takes for all; Vega's is 0.9 MB, and takes nearly twice as long (`benchmarks/report_opening.py`). The charts here are
a few SVG paths that jinja2 writes from the document: they are there when the page opens, before any script runs; style sheets
make them light or dark, wide or narrow, and print them; and they need no package that torch does not need itself.

What names of modules may hold is escaped by jinja2, in text and attributes alike; the document is embedded as JSON without
``<``, ``>`` and ``&``. Should that ever fail, the page's own policy (`Content-Security-Policy`) still runs no script but its
own, told by its hash, and loads nothing from anywhere.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from fxprune.reporting import marks

__all__ = ["page_of"]

_FOLDER = Path(__file__).parent / "template"


def page_of(document: Mapping[str, Any]) -> str:
    """The page of a document that `fxprune.reporting.document.document_of` made."""
    environment, script, style = _parts()
    text: str = environment.get_template("page.html").render(
        d=document,
        script=script,
        style=style,
        policy=_policy(script),
        data=_embedded(document),
        marks=marks,
    )
    return text.encode("utf-8", "replace").decode("utf-8")  # names may hold half characters, which files cannot


@cache
def _parts() -> tuple[Any, Any, Any]:
    """The environment of templates, and script and style sheet as they are."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    loader = FileSystemLoader(_FOLDER, encoding="utf-8")
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, auto_reload=False
    )
    script, style = (Markup((_FOLDER / name).read_text(encoding="utf-8")) for name in ("page.js", "page.css"))
    return environment, script, style


def _policy(script: str) -> str:
    """What a browser may do with the page: run its script, use its styles, and load nothing.

    >>> _policy("")
    "default-src 'none'; script-src 'sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU='; style-src 'unsafe-inline'"
    """
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'"


def _embedded(document: Mapping[str, Any]) -> Any:
    """The document as JSON that ends no element and opens none."""
    from markupsafe import Markup

    text = json.dumps(document, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))
