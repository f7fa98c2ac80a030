"""Constructor calls of torch.nn modules, read off the modules themselves."""

from __future__ import annotations

import functools
import inspect
import warnings
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import nn

from fxprune.codegen.literals import literal, public_path
from fxprune.codegen.names import Names
from fxprune.errors import PruneError

__all__ = ["Leaf", "Written", "leaf"]

# Arguments that the module keeps under another name or in another form: (class, argument) -> how to read it.
READ: dict[tuple[type, str], Callable[[Any], Any]] = {
    (nn.MultiheadAttention, "bias"): lambda m: m.in_proj_bias is not None,
    (nn.MultiheadAttention, "add_bias_kv"): lambda m: m.bias_k is not None,
    (nn.MultiheadAttention, "kdim"): lambda m: None if m.kdim == m.embed_dim else m.kdim,
    (nn.MultiheadAttention, "vdim"): lambda m: None if m.vdim == m.embed_dim else m.vdim,
    (nn.RNNBase, "bias"): lambda m: m.bias,
    (nn.Module, "bias"): lambda m: m.bias is not None if _is_part(m, "bias") else getattr(m, "bias", True),
    (nn.PairwiseDistance, "p"): lambda m: m.norm,
    **{
        (cls, argument): read
        for cls in (nn.TransformerEncoderLayer, nn.TransformerDecoderLayer)
        for argument, read in {
            "d_model": lambda m: m.linear1.in_features,
            "nhead": lambda m: m.self_attn.num_heads,
            "dim_feedforward": lambda m: m.linear1.out_features,
            "dropout": lambda m: m.dropout.p,
            "layer_norm_eps": lambda m: m.norm1.eps,
            "batch_first": lambda m: m.self_attn.batch_first,
            "bias": lambda m: m.linear1.bias is not None,
        }.items()
    },
}

# Signatures that torch hides behind *args: class -> one with the real arguments.
SIGNATURES: dict[type, inspect.Signature] = {
    cls: inspect.Signature(
        [
            inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=default)
            for name, default in [
                ("input_size", inspect.Parameter.empty),
                ("hidden_size", inspect.Parameter.empty),
                ("num_layers", 1),
                *extra,
                ("bias", True),
                ("batch_first", False),
                ("dropout", 0.0),
                ("bidirectional", False),
                *projection,
                ("dtype", None),
            ]
        ]
    )
    for cls, extra, projection in [
        (nn.RNN, [("nonlinearity", "tanh")], []),
        (nn.LSTM, [], [("proj_size", 0)]),
        (nn.GRU, [], []),
    ]
}

# What a module made of its settings and does not read in the form it has: (class, attribute) -> whether that is so. Where
# the settings were changed later, it is stale, and nothing computes with it.
UNREAD: dict[tuple[type, str], Callable[[Any], bool]] = {
    (nn.modules.conv._ConvNd, "_reversed_padding_repeated_twice"): lambda m: m.padding_mode == "zeros",
}

# What nn.Module itself keeps on every instance; the rest of a module's attributes is its configuration.
INTERNAL = frozenset(vars(nn.Module()))


class Leaf(NamedTuple):
    """Source of a constructor call, and the module that it makes, on the meta device."""

    call: str
    twin: nn.Module


class Written(nn.Module):
    """Stands for a module whose constructor call is written already.

    Attributes:
        call: that.
    """

    def __init__(self, call: str, module: nn.Module) -> None:
        super().__init__()
        self.call, self.training = call, module.training
        for table in ("_modules", "_parameters", "_buffers"):
            self.__dict__[table] = getattr(module, table)


