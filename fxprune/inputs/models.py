"""Models by name, checkpoints without pickled code, and the input that a library's model expects.

>>> load_model("timm:resnet50")  # doctest: +SKIP
>>> load_model("torchvision:vit_b_16", "vit.safetensors")  # doctest: +SKIP
>>> load_model("nets.py:small", "small.pt")  # doctest: +SKIP
"""

from __future__ import annotations

import importlib.util
import pickle
import sys
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fxprune.errors import InputError, nearest

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["infer_example_inputs", "load_model", "read_state_dict"]

_FORMS = "timm:NAME, torchvision:NAME or file.py:factory"
_WRAPPERS = ("state_dict", "model_state_dict", "model", "net")  # how training scripts file a state_dict
_SHOWN = 3  # offending keys that a message names
_STRIDES = (4, 8, 16, 32)  # of feature maps
_NO_GRIDS = {"patch_size", "kernel_size", "stride", "padding", "dilation", "dim"}  # pairs of numbers that are no sizes of maps
_TRIED = 8  # image sizes


def load_model(spec: str, checkpoint: str | Path | None = None) -> nn.Module:
    """Build a model with fresh weights, or with those of `checkpoint`. Nothing is downloaded or unpickled.

    Args:
        spec: ``timm:NAME``, ``torchvision:NAME``, or ``path/to/file.py:factory``; `factory` is a function or
            class that takes no argument, or a module object. The file is run, like any script of yours.
        checkpoint: a ``.safetensors`` file, or a state_dict that ``torch.load(weights_only=True)`` reads.

    Raises:
        InputError: the name is unknown, the factory fails, or the checkpoint is damaged, hostile or made for
            another model.
    """
    state = None if checkpoint is None else read_state_dict(checkpoint)
    kind, colon, name = spec.partition(":")
    if kind == "timm" and colon:
        model = _timm(name)
    elif kind == "torchvision" and colon:
        model = _torchvision(name, () if state is None else state)
    elif Path(spec.rpartition(":")[0]).suffix == ".py":
        path, _, factory = spec.rpartition(":")
        model = _from_file(Path(path), factory)
    elif spec.endswith(".py"):
        raise InputError(f"{spec!r} names no factory: write {spec}:NAME, NAME being what builds the model")
    else:
        hint = nearest(spec, _known_names()) if not colon else ""
        raise InputError(f"model {spec!r} is not of the form {_FORMS}{hint}")
    if state is not None:
        _load_into(model, state, f"checkpoint {str(checkpoint)!r}")
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
        raise InputError(f"timm cannot build {name!r}: {error}{nearest(name, known)}") from error
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


