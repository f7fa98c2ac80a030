"""Models by name: of timm, of torchvision, or from a file or module of yours.

>>> load_model("timm:resnet50")  # doctest: +SKIP
>>> load_model("torchvision:vit_b_16", "vit.safetensors")  # doctest: +SKIP
>>> load_model("nets.py:small", "small.pt")  # doctest: +SKIP
"""

from __future__ import annotations

import importlib
import re
import warnings
from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from typing import Any

from torch import nn

from fxprune.errors import InputError, nearest, said, shown
from fxprune.inputs.checkpoints import load_into, read_state_dict
from fxprune.inputs.user_code import called, named_in_file, named_in_module

__all__ = ["load_model"]

_FORMS = "timm:NAME, torchvision:NAME, file.py:factory or module:factory"
_MODULE = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*")  # a dotted name of Python


def load_model(spec: str, checkpoint: str | Path | None = None) -> nn.Module:
    """Build a model with fresh weights, or with those of `checkpoint`. Nothing is downloaded or unpickled.

    Args:
        spec: ``timm:NAME``, ``torchvision:NAME``, ``path/to/file.py:factory`` or ``package.module:factory``; `factory` is a
            function or class that takes no argument, or a module object. The file is run, like any script of yours; a module
            is imported, from the present folder, too.
        checkpoint: a ``.safetensors`` file, or a state_dict that ``torch.load(weights_only=True)`` reads.

    Raises:
        InputError: the name is unknown, the factory fails, or the checkpoint is damaged, hostile or made for
            another model.
    """
    if not isinstance(spec, str):
        raise InputError(f"a model's name must be text of the form {_FORMS}, not {shown(spec)}")
    state = None if checkpoint is None else read_state_dict(checkpoint)
    kind, colon, name = spec.partition(":")
    if kind == "timm" and colon:
        model = _timm(name)
    elif kind == "torchvision" and colon:
        model = _torchvision(name, () if state is None else state)
    elif Path(spec.rpartition(":")[0]).suffix == ".py":
        path, _, factory = spec.rpartition(":")
        model = _made(named_in_file(Path(path), factory), spec, Path(path))
    elif spec.endswith(".py"):
        raise InputError(f"{spec!r} names no factory: write {spec}:NAME, NAME being what builds the model")
    elif _MODULE.fullmatch(kind) and name.isidentifier():
        model = _made(named_in_module(kind, name, nearest(kind, ("timm", "torchvision"))), spec)
    else:
        hint = nearest(spec, _known_names()) if not colon else ""
        raise InputError(f"model {shown(spec)} is not of the form {_FORMS}{hint}")
    if state is not None:
        load_into(model, state, f"checkpoint {str(checkpoint)!r}")
    return model


def _known_names() -> Iterable[str]:
    import timm
    from torchvision.models import list_models

    return chain((f"timm:{n}" for n in timm.list_models()), (f"torchvision:{n}" for n in list_models()))


def _timm(name: str) -> nn.Module:
    import timm

    if not timm.is_model(name.partition(".")[0]):
        raise InputError(f"timm has no model {name!r}{nearest(name, timm.list_models())}")
    try:
        model: nn.Module = timm.create_model(name, pretrained=False)
    except RuntimeError as error:  # an unknown tag, as in resnet50.no_such_tag
        known = timm.list_models(f"{name.partition('.')[0]}.*", pretrained=True)
        raise InputError(f"timm cannot build {name!r}: {said(error)}{nearest(name, known)}") from error
    return model


def _torchvision(name: str, state_keys: Iterable[str]) -> nn.Module:
    from torchvision.models import get_model, list_models

    if name not in list_models():
        raise InputError(f"torchvision has no model {name!r}{nearest(name, list_models())}")
    options: dict[str, Any] = {"weights": None}
    if name in list_models(module=_module("segmentation")) + list_models(module=_module("detection")):
        options["weights_backbone"] = None  # else these download ImageNet weights
    if name in list_models(module=_module("segmentation")) and "lraspp" not in name:
        # The published weights have an auxiliary classifier, which is built on demand only.
        options["aux_loss"] = any(key.startswith("aux_classifier.") for key in state_keys)
    with warnings.catch_warnings():
        # googlenet and inception_v3 announce a change of their default initialisation.
        warnings.filterwarnings("ignore", message="The default weight initialization", category=FutureWarning)
        model: nn.Module = get_model(name, **options)
    return model


def _module(name: str) -> Any:
    return importlib.import_module(f"torchvision.models.{name}")


def _made(built: Any, spec: str, file: Path | None = None) -> nn.Module:
    """A user's module, or what a user's factory gives."""
    if not isinstance(built, nn.Module):
        built = called(built, spec, file)
    if not isinstance(built, nn.Module):
        raise InputError(f"{spec} gave a {type(built).__name__}, not an nn.Module")
    return built
