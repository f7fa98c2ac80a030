"""What a recorder makes of a call of a module, of a module's tensors, and of its mode."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from fxprune.errors import TraceError
from fxprune.tracing.hooks import hooked, run_hooked
from fxprune.tracing.lowering import is_leaf, lowered_forward, plain_leaf
from fxprune.tracing.patching import call_module, module_attribute
from fxprune.tracing.places import line_running

if TYPE_CHECKING:
    from fxprune.tracing.recorder import Recorder

__all__ = ["ModuleCalls"]


class ModuleCalls:
    """The part of a recorder that model code reaches through modules.

    Attributes:
        scopes: the modules whose code runs, the innermost last.
    """

    def __init__(self, recorder: Recorder) -> None:
        self.recorder, self.names = recorder, recorder.names
        self.scopes: list[nn.Module] = [recorder.root]

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

        return run_hooked(module, name, forward, (args, kwargs), lambda: len(self.recorder.graph.nodes))

    def _forward(self, module: nn.Module, name: str, args: Any, kwargs: Any) -> Any:
        """The forward of a module, without its hooks."""
        if name and is_leaf(module):
            return self.recorder.create_proxy("call_module", name, args, kwargs)
        self.scopes.append(module)
        try:
            lowered = None if "forward" in module.__dict__ else lowered_forward(module)
            return module.forward(*args, **kwargs) if lowered is None else lowered(module, *args, **kwargs)
        finally:
            self.scopes.pop()

    def class_forward(self, forward: Any, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        """The code of a class of torch.nn, called past the module: ``old_forward(x)`` of a wrapped layer, ``conv.forward(x)``.

        Args:
            forward: the function of the class.
        """
        name = self.names.module_names.get(id(module))
        if not name or not _may_be_leaf(module, forward):
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
        if name is None or isinstance(module, nn.modules.batchnorm._BatchNorm):
            # A batch norm's own code is traced as in eval and put back as one module, which knows both modes.
            return stored
        flag = self.recorder.get_attr(f"{name}.training" if name else "training", stored)
        self.recorder.of_training.add(flag.node)
        return flag

    def batch_norm(self, target: Any, args: Any, kwargs: Any) -> tuple[str, Any, Any, Any]:
        """`F.batch_norm` on the statistics of the batch norm whose code is being traced is that module itself."""
        module = self.scopes[-1]
        if not isinstance(module, nn.modules.batchnorm._BatchNorm):
            return "call_function", target, args, kwargs
        bound = dict(zip(("input", "running_mean", "running_var", "weight", "bias"), args, strict=False)) | kwargs
        name = self.names.module_names[id(module)]
        for key in ("running_mean", "running_var", "weight", "bias"):
            found, own = bound.get(key), getattr(module, key)
            if (None if found is None else found.node) is not (None if own is None else own.node):
                raise TraceError(f"the batch norm {name!r} normalises with statistics that are not its own")
        self.recorder.lowered[name] = next(c for c in type(module).__mro__ if c.__module__.startswith("torch.nn."))
        return "call_module", name, (bound["input"],), {}


def _may_be_leaf(module: nn.Module, forward: Any) -> bool:
    """Whether a node that calls the plain module runs this forward of its class, on the module's tensors."""
    tensors = any(isinstance(value, Tensor) for value in module.__dict__.values())
    own = getattr(type(module).forward, "__wrapped__", None) is forward
    return own and not tensors and is_leaf(plain_leaf(module))