def _from_file(path: Path, factory: str) -> nn.Module:
    from torch import nn

    if not path.is_file():
        raise InputError(f"there is no file {str(path)!r}")
    unique = f"_fxprune_model_{path.stem}"
    spec = importlib.util.spec_from_file_location(unique, path)
    assert spec is not None and spec.loader is not None  # a .py file always has a loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[unique] = module  # dataclasses look their module up
    sys.path.insert(0, str(path.parent.resolve()))  # like `python file.py`: its neighbours can be imported
    try:
        try:
            spec.loader.exec_module(module)
        except Exception as error:
            raise InputError(f"{path} cannot be run: {type(error).__name__}: {error}") from error
        if not hasattr(module, factory):
            raise InputError(f"{path} has no {factory!r}{nearest(factory, vars(module))}")
        built = getattr(module, factory)
        if not isinstance(built, nn.Module):
            try:
                built = built()
            except Exception as error:
                raise InputError(f"{path}:{factory}() failed: {type(error).__name__}: {error}") from error
    finally:
        sys.path.remove(str(path.parent.resolve()))
    if not isinstance(built, nn.Module):
        raise InputError(f"{path}:{factory} gave a {type(built).__name__}, not an nn.Module")
    return built


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """Read the tensors of a checkpoint by name. Pickled code is refused, never run.

    A state_dict filed under ``state_dict``, ``model`` and the like is unwrapped; the ``module.`` that
    DataParallel puts before every name is dropped.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"there is no checkpoint file {str(path)!r}")
    state = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    if state and all(name.startswith("module.") for name in state):
        state = {name.removeprefix("module."): value for name, value in state.items()}
    return state


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        state: dict[str, Tensor] = load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(f"{str(path)!r} is not a readable safetensors file: {error}") from error
    return state


def _read_torch(path: Path) -> dict[str, Tensor]:
    import torch

    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{str(path)!r} holds more than tensors (pickled code is refused) or is damaged: "
            "save it again with torch.save(model.state_dict(), path)"
        ) from error
    except (RuntimeError, OSError, EOFError, ValueError, KeyError, AttributeError) as error:
        first_line = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"{str(path)!r} is not a readable checkpoint: {first_line}") from error
    for key in _WRAPPERS:
        if isinstance(loaded, Mapping) and isinstance(loaded.get(key), Mapping):
            loaded = loaded[key]
            break
    if not isinstance(loaded, Mapping):
        raise InputError(f"{str(path)!r} holds a {type(loaded).__name__}, not a state_dict")
    strange = [
        f"{key!r} is a {type(value).__name__}"
        for key, value in loaded.items()
        if not (isinstance(key, str) and isinstance(value, torch.Tensor))
    ]
    if strange:
        raise InputError(f"{str(path)!r} is not a state_dict of named tensors: {_some(strange)}")
    return dict(loaded)


def _load_into(model: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Copy `state` into `model`; every name and shape must match, else nothing is copied.

    Checkpoints from before PyTorch 0.4.1 have no count of the batches that a norm has seen: it stays as it is.
    """
    own = model.state_dict()
    missing = [name for name in own if name not in state and not name.endswith(".num_batches_tracked")]
    unexpected = [name for name in state if name not in own]
    wrong = [
        f"{name} is {tuple(value.shape)}, the model's is {tuple(own[name].shape)}"
        for name, value in state.items()
        if name in own and value.shape != own[name].shape
    ]
    told = [("missing", missing), ("not in the model", unexpected), ("of another shape", wrong)]
    complaints = [f"{len(keys)} {what}: {_some(keys)}" for what, keys in told if keys]
    if complaints:
        raise InputError(
            f"{source} is of another model ({'; '.join(complaints)}); if that was built with other options, "
            "such as a number of classes, build it the same way in a factory of your own: file.py:factory"
        )
    model.load_state_dict({name: state.get(name, value) for name, value in own.items()})


def _some(items: list[str]) -> str:
    return ", ".join(items[:_SHOWN]) + (", ..." if len(items) > _SHOWN else "")


def infer_example_inputs(model: nn.Module) -> tuple[Tensor, ...] | None:
    """Example inputs on the meta device, batch 2, for a model of timm or torchvision; None for any other.

    timm: the channels, height and width of ``pretrained_cfg``, corrected by the ``img_size`` and ``in_chans``
    that the model was built with; where a model takes one size and no part names it, the first of those that its
    feature maps imply and that it runs on (on the meta device). torchvision: 224 pixels; 299 for inception, 320 for
    detection, 128 for optical flow; 16 frames for video.
    """
    module = type(model).__module__
    if module.startswith("torchvision.models."):
        shapes = _torchvision_shapes(model, module.removeprefix("torchvision.models."))
    elif isinstance(_timm_config(model), Mapping):
        shapes = _timm_shapes(model, _timm_config(model))
    else:
        return None

    import torch

    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.get_default_dtype())
    return tuple(torch.empty(2, *shape, dtype=dtype, device="meta") for shape in shapes) or None


def _timm_config(model: nn.Module) -> Any:
    return getattr(model, "pretrained_cfg", None) or getattr(model, "default_cfg", None)


