"""What the pages say of the command line: every command in them can be read, every option exists, none is missing."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from test_docs import PAGES, script

from fxprune.cli.app import app

GROUP: Any = typer.main.get_command(app)
OPTIONS = {option for command in GROUP.commands.values() for p in command.params for option in (*p.opts, *p.secondary_opts)}
# Of `fxprune` itself, of the launchers beside it, and of the benchmarks.
OTHERS = {"--install-completion", "--show-completion", "--multi_gpu", "--nproc_per_node"}


def commands_in(text: str) -> Iterator[str]:
    """The calls of fxprune in a page's fences of bash, each in one line."""
    for fence in re.findall(r"^```bash\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):
        for line in fence.replace("\\\n", " ").splitlines():
            for call in re.split(r"&&|\|", line.partition(" #")[0]):
                if call.strip().startswith("fxprune "):
                    yield call.strip()


SAID = [(page, call) for page, text in PAGES.items() for call in commands_in(text)]


def test_no_page_holds_what_a_merge_left() -> None:
    assert [name for name, text in PAGES.items() if re.search(r"^(<<<<<<<|>>>>>>>) ", text, re.MULTILINE)] == []


def test_pages_show_every_command() -> None:
    shown = {shlex.split(call)[1] for page, call in SAID if page == "docs/pages/command-line.md"}
    assert shown == {*GROUP.commands}


@pytest.mark.parametrize("page", sorted({page for page, _ in SAID}))
def test_the_commands_of_a_page_can_be_read(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for toml in re.findall(r"^```toml\n(.*?)^```$", PAGES[page], re.DOTALL | re.MULTILINE):
        (tmp_path / "fxprune.toml").write_text(toml)
    for said, call in SAID:
        if said == page:
            _, command, *rest = shlex.split(call)
            if command in GROUP.commands:
                with typer.Context(GROUP, info_name="fxprune") as parent:
                    GROUP.commands[command].make_context(command, rest, parent=parent)  # an error names what is wrong
            else:
                assert command in OTHERS


def test_options_in_the_text_exist() -> None:
    text = re.sub(r"^```.*?^```$", "", PAGES["docs/pages/command-line.md"], flags=re.DOTALL | re.MULTILINE)
    found = set(re.findall(r"(?<=[`\s])--[a-z][a-z_-]+", text))
    assert found > {"--ratio", "--json", "--config"} and found <= OPTIONS | OTHERS


def test_the_page_of_commands_is_what_they_say() -> None:
    """``python docs/command_table.py`` writes it again."""
    assert script("command_table").page() == PAGES["docs/pages/reference/commands.md"]
