"""How a command ends: an exit code, and where it is not 0, one sentence on stderr that says why.

0: done. 1: it could not be done, or a check failed. 2: what was asked for is wrong: an option, a name, a file. 3: an error that
nobody foresaw. 130: interrupted. 141: whoever read the output went away.
"""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
from collections.abc import Callable
from typing import Any

import typer
from rich.console import Console

from fxprune.cli.output import print_json
from fxprune.errors import InputError, PruneError, said, shown

__all__ = ["ended"]

_IMPOSSIBLE, _WRONG, _UNFORESEEN, _INTERRUPTED, _UNREAD = 1, 2, 3, 130, 141

# What typer raises of a command line that it cannot read. Where the class lives depends on the version.
_Usage: type[Exception] = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")


def ended(run: Callable[[], Any], as_json: Callable[[], bool]) -> int:
    """Run a command; gives its exit code.

    Args:
        run: gives None or a code.
        as_json: whether an error, too, is to be a JSON document on stdout; asked when there is one.
    """
    try:
        code = run()
        sys.stdout.flush()  # a reader that went away is noticed now, not when Python has ended
    except PruneError as error:
        return _failed(error, _WRONG if isinstance(error, InputError) else _IMPOSSIBLE, str(error), as_json())
    except _Usage as error:
        return _misused(error, as_json())
    except (KeyboardInterrupt, typer.Abort):
        code = _INTERRUPTED
    except BrokenPipeError:
        return _unread()
    except OSError as error:  # of the system, about a file or a device: it says what is wrong
        about = "" if error.filename is None else f": {shown(error.filename)}"
        return _failed(error, _IMPOSSIBLE, f"{error.strerror or said(error)}{about}", as_json())
    except SystemExit as error:
        if error.code == 1 and not any(name.endswith("_COMPLETE") for name in os.environ):
            return _unread()  # how rich and typer end where stdout is closed
        raise
    except Exception as error:
        return _unforeseen(error, as_json())
    if code == _INTERRUPTED:
        return _failed(KeyboardInterrupt(), _INTERRUPTED, "interrupted", as_json())
    return code if isinstance(code, int) else 0


def _failed(error: BaseException, code: int, sentence: str, as_json: bool) -> int:
    sentence = " ".join(sentence.split())
    label = "" if code == _INTERRUPTED else "error: "
    Console(stderr=True).print(f"{label}{sentence}", style="red", markup=False, highlight=False, soft_wrap=True)
    if as_json:
        print_json({"error": sentence, "kind": type(error).__name__, "exit_code": code})
    return code


def _misused(error: Any, as_json: bool) -> int:
    """Of a command line that cannot be read."""
    if type(error).__name__ == "NoArgsIsHelpError":  # it shows the help
        error.show()
        return _WRONG
    context = getattr(error, "ctx", None)
    where = "fxprune" if context is None else context.command_path
    return _failed(error, _WRONG, f"{error.format_message().rstrip('.')} ({where} --help lists what there is)", as_json)


def _unforeseen(error: Exception, as_json: bool) -> int:
    if os.environ.get("FXPRUNE_TRACEBACK"):
        traceback.print_exception(error)
    advice = "a bug of fxprune, or of the model's own code; FXPRUNE_TRACEBACK=1 shows where"
    return _failed(error, _UNFORESEEN, f"{type(error).__name__}: {said(error)} ({advice})", as_json)


def _unread() -> int:
    """What is still to be written goes nowhere, silently."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    with contextlib.suppress(OSError, ValueError):  # stdout is no file
        os.dup2(nowhere, sys.stdout.fileno())
    return _UNREAD