def leaf(module: nn.Module, path: str, names: Names) -> Leaf:
    """Return the constructor call of `module`.

    Args:
        module: an instance of a class of torch; it may hold more parameters, buffers and children than its
            class gives it: the caller adds these.
        path: its dotted name, for messages.
        names: collects the imports of the call.

    Raises:
        PruneError: the class is not torch's, is parametrized or hooked, or a fresh instance would differ.
    """
    if isinstance(module, Written):
        return Leaf(module.call, module)
    _refuse_patched(module, path)
    if isinstance(module, (nn.Sequential, nn.ModuleList)):
        return _sequence(module, path, names)
    reason = "its arguments cannot be read off its attributes"
    for arguments in _candidates(module):
        twin, reason = _twin(module, arguments)
        if twin is None:
            continue
        for name in _optional(module, arguments):
            fewer = {key: value for key, value in arguments.items() if key != name}
            smaller, _ = _twin(module, fewer)
            if smaller is not None and _outline(smaller) == _outline(twin):
                arguments, twin = fewer, smaller
        own = _outline(module)
        for name, (shape, _) in _outline(twin).items():
            if name in own and own[name][0] != shape:
                raise PruneError(
                    f"{path}: {type(module).__name__}.{name} has shape {own[name][0]}, but the module's own "
                    f"settings make {shape}: set its attributes to the sizes of its weights"
                )
        return Leaf(_call(module, arguments, path, names), twin)
    raise PruneError(f"{path}: cannot write the constructor call of {type(module).__name__}: {reason}")


def _twin(module: nn.Module, arguments: dict[str, Any]) -> tuple[nn.Module | None, str]:
    """Return a new module with these arguments, or None and why it cannot stand for `module`."""
    try:
        with torch.device("meta"), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what the constructor has to say, it said when `module` was made
            twin = type(module)(**arguments)
    except (TypeError, ValueError, AssertionError, RuntimeError) as error:
        return None, str(error)
    difference = _difference(module, twin)
    return (None, difference) if difference else (twin, "")


def _refuse_patched(module: nn.Module, path: str) -> None:
    if torch.nn.utils.parametrize.is_parametrized(module):
        advice = "bake it in with torch.nn.utils.parametrize.remove_parametrizations"
        raise PruneError(f"{path}: {type(module).__name__} is parametrized: {advice}")
    if module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module):
        raise PruneError(f"{path}: forward hooks and replaced forward methods cannot be written as source: remove them")
    if not type(module).__module__.startswith("torch."):
        raise PruneError(
            f"{path}: {type(module).__module__}.{type(module).__qualname__} is not a class of torch, and the "
            "generated file needs torch alone: trace through the module"
        )


def _sequence(module: nn.Sequential | nn.ModuleList, path: str, names: Names) -> Leaf:
    children = {name: leaf(child, f"{path}.{name}", names) for name, child in module.named_children()}
    calls = [child.call for child in children.values()]
    if list(children) != [str(index) for index in range(len(children))]:
        raise PruneError(f"{path}: the children of a called {type(module).__name__} must be numbered from 0")
    inner = ", ".join(calls) if isinstance(module, nn.Sequential) else f"[{', '.join(calls)}]"
    twins = OrderedDict((name, child.twin) for name, child in children.items())
    twin = nn.Sequential(twins) if isinstance(module, nn.Sequential) else nn.ModuleList(twins.values())
    return Leaf(f"{names.path(public_path(type(module)))}({inner})", twin)


def _is_part(module: nn.Module, name: str) -> bool:
    return name in module._parameters or name in module._buffers or name in module._modules


def _read(module: nn.Module, name: str, default: Any) -> Any:
    """Return the value of constructor argument `name`, as far as the module's attributes tell it."""
    for cls in type(module).__mro__:
        if (cls, name) in READ:
            return READ[cls, name](module)
    return getattr(module, name, default)


def _candidates(module: nn.Module) -> Iterator[dict[str, Any]]:
    """Yield sets of arguments, the shortest to write first: ``3`` for ``(3, 3)``, nothing for defaults."""
    signature = _signature(module)
    variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    exact: dict[str, Any] = {}
    short: dict[str, Any] = {}
    for name, parameter in signature.parameters.items():
        skipped = name in ("device", "dtype") or name.startswith("_")
        if skipped or parameter.kind in variable:
            continue
        value = _as_tuple(_read(module, name, parameter.default))
        if value is inspect.Parameter.empty:
            return
        for arguments, shown in ((exact, value), (short, _collapsed(value))):
            if not _same(shown, parameter.default):
                arguments[name] = shown
    dtypes = [tensor.dtype for tensor in (*module.parameters(), *module.buffers()) if tensor.is_floating_point()]
    if dtypes and dtypes[0] != torch.float32 and "dtype" in signature.parameters:
        exact["dtype"] = short["dtype"] = dtypes[0]
    yield short
    yield exact


