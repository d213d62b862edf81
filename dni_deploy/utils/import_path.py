"""A user's own function, named on a command line as package.module:function."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from typing import Any, cast

from dni_deploy.errors import UsageError, escape_name


def import_function(name: str, returns: str, kind: str = "function") -> Callable[..., Any]:
    """Imports a function. This runs the code of its module, because the user named it.

    Args:
        name: package.module:function; found in the current folder, too, as Python itself would.
        returns: What the function returns, for messages: "a network".
        kind: What the function is called, for messages: "factory".

    Returns:
        The function.

    Raises:
        UsageError: The name has another form, there is no such module or function, the module fails while it is imported, or it
            is not a function.
    """
    module_name, _, attribute = name.partition(":")
    if not module_name or not attribute:
        raise UsageError(f"'{escape_name(name)}' does not have the form package.module:{kind}.")
    folder = os.getcwd()
    is_added = folder not in sys.path and "" not in sys.path
    if is_added:  # an installed command does not look into the current folder by itself
        sys.path.append(folder)
    try:
        function: Any = importlib.import_module(module_name)
        for part in attribute.split("."):
            function = getattr(function, part)
    except AttributeError as error:
        raise UsageError(f"The module '{escape_name(module_name)}' has no '{escape_name(attribute)}'.") from error
    except Exception as error:
        raise UsageError(
            f"The module '{escape_name(module_name)}' cannot be imported: {type(error).__name__}: {escape_name(error)}"
        ) from error
    finally:
        if is_added:
            sys.path.remove(folder)
    if not callable(function):
        raise UsageError(f"'{escape_name(name)}' is a {type(function).__name__}, not a function that returns {returns}.")
    return cast(Callable[..., Any], function)
