"""Write the page of commands and their options, from what the commands themselves say.

python docs/command_table.py
"""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Any

import typer

from fxprune.cli.app import app
from fxprune.cli.common import keys_of
from fxprune.cli.config import kind_of

PAGE = Path(__file__).parent / "pages" / "reference" / "commands.md"
_HEAD = """# Commands

What `fxprune COMMAND --help` says, written by `python docs/command_table.py`. Data, files of options and exit codes are told on
the page of the [command line](../command-line.md). All commands have `--json`, `--quiet`, `--config FILE` and `--help`, too.
"""
_EVERYWHERE = {"as_json", "quiet", "config", "help"}


def main() -> None:
    """Write the page again."""
    PAGE.write_text(page(), encoding="utf-8")
    print(f"wrote {PAGE}")


def page() -> str:
    """The whole page."""
    group: Any = typer.main.get_command(app)
    return "\n".join([_HEAD, *(section(name, command) for name, command in group.commands.items())])


def section(name: str, command: Any) -> str:
    """A command: what it does, an example, and a row for each argument and option."""
    example = command.epilog.partition("\b\n")[2]
    text = " ".join(command.help.split())
    lines = [f"## {name}", "", text, "", "```bash", example, "```", "", "| Option | Means |", "|---|---|"]
    lines += [row(name, parameter) for parameter in command.params if parameter.name not in _EVERYWHERE]
    return "\n".join([*lines, ""])


def row(command: str, parameter: Any) -> str:
    """A row of the table."""
    if parameter.param_type_name == "argument":
        names = parameter.name.upper()
    else:
        names = ", ".join(parameter.opts) + "".join(f" / {option}" for option in parameter.secondary_opts)
    kind = next(kind for known, kind in keys_of(command, [parameter]).values() if known == parameter.name)
    kind, _ = kind_of(kind)
    kinds = f" ({', '.join(choice.value for choice in kind)})" if issubclass(kind, Enum) else ""
    means = " ".join((parameter.help or "").split()).replace("|", "\\|").removesuffix(".")
    return f"| `{names}` | {means}{kinds}.{default(parameter)} |"


def default(parameter: Any) -> str:
    """What holds where the option is not given, if that is worth a word."""
    if parameter.required:
        return " Required."
    if isinstance(parameter.show_default, str):
        return f" Default: {parameter.show_default}."
    value = parameter.default
    if value is None or value is False or value == [] or callable(value):
        return ""
    value = getattr(value, "value", value)
    return " On by default." if value is True else f" Default: `{value}`."


if __name__ == "__main__":
    main()