def _optional(module: nn.Module, arguments: dict[str, Any]) -> list[str]:
    """Return the names among `arguments` that a call may do without."""
    parameters = _signature(module).parameters
    return [name for name in arguments if name != "dtype" and parameters[name].default is not inspect.Parameter.empty]


def _signature(module: nn.Module) -> inspect.Signature:
    """Return the signature of the constructor, without `self`."""
    cls: Any = type(module)
    return SIGNATURES.get(cls) or _read_signature(cls)


@functools.lru_cache(maxsize=512)
def _read_signature(cls: Any) -> inspect.Signature:
    signature = inspect.signature(cls.__init__)
    return signature.replace(parameters=list(signature.parameters.values())[1:])


def _collapsed(value: Any) -> Any:
    """Return ``n`` for a tuple of equal integers, which most constructors expand again."""
    plain = type(value) is tuple and value and all(type(entry) is int for entry in value)
    return value[0] if plain and len(set(value)) == 1 else value


def _as_tuple(value: Any) -> Any:
    """Return a list of integers as the tuple that constructors are typed for."""
    return tuple(value) if type(value) is list and all(type(entry) is int for entry in value) else value


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, (tuple, list)) and isinstance(b, (tuple, list)):
        return len(a) == len(b) and all(map(_same, a, b))
    if type(a) is not type(b):
        return False
    return a is b or bool(a == b) or (isinstance(a, float) and a != a and b != b)


def _difference(module: nn.Module, twin: nn.Module) -> str:
    """Return where the settings of `module` differ from those of `twin`; an empty string if nowhere."""
    for key, expected in vars(twin).items():
        if key in INTERNAL or _is_opaque(expected) or _is_unread(module, key):
            continue
        found = getattr(module, key, expected)
        if not _same(found, expected):
            return f"its {key} is {found!r}, a new instance has {expected!r}"
    for name, child in twin._modules.items():
        own = module._modules.get(name)
        if (own is None) != (child is None) or type(own) is not type(child):
            return f"its part {name} is a {type(own).__name__}, a new instance has a {type(child).__name__}"
        if own is not None and child is not None and (inner := _difference(own, child)):
            return f"{name}: {inner}"
    return ""


def _is_unread(module: nn.Module, key: str) -> bool:
    """Whether the module computes nothing with this attribute."""
    return any((cls, key) in UNREAD and UNREAD[cls, key](module) for cls in type(module).__mro__)


def _is_opaque(value: Any) -> bool:
    """Return True for caches of tensors, such as the flat weights of an LSTM: not a setting."""
    if isinstance(value, (list, tuple)):
        return any(map(_is_opaque, value))
    return isinstance(value, (torch.Tensor, weakref.ReferenceType))


def _outline(module: nn.Module) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    """Return name -> shape and dtype of parameters and buffers."""
    tensors = [
        *module.named_parameters(remove_duplicate=False),
        *module.named_buffers(remove_duplicate=False),
    ]
    return {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in tensors}


def _call(module: nn.Module, arguments: dict[str, Any], path: str, names: Names) -> str:
    """Return the call with required arguments by position and the others by name."""
    signature = _signature(module)
    first = list(signature.parameters)
    shown = []
    for position, (name, value) in enumerate(arguments.items()):
        text = leaf(value, f"{path}.{name}", names).call if isinstance(value, nn.Module) else literal(value, names)
        parameter = signature.parameters[name]
        by_position = parameter.default is inspect.Parameter.empty and first[position] == name
        if by_position and parameter.kind is not inspect.Parameter.KEYWORD_ONLY:
            shown.append(text)
        else:
            shown.append(f"{name}={text}")
    return f"{names.path(public_path(type(module)))}({', '.join(shown)})"
