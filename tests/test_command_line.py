"""What all commands share: examples, a file of options, completion, how they end, what they show meanwhile."""

from __future__ import annotations

import io
import json
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import typer

import fxprune
from fxprune.cli.app import app, main
from fxprune.cli.common import keys_of
from fxprune.cli.config import values_of
from fxprune.errors import InputError
from fxprune.progress import Bar, hush, track

NET = """
from torch import nn

def tiny():
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
"""
GROUP: Any = typer.main.get_command(app)
COMMANDS = sorted(GROUP.commands)


@pytest.fixture
def net(tmp_path: Path) -> str:
    (tmp_path / "net.py").write_text(NET)
    return f"{tmp_path / 'net.py'}:tiny"


def example_of(text: str) -> list[str]:
    """The words of the example that a help ends with, as a shell reads it."""
    _, found, lines = text.partition("Example:\n")
    assert found, text
    return shlex.split(lines.replace("\\\n", " "))


def parsed(words: list[str]) -> Any:
    """A command line, read and not run."""
    program, command, *rest = words
    assert program == "fxprune"
    return GROUP.commands[command].make_context(command, list(rest))


# -- help -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", COMMANDS)
def test_every_help_ends_with_an_example_that_can_be_read(run, command: str) -> None:
    code, text, _ = run(command, "--help")
    words = example_of(text)
    assert code == 0 and words[1] == command and max(map(len, text.splitlines())) <= 80
    context = parsed(words)
    assert [context.params[name] for name in ("quiet", "as_json", "config")] == [False, False, None]


def test_the_list_of_commands_tells_each_whole(run) -> None:
    _, text, _ = run("--help")
    assert "..." not in text.partition("Commands:")[2] and all(f"\n  {name} " in text for name in COMMANDS)


@pytest.mark.slow
def test_the_examples_run_one_after_the_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run) -> None:
    """From a checkpoint to ONNX, on a small network in place of ResNet-50."""
    for needed in ("sklearn", "accelerate", "onnxruntime", "matplotlib"):
        pytest.importorskip(needed)
    import numpy as np
    import timm
    import torch
    from PIL import Image
    from safetensors.torch import save_file

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FXPRUNE_CACHE", str(tmp_path / "cache"))
    torch.manual_seed(0)
    save_file(timm.create_model("test_resnet").state_dict(), "weights.safetensors")
    for part in ("train", "val"):
        for number in range(8):
            folder = tmp_path / "images" / part / "ab"[number % 2]
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.random.default_rng(number).integers(0, 255, (160, 160, 3), np.uint8)).save(
                folder / f"{number}.png"
            )
    for command in ("inspect verify prune apply repair validate finetune export profile study sensitivity demo").split():
        words = [word.replace("timm:resnet50", "timm:test_resnet") for word in example_of(run(command, "--help")[1])]
        words += ["--epochs", "2"] if command == "demo" else []
        code, out, err = run(*words[1:], "--json")
        assert code == 0, (words, err)
        json.loads(out)
    assert {"slim", "again", "repaired", "tuned", "tuned.onnx", "study", "curves", "digits"} <= {
        p.name for p in tmp_path.iterdir()
    }


# -- options from a file --------------------------------------------------------------------------------------------------


