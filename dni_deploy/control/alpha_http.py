"""The HTTP contract of /alpha, which every server of this project follows: bodies, answers and errors. Needs no web framework.

GET /alpha                                                  the alpha, as an object
PUT /alpha   {"alpha": 0.4}                                 two members: the first one's share
             {"alpha": {"gan": 0.7}}                        by name; the one member that is left out takes the rest
             {"alpha": [0.3, 0.7]}                          one share per member
             {"plane": [0.3, 0.7]}                          a point of the control plane
             {"controls": {"sigma": 0.1}}                   numbers that the network takes beside the image
"""

from __future__ import annotations

import re
from functools import partial
from typing import Any

from dni_deploy.control.message_handler import AlphaMessageHandler
from dni_deploy.control.shared_alpha import AlphaState
from dni_deploy.errors import DniError, UsageError
from dni_deploy.utils.text_file import load_json

ALPHA_PATH = "/alpha"
ALPHA_HTTP_SCHEMA_VERSION = 2
JSON_CONTENT_TYPE = "application/json"
HTTP_SOURCE = "HTTP"
"""Who set the alpha, where it came by HTTP."""

DECIMAL_COMMA_PATTERN = re.compile(rb":\s*0,[0-9]+\s*[,}]")
BODY_MESSAGE = (
    'The body is an object with one key, such as {"alpha": 0.5}, {"alpha": {"gan": 0.7}}, {"plane": [0.3, 0.7]} or '
    '{"controls": {"sigma": 0.1}}.'
)


def set_alpha_from_body(handler: AlphaMessageHandler, body: bytes) -> None:
    """Sets alpha as the body of a PUT says.

    Raises:
        UsageError: The body is not what the contract asks for, or has a point where there is no control plane.
        CoefficientsError: The alpha cannot be used with this family.
    """
    try:
        request = load_json(body.decode("utf-8"))
    except UnicodeDecodeError:
        raise UsageError("The body is not UTF-8 text.") from None
    except UsageError as error:
        advice = " A decimal fraction has a point: 0.4." if DECIMAL_COMMA_PATTERN.search(body) else ""
        raise UsageError(f"The body cannot be read: {error}{advice}") from None
    if not isinstance(request, dict) or len(request) != 1 or not request.keys() <= {"alpha", "plane", "controls"}:
        raise UsageError(BODY_MESSAGE)
    if "controls" in request:
        controls = request["controls"]
        if not isinstance(controls, dict) or not all(type(value) in (int, float) for value in controls.values()):
            raise UsageError('"controls" is an object of numbers by name.')
        handler.shared_alpha.set_controls(controls, handler.source)
    elif "plane" in request:
        point = request["plane"]
        if not isinstance(point, list) or len(point) != 2:
            raise UsageError('"plane" is a list of two numbers, x and y.')
        handler.set_point(*point)
    else:
        alpha = request["alpha"]
        if isinstance(alpha, bool) or not isinstance(alpha, int | float | dict | list):
            raise UsageError('"alpha" is a number, an object of shares by name, or a list of one share per member.')
        handler.set_alpha(alpha)


def put_alpha(handler: AlphaMessageHandler, body: bytes) -> tuple[int, dict[str, Any]]:
    """Carries out a PUT.

    Returns:
        The HTTP status, and the object to answer with: the alpha, or the error. Alpha is as it was after an error.
    """
    error = handler.handle_safely(partial(set_alpha_from_body, handler, body))
    if error is None:
        return 200, state_to_json(handler.shared_alpha.state)
    return 500 if type(error) is DniError else 400, error_to_json(error)


def state_to_json(state: AlphaState) -> dict[str, Any]:
    """Returns the answer to a GET or a PUT.

    Returns:
        An object with `sequence` (number of changes so far), `alpha` (as of the newest frame), `wanted` (differs while a slew
        limit is on the way there), `source` (who set it) and, where the network has any, `controls`.
    """
    alpha, wanted = (dict(zip(point.members, point.values, strict=True)) for point in (state.coefficients, state.requested))
    fields = {"sequence": state.sequence, "alpha": alpha, "wanted": wanted, "source": state.source}
    controls = {"controls": dict(state.controls)} if state.controls else {}
    return {"schema": ALPHA_HTTP_SCHEMA_VERSION, **fields, **controls}


def error_to_json(error: DniError) -> dict[str, Any]:
    """Returns the answer to a request that was refused or failed."""
    fields = {"kind": error.kind, "message": str(error), "exit_code": error.exit_code}
    return {"schema": ALPHA_HTTP_SCHEMA_VERSION, "error": fields}