def _timm_shapes(model: nn.Module, config: Mapping[str, Any]) -> list[tuple[int, ...]]:
    if "input_size" not in config:
        return []
    channels, height, width = config["input_size"]
    channels = _in_channels(model, config, channels)
    for part in model.modules():  # the first in order of registration is the one that sees the whole image
        size = _pair(getattr(part, "img_size", None))
        if size is not None:
            return [(channels, *size)]
    if not config.get("fixed_input_size"):
        return [(channels, height, width)]
    # The size is built into the model, but no part names it.
    default = height, width
    sizes = _implied_sizes(model, default)
    fits = next((size for size in sizes if _runs(model, (channels, *size))), default)
    return [(channels, *fits)]


def _pair(value: Any) -> tuple[int, int] | None:
    """Height and width from a number or two."""
    if isinstance(value, int) and not isinstance(value, bool) and value > 0:
        return value, value
    if isinstance(value, (tuple, list)) and len(value) == 2 and all(isinstance(v, int) and v > 0 for v in value):
        return value[0], value[1]
    return None


def _implied_sizes(model: nn.Module, default: tuple[int, int]) -> list[tuple[int, int]]:
    """Image sizes that the grids of a model's parts imply, those that most parts agree on first.

    A grid is a pair of numbers that a part keeps (as ``feat_size``, ``resolution``) or the two inner axes of a table
    ``[1, height, width, channels]``; by how much it is smaller than the image is one of the usual strides.
    """
    votes: Counter[tuple[int, int]] = Counter()
    for part in model.modules():
        if type(part).__module__.startswith("torch.nn."):
            continue
        kept = vars(part).items()
        pairs = [_pair(value) for name, value in kept if name not in _NO_GRIDS and isinstance(value, (tuple, list))]
        tables = [t.shape for t in part._parameters.values() if t is not None and t.dim() == 4 and t.shape[0] == 1]
        grids = {pair for pair in (*pairs, *(_pair(shape[1:3]) for shape in tables)) if pair}
        votes.update((h * stride, w * stride) for h, w in grids for stride in _STRIDES)
    near = [size for size in votes if all(s / 4 <= size[i] <= s * 4 for i, s in enumerate(default))]
    return sorted(near, key=lambda size: (-votes[size], abs(size[0] - default[0]), size))[:_TRIED]


def _runs(model: nn.Module, shape: tuple[int, ...]) -> bool:
    """Whether the model takes such an input, tried on shapes alone."""
    import torch

    from fxprune.tracing.quick_shapes import QuickShapes
    from fxprune.tracing.skeleton import skeleton_of

    skeleton = skeleton_of(model)[0].eval()
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.get_default_dtype())
    try:
        with torch.inference_mode(), torch.device("meta"), QuickShapes():  # constants that forward makes, too
            skeleton(torch.empty(2, *shape, dtype=dtype))
    except Exception:  # whatever a model raises on an input that it does not take
        return False
    return True


def _in_channels(model: nn.Module, config: Mapping[str, Any], default: int) -> int:
    if isinstance(getattr(model, "in_chans", None), int):
        return int(model.in_chans)  # type: ignore[arg-type]  # checked on the line above
    first = config.get("first_conv")
    names = (first,) if isinstance(first, str) else tuple(first or ())
    convs = [part for name, part in model.named_modules() if name in names and hasattr(part, "in_channels")]
    return int(convs[0].in_channels) if convs else default


def _torchvision_shapes(model: nn.Module, module: str) -> list[tuple[int, ...]]:
    family, _, rest = module.partition(".")
    if family == "detection":
        return [(3, 320, 320)]  # takes a list of images, or a batch: it resizes them
    if family == "optical_flow":
        return [(3, 128, 128)] * 2  # the least that RAFT's correlation pyramid accepts
    if family == "video":
        side = 112 if rest == "resnet" else 224
        return [(3, 16, side, side)]
    if family == "vision_transformer":
        return [(3, int(model.image_size), int(model.image_size))]  # type: ignore[arg-type]  # an int in torchvision
    side = 299 if module in ("inception", "quantization.inception") else 224
    return [(3, side, side)]
