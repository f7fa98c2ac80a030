"""What a recorder makes of a call of a module, of a module's tensors, and of its mode."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from fxprune import nested
from fxprune.errors import TraceError
from fxprune.tracing.modules.batch_norms import counted_apart, normalises_as_its_base, plain_base
from fxprune.tracing.modules.hooks import Shown, hooked, run_hooked
from fxprune.tracing.modules.lowering import is_leaf, lowered_forward, plain_leaf
from fxprune.tracing.modules.part_calls import PartCalls
from fxprune.tracing.patching import call_module, module_attribute
from fxprune.tracing.places import line_running
from fxprune.tracing.values.proxy import value_of

if TYPE_CHECKING:
    from fxprune.tracing.recorder import Recorder

__all__ = ["ModuleCalls"]


class ModuleCalls:
    """The part of a recorder that model code reaches through modules.

    Attributes:
        scopes: the modules whose code runs, the innermost last.
        parts: what goes into and comes out of them.
        running: the calls that these are of, each the module's name and how many calls of it came before; nodes keep it as
            ``node.meta["calls"]``, which tells code generation what belongs together.
    """

    def __init__(self, recorder: Recorder) -> None:
        self.recorder, self.names = recorder, recorder.names
        self.scopes: list[nn.Module] = [recorder.root]
        self.running: tuple[tuple[str, int], ...] = ()
        self._counts: Counter[str] = Counter()
        self.shown = Shown()
        self.parts = PartCalls()
        self.lowering: set[int] = set()  # batch norms whose code runs, which one node stands for
        self._norms: dict[Any, bool] = {}

    def call(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        """A call of a module by the model's code: one node for a layer of PyTorch, else those of its forward; its hooks are
        recorded around it.
        """
        name = self.names.module_names.get(id(module))
        if name is None:
            return call_module(module, *args, **kwargs)
        if not hooked(module):
            return self._forward(module, name, args, kwargs)

        def forward(*args: Any, **kwargs: Any) -> Any:
            return self._forward(module, name, args, kwargs)

        return run_hooked(module, name, forward, (args, kwargs), self.shown)

    def _forward(self, module: nn.Module, name: str, args: Any, kwargs: Any) -> Any:
        """The forward of a module, without its hooks."""
        own = self._holds_its_own(module)
        if name and own and is_leaf(module):
            return self.recorder.create_proxy("call_module", name, args, kwargs)
        self.scopes.append(module)
        outer = self.running
        self.running = (*outer, (name, self._counts[name]))
        self._counts[name] += 1
        given = self.parts.given(args, kwargs)
        try:
            if own and isinstance(module, nn.modules.batchnorm._BatchNorm) and self._lowers(module, args, kwargs):
                result = self._batch_norm_forward(module, args, kwargs)
                self.parts.note(name, given, result)
                return result
            lowered = None if "forward" in module.__dict__ else lowered_forward(module)
            result = module.forward(*args, **kwargs) if lowered is None else lowered(module, *args, **kwargs)
            self.parts.note(name, given, result)
            return result
        finally:
            self.scopes.pop()
            self.running = outer

    def _holds_its_own(self, module: nn.Module) -> bool:
        """Whether a module has the tensors with which it was recorded: forward may lend it others for a call."""
        known = self.names.tensor_names
        return all(t is None or id(t) in known for table in (module._parameters, module._buffers) for t in table.values())

    def _lowers(self, module: nn.modules.batchnorm._BatchNorm, args: Any, kwargs: Any) -> bool:
        """Whether the class of torch.nn can stand for a batch norm, as others of its class and settings have shown or not."""
        plain = [(k, v) for k, v in module.__dict__.items() if type(v) in (bool, float, str, type(None)) and k != "training"]
        key = (type(module), "forward" in module.__dict__ and id(module), *plain, *map(type, module._modules.values()))
        known = self._norms.get(key)
        if known is None:
            outer, self.recorder.evaluating = self.recorder.evaluating, True
            try:
                known = self._norms[key] = normalises_as_its_base(module, *nested.map(value_of, (args, kwargs)))
            finally:
                self.recorder.evaluating = outer
        return known

    def _batch_norm_forward(self, module: nn.modules.batchnorm._BatchNorm, args: Any, kwargs: Any) -> Any:
        """The code of a batch norm, in which the class of torch.nn takes the place of `F.batch_norm`. It knows both modes, so
        the code may branch on them.
        """
        branched = set(self.recorder.branched)
        self.lowering.add(id(module))
        try:
            with counted_apart(module):
                return module.forward(*args, **kwargs)
        finally:
            self.lowering.discard(id(module))
            self.recorder.branched = branched

    def class_forward(self, forward: Any, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        """The code of a class of torch.nn, called past the module: ``old_forward(x)`` of a wrapped layer, ``conv.forward(x)``.

        Args:
            forward: the function of the class.
        """
        name = self.names.module_names.get(id(module))
        if not name or not self._holds_its_own(module) or not _may_be_leaf(module, forward):
            return forward(module, *args, **kwargs)
        return self.recorder.create_proxy("call_module", name, args, kwargs)

    def attribute(self, module: nn.Module, name: str) -> Any:
        """A part, parameter or buffer of a module; the tensors of the model are proxies."""
        found = module_attribute(module, name)
        if not isinstance(found, Tensor):
            return found
        full = self.names.tensor_names.get(id(found))
        if full is None:
            self._check_of_copy(found)
            return found
        return self.recorder.get_attr(full, found)

    def _check_of_copy(self, tensor: Tensor) -> None:
        """
        Raises:
            TraceError: a tensor of the user's model, where the copy that is recorded should be asked for its own.
        """
        for name, own in self.names.tensors.items():
            if self.recorder.skeleton.origin.get(id(own)) is tensor:
                raise TraceError(
                    f"the model's code reaches {name!r} by another way than from the model itself (a global name, or an "
                    f"object that keeps the model), which a copy does not take along ({line_running()}): reach it from self"
                )

    def training_flag(self, module: nn.Module) -> Any:
        """``module.training``, a node for a module of the model."""
        name, stored = self.names.module_names.get(id(module)), module.__dict__["training"]
        if name is None:
            return stored
        flag = self.recorder.get_attr(f"{name}.training" if name else "training", stored)
        self.recorder.of_training.add(flag.node)
        return flag

    def batch_norm(self, target: Any, args: Any, kwargs: Any) -> tuple[str, Any, Any, Any]:
        """`F.batch_norm` on the statistics of the batch norm whose code is being traced is that module itself."""
        module = self.scopes[-1]
        name = self.names.module_names.get(id(module))
        if id(module) not in self.lowering or not name:
            return "call_function", target, args, kwargs
        base = plain_base(module)
        assert base is not None
        self.recorder.lowered[name] = base
        return "call_module", name, (args[0] if args else kwargs["input"],), {}


def _may_be_leaf(module: nn.Module, forward: Any) -> bool:
    """Whether a node that calls the plain module runs this forward of its class, on the module's tensors."""
    tensors = any(isinstance(value, Tensor) for value in module.__dict__.values())
    own = getattr(type(module).forward, "__wrapped__", None) is forward
    return own and not tensors and is_leaf(plain_leaf(module))