def test_a_file_of_options(run, net: str, tmp_path: Path) -> None:
    """It stands for what is typed, arguments included; what is typed wins; relative paths are those of the present folder."""
    file = tmp_path / "fxprune.toml"
    file.write_text(
        f'[prune]\nmodel = "{net}"\nratio = 0.5\ninput-size = "4"\nverify = false\njson = true\nround-to = 2\nignore = ["0"]\n'
        '[inspect]\nlayer = "0"\n'
    )
    code, _, err = run("prune", "--config", file)
    assert code == 1 and "no channel" in err  # the only layer with channels is ignored
    text = file.read_text().replace('"0"]', '"2"]')
    file.write_text(text)
    code, out, err = run("prune", "--config", file)
    options = json.loads(out)["options"]
    assert code == 0 and (options["ratio"], options["round_to"], options["ignore"]) == (0.5, 2, ["2"])
    assert json.loads(out)["checks"] is None
    code, out, _ = run("prune", "--config", file, "--ratio", 0.25, "--verify", "--ignore", "2")
    assert code == 0 and json.loads(out)["options"]["ratio"] == 0.25 and json.loads(out)["checks"]["passed"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[prune]\nratoi = 0.5", "[prune]: there is no option 'ratoi' (did you mean 'ratio'?)"),
        ("[prune]\nround_to = 8", "did you mean 'round-to'?"),
        ('[prune]\nratio = "half"', "[prune]: 'ratio' must be a number, not 'half'"),
        ("[prune]\nratio = true", "'ratio' must be a number, not True"),
        ("[prune]\nseed = 1.5", "'seed' must be a whole number, not 1.5"),
        ('[prune]\njson = "yes"', "'json' must be true or false, not 'yes'"),
        ("[prune]\nignore = [1, {}]", "'ignore' must be a list of text, not {}"),
        ("[prune]\nattention = 3", "'attention' must be one of head_dim, heads, both, none, not 3"),
        ("[prune]\nout = 3", "'out' must be text, not 3"),
        ("[prune]\nconfig = 'x'", "there is no option 'config'"),
        ("[prune]\nmodel = 'x'\nseed = -1", "--seed"),
        ("[prun]\n", "[prun] is no command (did you mean 'prune'?)"),
        ("ratio = 0.5", "'ratio' stands in no table"),
        ("[prune", "is no TOML"),
        ("[prune]\nratio = 1\nratio = 2", "is no TOML"),
        (b"\xff\xfe", "is no text in UTF-8"),
        (None, "cannot be read"),
    ],
)
def test_a_file_of_options_that_is_wrong(run, tmp_path: Path, text: str | bytes | None, said: str) -> None:
    file = tmp_path / "fxprune.toml"
    if text is None:
        file.mkdir()
    else:
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
    code, out, err = run("prune", "--config", file, "--json")
    assert code == 2 and err.startswith("error: ") and err.count("\n") == 1 and said in err, err
    assert "fxprune.toml" in err or "--seed" in err
    assert json.loads(out) == {"error": err.removeprefix("error: ").strip(), "exit_code": 2, "kind": json.loads(out)["kind"]}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_has_a_key(command: str) -> None:
    """A date is of no option's kind: the message shows that the key is known, and what it takes."""
    parameters = GROUP.commands[command].params
    kinds = keys_of(command, parameters)
    names = {parameter.name for parameter in parameters} - {"help", "config"}
    assert {name for name, _ in kinds.values()} == names and {"json", "quiet"} <= {*kinds}
    for key in kinds:
        with pytest.raises(InputError, match=f"here: '{key}' must be (a list of )?(text|a whole number|a number|true|one of)"):
            values_of({key: date(1979, 5, 27)}, kinds, "here")


# -- how commands end -----------------------------------------------------------------------------------------------------


def test_an_error_is_a_json_document_where_json_is_asked_for(run, net: str) -> None:
    for words, code, kind in (
        (["prune", "nowhere.py:net", "--ratio", "0.5"], 2, "InputError"),
        (["prune", net, "--ratio", "0.5", "--input-size", "4", "--ignore", "*"], 1, "NothingToPrune"),
        (["prune", net, "--attention", "all"], 2, "BadParameter"),
        (["finetune", net], 2, "MissingParameter"),
    ):
        found, out, err = run(*words, "--json")
        document = json.loads(out)
        assert (found, document["exit_code"], document["kind"]) == (code, code, kind)
        assert err == f"error: {document['error']}\n"


