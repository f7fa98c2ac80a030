"""The `fxprune` command: one file a command, and here the table of them.

Results go to stdout, notes and progress to stderr. How a command ends is told in `fxprune.cli.ending`.
"""

from __future__ import annotations

import functools
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any

import typer
import typer.main

from fxprune.cli.apply import apply
from fxprune.cli.common import everywhere, wants_json
from fxprune.cli.demo_command import demo
from fxprune.cli.ending import ended
from fxprune.cli.export import export
from fxprune.cli.finetune import finetune
from fxprune.cli.inspect import inspect
from fxprune.cli.many_values import ManyValues
from fxprune.cli.profile import profile
from fxprune.cli.prune import prune
from fxprune.cli.repair import repair
from fxprune.cli.sensitivity import sensitivity
from fxprune.cli.study import study
from fxprune.cli.validate import validate
from fxprune.cli.verify import verify
from fxprune.errors import InputError

__all__ = ["app", "main"]

# By command, in a line: what it does, and the example that its help ends with. The examples can be run in the order of
# docs/pages/command-line.md in a folder with weights.safetensors and images/.
_TABLE: dict[Callable[..., None], tuple[str, str]] = {
    prune: (
        "Remove channels, and write the smaller model.",
        "timm:resnet50 --ratio 0.5 --checkpoint weights.safetensors --out slim",
    ),
    apply: (
        "Remove what a stored plan does.",
        "timm:resnet50 slim/plan.json --checkpoint weights.safetensors --out again",
    ),
    inspect: ("List coupled channels; say why a layer stays.", "timm:resnet50 layer3.0.conv2"),
    verify: ("Prove a pruned model against its original.", "timm:resnet50 --ratio 0.3"),
    validate: (
        "Measure slim models beside the dense one.",
        "timm:resnet50 --checkpoint weights.safetensors --slim slim --slim repaired --data images:val",
    ),
    repair: (
        "Bring accuracy back from unlabelled images.",
        "timm:resnet50 --checkpoint weights.safetensors --slim slim --data images:train --out repaired",
    ),
    finetune: (
        "Train a slim model.",
        "repaired --data images:train --test images:val --teacher timm:resnet50 --teacher-checkpoint weights.safetensors "
        "--epochs 2 --out tuned",
    ),
    export: ("Write ONNX, a torch.export program, OpenVINO.", "tuned --onnx tuned.onnx"),
    profile: (
        "Measure how long slim models take here.",
        "timm:resnet50 --engine onnxruntime --threads 1 --samples 6",
    ),
    study: (
        "Compare criteria.",
        "timm:resnet50 --checkpoint weights.safetensors --criteria l1 l2 fpgm --out study",
    ),
    sensitivity: (
        "Try how much of each group may go.",
        "timm:resnet50 --checkpoint weights.safetensors --data images:val --groups layer3.0.conv2 --limit 1000 --out curves",
    ),
    demo: ("Train, prune, repair, fine-tune: see it work.", "--out digits"),
}

app = typer.Typer(
    help="Remove channels from any timm or torchvision model, and prove that the smaller model is right.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # tables would break the lines of examples
    context_settings={"help_option_names": ["--help", "-h"]},
)


def _shown(command: str) -> str:
    """A command in lines that can be copied, none of which parts an option from its value.

    >>> print(_shown("fxprune demo " + "--out digits " * 6))
    fxprune demo --out digits --out digits --out digits --out digits \\
        --out digits --out digits
    """
    lines = [""]
    for part in re.split(r" (?=--)", command.strip()):
        if lines[-1] and len(lines[-1]) + len(part) > 70:
            lines.append("")
        lines[-1] += f" {part}" if lines[-1] else part
    return " \\\n    ".join(lines)


for _command, (_what, _example) in _TABLE.items():
    # After \b the lines stay as they are.
    _text = f"Example:\n\n\b\n{_shown(f'fxprune {_command.__name__} {_example}')}"
    _kind: Any = {"cls": ManyValues} if _command in (study, sensitivity) else {}
    app.command(epilog=_text, short_help=_what, **_kind)(everywhere(_command))


@functools.cache
def _command_line() -> Callable[..., Any]:
    """What reads the arguments; typer makes it anew of all commands each time that `app` is called."""
    return typer.main.get_command(app)


def _run(given: list[str]) -> Any:
    """
    Raises:
        InputError: a word is empty.
    """
    for before, word in zip(["", *given], given, strict=False):
        if not word or re.fullmatch(r"--[a-z-]+=", word):
            where = word.rstrip("=") or before or "an argument"
            raise InputError(f"{where} is empty: a variable of the shell that is not set?")  # "" would be the present folder
    return _command_line()(args=given, prog_name="fxprune", standalone_mode=False)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; exits with its code."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    asked = wants_json.set("--json" in given)
    try:
        code = ended(lambda: _run(given), wants_json.get)
    finally:
        wants_json.reset(asked)
    sys.exit(code)
