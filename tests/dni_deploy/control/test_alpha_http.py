"""Request and response bodies of the HTTP API without a server; tests/end_to_end/test_alpha_http.py uses one."""

from __future__ import annotations

import pytest

from dni_deploy.alpha.coefficients import Coefficients
from dni_deploy.alpha.plane import ControlPlane
from dni_deploy.control.alpha_http import error_to_json, put_alpha, set_alpha_from_body, state_to_json
from dni_deploy.control.message_handler import AlphaMessageHandler
from dni_deploy.control.shared_alpha import AlphaState, SharedAlpha
from dni_deploy.errors import CoefficientsError, UsageError
from tests.dni_deploy.control.listening import FOUR, TWO, RecordedReports, new_shared_alpha


def make_handler(members: tuple[str, ...] = TWO) -> AlphaMessageHandler:
    plane = ControlPlane.default(members) if len(members) > 2 else None
    return AlphaMessageHandler(new_shared_alpha(members), "HTTP", plane, RecordedReports())


def test_a_body_names_alpha_or_a_point() -> None:
    handler = make_handler(FOUR)
    set_alpha_from_body(handler, b'{"alpha": {"m": 0.5, "f": 0.5}}')
    assert handler.shared_alpha.state.requested.values == (0.5, 0.5, 0, 0)
    set_alpha_from_body(handler, b'{"plane": [0.25, 0.5]}')
    assert handler.shared_alpha.state.requested.values == (0.375, 0.125, 0.375, 0.125)


@pytest.mark.parametrize(
    ("body", "kind", "message"),
    [
        (b"\xff", UsageError, "not UTF-8"),
        (b"{", UsageError, "cannot be read: it is not JSON"),
        (b'{"alpha": 1, "alpha": 1}', UsageError, "twice"),
        (b"{}", UsageError, "object with one key"),
        (b'{"alpha": 1, "plane": [0, 0]}', UsageError, "object with one key"),
        (b'{"alpha": "0.5"}', UsageError, "number, an object of shares by name, or a list"),
        (b'{"alpha": false}', UsageError, "number, an object of shares by name, or a list"),
        (b'{"plane": [1, 2, 3]}', UsageError, "list of two numbers"),
        (b'{"plane": [1, 2]}', UsageError, "no plane"),
        (b'{"alpha": 2}', CoefficientsError, "2"),
    ],
)
def test_the_error_says_what_a_body_should_be(body: bytes, kind: type[UsageError], message: str) -> None:
    handler = make_handler()
    with pytest.raises(kind, match=message):
        set_alpha_from_body(handler, body)
    assert put_alpha(handler, body)[0] == 400
    assert (handler.shared_alpha.state.sequence, handler.refused_count) == (0, 1)


def test_an_error_of_a_subscriber_is_a_500_without_its_text() -> None:
    handler = make_handler()

    def fail(state: AlphaState) -> None:
        raise KeyError("secret")

    handler.shared_alpha.subscribe(fail)
    status, fields = put_alpha(handler, b'{"alpha": 0.5}')
    assert (status, fields["error"]["kind"], fields["error"]["exit_code"]) == (500, "DniError", 1)
    assert "secret" not in str(fields)


def test_wanted_differs_from_alpha_while_slewing() -> None:
    shared_alpha = SharedAlpha(TWO, Coefficients.one_hot("psnr", TWO), slew=1.0, clock=lambda: 0.0)
    shared_alpha.read(0.0)
    shared_alpha.set_alpha(0.0, "HTTP", now=0.0)
    shared_alpha.read(0.25)
    assert state_to_json(shared_alpha.state) == {
        "schema": 2, "sequence": 1, "alpha": {"psnr": 0.75, "gan": 0.25}, "wanted": {"psnr": 0.0, "gan": 1.0}, "source": "HTTP"
    }  # fmt: skip


def test_an_error_is_an_object_as_on_the_command_line() -> None:
    fields = {"kind": "CoefficientsError", "message": "It does not fit.", "exit_code": 2}
    assert error_to_json(CoefficientsError("It does not fit.")) == {"schema": 2, "error": fields}