def test_what_nobody_foresaw_is_a_sentence_too(run, net: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError("of a\nlibrary")

    monkeypatch.setattr(fxprune.api, "analyze", fails)
    code, out, err = run("inspect", net, "--input-size", "4")
    assert code == 3 and out == "" and err.startswith("error: ZeroDivisionError: of a library (") and "Traceback" not in err
    monkeypatch.setenv("FXPRUNE_TRACEBACK", "1")
    assert "in fails" in run("inspect", net, "--input-size", "4")[2]


def test_an_interruption_is_a_line(run, net: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(fxprune.api, "analyze", interrupted)
    assert run("inspect", net, "--input-size", "4") == (130, "", "interrupted\n")
    code, out, _ = run("inspect", net, "--input-size", "4", "--json")
    assert code == 130 and json.loads(out)["error"] == "interrupted"


def test_a_word_that_is_empty(run, net: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `--out $NOWHERE` is: it does not stand for the present folder."""
    monkeypatch.chdir(tmp_path)
    for words in (["--out", ""], ["--out="], ["--criterion", ""], ["", "--out", "x"]):
        code, out, err = run("prune", net, "--ratio", "0.5", "--input-size", "4", *words)
        assert code == 2 and out == "" and " is empty: " in err and err.count("\n") == 1
    (tmp_path / "fxprune.toml").write_text(f"[prune]\nmodel = '{net}'\nout = ''\n")
    code, _, err = run("prune", "--config", "fxprune.toml")
    assert code == 2 and err == "error: fxprune.toml, [prune]: 'out' is empty\n"
    assert [path.name for path in tmp_path.iterdir() if path.suffix == ".safetensors"] == []


def test_what_the_system_refuses_is_a_sentence(run, net: str) -> None:
    code, _, err = run("apply", net, "a" * 300)
    assert code == 1 and err.startswith("error: File name too long: 'aaa") and len(err) < 200


def test_usage_names_the_help(run) -> None:
    code, out, err = run("prune", "--ratoi", "0.5")
    assert code == 2 and out == "" and err.count("\n") == 1 and "--ratio" in err and "fxprune prune --help" in err
    code, out, err = run("pruen")
    assert code == 2 and err.count("\n") == 1 and "pruen" in err and "fxprune --help" in err


@pytest.mark.slow
def test_signals_and_pipes(tmp_path: Path, net: str) -> None:
    """Ctrl-C while a model's file runs; a reader that goes away."""
    (tmp_path / "slow.py").write_text("import time, pathlib\npathlib.Path(__file__ + '.on').touch()\ntime.sleep(60)\n")
    command = [sys.executable, "-m", "fxprune.cli", "inspect"]
    before = signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # a job in the background ignores it, as would its children
    try:
        process = subprocess.Popen([*command, f"{tmp_path / 'slow.py'}:net"], stderr=subprocess.PIPE, text=True)
    finally:
        signal.signal(signal.SIGINT, before)
    with process:
        while not (tmp_path / "slow.py.on").exists():
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        assert process.communicate()[1] == "interrupted\n" and process.returncode == 130
    with subprocess.Popen(
        [*command, net, "--input-size", "4", "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == "" and process.wait() == 141


# -- completion -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("fxprune pr", {"prune", "profile"}),
        ("fxprune prune --max", {"--max-ratio"}),
        ("fxprune prune --attention he", {"head_dim", "heads"}),
        ("fxprune prune --criterion l", {"l1", "l2", "lamp"}),
        ("fxprune prune --scope iso", {"isomorphic"}),
        ("fxprune study --criteria op", {"operator_norm", "operator_norm_compat"}),
    ],
)
def test_completion(capfd, monkeypatch: pytest.MonkeyPatch, typed: str, offered: set[str]) -> None:
    """As bash asks for it."""
    monkeypatch.setenv("_FXPRUNE_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", typed)
    monkeypatch.setenv("COMP_CWORD", str(typed.count(" ")))
    with pytest.raises(SystemExit) as stopped:
        main([])
    assert set(capfd.readouterr().out.split()) == offered and not stopped.value.code


def test_names_are_completed_without_pytorch() -> None:
    """Which takes a second to import, at each press of the key."""
    code = "import sys; from fxprune.cli.options import criteria; print(*criteria('l'), 'torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "l1 l2 lamp False\n"


def test_completion_can_be_shown_for_a_shell(capfd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_FXPRUNE_COMPLETE", "source_zsh")
    with pytest.raises(SystemExit):
        main([])
    assert "#compdef fxprune" in capfd.readouterr().out


# -- what is shown meanwhile ----------------------------------------------------------------------------------------------


class Terminal(io.StringIO):
    """stderr, where it is one."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Callable[[], Terminal]:
    """Puts one there; in the test itself, as pytest changes stderr before it. Gives what is drawn."""

    def begin() -> Terminal:
        monkeypatch.setattr(sys, "stderr", Terminal())
        monkeypatch.setenv("TERM", "xterm")
        return sys.stderr  # type: ignore[return-value]

    return begin


def plain(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)


def test_bars_nest_and_go(terminal) -> None:
    drawn = terminal()
    with Bar("pruning", 2, even=False) as bar:
        assert bar._progress is not None
        for _ in track([1, 2, 3], "observing"):
            bar._progress.refresh()
        bar.advance()
        assert len(bar._progress.tasks) == 1  # the inner one is gone
        bar._progress.refresh()
    text = plain(drawn.getvalue())
    assert "observing" in text and "2/3" in text and "pruning" in text and "1/2" in text
    before = drawn.getvalue()
    assert list(track([1], "alone")) == [1]  # nobody asked to see it
    with hush(), Bar("hushed", 1) as bar:
        bar.advance()
    assert drawn.getvalue() == before


@pytest.mark.parametrize(("options", "shown"), [((), True), (("--json",), True), (("--quiet",), False)])
def test_progress_is_for_a_terminal(terminal, net: str, options: tuple[str, ...], shown: bool, capsys) -> None:
    drawn = terminal()
    with pytest.raises(SystemExit) as stopped:
        main(["prune", net, "--ratio", "0.5", "--input-size", "4", "--no-verify", *options])
    text = plain(drawn.getvalue())
    assert not stopped.value.code and ("pruning" in text) == shown and ("note: " in text) == (options == ())
    assert "building" not in capsys.readouterr().out
