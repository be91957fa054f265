"""Refuses a misspelt keyword by name, with the nearest right one: `@known_keywords` above a public function."""

import difflib
import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeVar

Function = TypeVar("Function", bound=Callable)


def known_keywords(function: Function) -> Function:
    """The same function, which refuses keywords that it does not have.

    Raises:
        ValueError: "Expected keywords of {function} ... Received: ...", when the function is called.
    """
    names = [name for name, parameter in inspect.signature(function).parameters.items() if parameter.kind.value != 2]

    @functools.wraps(function)
    def checked(*args: Any, **kwargs: Any) -> Any:
        for name, value in kwargs.items():
            if name not in names:
                nearest = difflib.get_close_matches(name, names, 1, 0.5)
                advice = f". Did you mean {nearest[0]}?" if nearest else ""
                raise ValueError(
                    f"Expected keywords of {function.__name__} among {tuple(names)}. "
                    f"Received: {name}={value!r:.60}{advice}"
                )
        return function(*args, **kwargs)

    return checked  # type: ignore[return-value]
