"""Dotted: a function of the user's own, named on a command line as package.module:function."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from typing import Any

from dni_deploy.errors import UsageError, escape_name


def import_function(name: str, returns: str, kind: str = "function") -> Callable[..., Any]:
    """Import the module and fetch the function; this runs the module's code, because its user named it.

    name          package.module:function; looked for in the current folder too, as Python itself would.
    gives, kind   what it returns and what it is called, for the sentence: "a network", "factory".
    Raises UsageError: another form, no such module or function, a module that fails while it is imported, not a function.
    """
    module_name, _, attribute = name.partition(":")
    if not module_name or not attribute:
        raise UsageError(f"'{escape_name(name)}' does not have the form package.module:{kind}.")
    here = os.getcwd()
    added = here not in sys.path and "" not in sys.path
    if added:  # an installed command does not look into the current folder by itself
        sys.path.append(here)
    try:
        found: Any = importlib.import_module(module_name)
        for part in attribute.split("."):
            found = getattr(found, part)
    except AttributeError as error:
        raise UsageError(f"The module '{escape_name(module_name)}' has no '{escape_name(attribute)}'.") from error
    except Exception as error:
        raise UsageError(
            f"The module '{escape_name(module_name)}' cannot be imported: {type(error).__name__}: {escape_name(error)}"
        ) from error
    finally:
        if added:
            sys.path.remove(here)
    if not callable(found):
        raise UsageError(f"'{escape_name(name)}' is a {type(found).__name__}, not a function that returns {returns}.")
    function: Callable[..., Any] = found
    return function
