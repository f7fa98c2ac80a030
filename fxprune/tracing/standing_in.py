"""Other code for a method, and no word of it to the class that holds it.

To set a special method of `nn.Module` (``__getattr__``, ``__setattr__``) has Python walk all of its subclasses: more than a
millisecond once timm is imported, and as much to put it back, which is what recording a small model takes. The class keeps
its function here, and the function runs other code for a while, which costs next to nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FunctionType
from typing import Any

__all__ = ["as_it_is", "standing_in"]


def _called(*args: Any, _stand_in: Callable[..., Any], **kwargs: Any) -> Any:
    return _stand_in(*args, **kwargs)


class _OfAClass:
    def called(*args: Any, _stand_in: Callable[..., Any], **kwargs: Any) -> Any:
        __class__  # type: ignore[name-defined]  # noqa: B018 -- `super()` needs it: as many outer variables as before
        return _stand_in(*args, **kwargs)


_CODE = {len(code.co_freevars): code for code in (_called.__code__, _OfAClass.called.__code__)}


def as_it_is(function: Any) -> Any:
    """A function that does what `function` does now, whatever stands in for that later."""
    if not isinstance(function, FunctionType):
        return function
    made = FunctionType(function.__code__, function.__globals__, function.__name__, function.__defaults__, function.__closure__)
    made.__kwdefaults__, made.__qualname__ = function.__kwdefaults__, function.__qualname__
    return made


@contextmanager
def standing_in(owner: type, name: str, stand_in: Callable[..., Any]) -> Iterator[None]:
    """Inside, calls of a method of `owner` go to `stand_in`, in all threads.

    >>> with standing_in(nn.Module, "__getattr__", lambda module, name: name):
    ...     nn.ReLU().weight
    'weight'

    Args:
        stand_in: must not call the method itself, which would come back to it: `as_it_is` keeps what it did.
    """
    function = vars(owner)[name]
    code = _CODE.get(len(function.__code__.co_freevars)) if isinstance(function, FunctionType) else None
    if code is None:
        setattr(owner, name, stand_in)
        try:
            yield
        finally:
            setattr(owner, name, function)
        return
    before = function.__code__, function.__kwdefaults__
    # In this order, so that another thread finds at each moment what the code needs.
    function.__kwdefaults__ = {**(before[1] or {}), "_stand_in": stand_in}
    function.__code__ = code
    try:
        yield
    finally:
        function.__code__, function.__kwdefaults__ = before
