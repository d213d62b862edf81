"""What a network takes beside the image, set from outside: lines, HTTP, OSC and MIDI."""

from __future__ import annotations

import pytest

from dni_deploy.alpha.coefficients import Coefficients
from dni_deploy.control.alpha_http import put_alpha, state_to_json
from dni_deploy.control.frame_alpha import open_frame_alpha
from dni_deploy.control.message_handler import AlphaMessageHandler
from dni_deploy.control.shared_alpha import AlphaState, SharedAlpha
from dni_deploy.errors import CoefficientsError, UsageError
from dni_deploy.network_controls import Control
from tests.dni_deploy.control.listening import TWO, RecordedReports, wait_until

SIGMA, STEP = Control("sigma", 0.0, 0.5, 0.125), Control("step", 0.0, 10.0, 4.0)


def make_shared_alpha(slew: float | None = None) -> SharedAlpha:
    return SharedAlpha(TWO, Coefficients.one_hot(TWO[0], TWO), slew=slew, controls=(SIGMA, STEP))


def make_handler(source: str = "stdin") -> AlphaMessageHandler:
    return AlphaMessageHandler(make_shared_alpha(), source, None, RecordedReports())


def test_control_is_a_change_like_one_of_alpha() -> None:
    shared_alpha, seen = make_shared_alpha(slew=0.5), list[AlphaState]()
    shared_alpha.subscribe(seen.append)
    assert shared_alpha.state.controls == {"sigma": 0.125, "step": 4.0}
    assert shared_alpha.set_controls({"sigma": 0.25}, "page 1") == 1
    shared_alpha.set_alpha({"gan": 1.0})
    assert [(state.sequence, dict(state.controls), state.source) for state in seen] == [
        (1, {"sigma": 0.25, "step": 4.0}, "page 1"),
        (2, {"sigma": 0.25, "step": 4.0}, ""),
    ]
    assert shared_alpha.state.coefficients.values == (1.0, 0.0)  # alpha is on its way, the control is there
    for values in ({"sigma": 0.6}, {"gamma": 1}, {"step": 5, "sigma": "loud"}):
        with pytest.raises(UsageError):
            shared_alpha.set_controls(values)
    assert shared_alpha.state.sequence == 2


def test_line() -> None:
    handler = make_handler()
    handler.set_from_line("sigma 0.375")
    handler.set_from_line("gan 0.25")
    assert handler.shared_alpha.state.controls["sigma"] == 0.375
    assert handler.shared_alpha.state.requested.values == (0.75, 0.25)
    with pytest.raises(UsageError, match=r"sigma is 0\.6, outside its range 0\.\.0\.5"):
        handler.set_from_line("sigma 0.6")
    with pytest.raises(CoefficientsError):
        handler.set_from_line("gamma 0.6")


def test_http() -> None:
    handler = make_handler("HTTP")
    status, answer = put_alpha(handler, b'{"controls": {"sigma": 0.5, "step": 3}}')
    assert (status, answer["controls"], answer["source"]) == (200, {"sigma": 0.5, "step": 3.0}, "HTTP")
    assert state_to_json(handler.shared_alpha.state)["alpha"] == {"psnr": 1.0, "gan": 0.0}
    for body in (
        b'{"controls": {"sigma": "0.5"}}',
        b'{"controls": [1]}',
        b'{"controls": {"sigma": 9}}',
        b'{"controls": {"x": 1}}',
    ):
        assert put_alpha(handler, body)[0] == 400
    assert "controls" not in state_to_json(SharedAlpha(TWO, Coefficients.one_hot(TWO[0], TWO)).state)


def test_osc() -> None:
    pytest.importorskip("pythonosc")
    from pythonosc.udp_client import SimpleUDPClient

    from dni_deploy.control.osc import OscAlphaListener

    shared_alpha, reports = make_shared_alpha(), RecordedReports()
    with OscAlphaListener(shared_alpha, 0, mappings=["/1/fader2=control:sigma[0..127]"], report=reports) as listener:
        client = SimpleUDPClient("127.0.0.1", listener.port)
        client.send_message("/dni/control/step", 7)
        wait_until(lambda: shared_alpha.state.controls["step"] == 7.0)
        client.send_message("/1/fader2", 127)
        wait_until(lambda: shared_alpha.state.controls["sigma"] == 0.5)
        client.send_message("/1/fader2", 140)
        wait_until(lambda: len(reports.sentences) == 1)
        assert "was taken as 127" in reports.sentences[0]
        client.send_message("/dni/control/step", 11)
        wait_until(lambda: listener.handler.refused_count == 1)
    for mapping in ("/a=control", "/a=control:gamma", "/a=plane:sigma"):
        with pytest.raises(UsageError):
            OscAlphaListener(shared_alpha, 0, mappings=[mapping])


def test_midi() -> None:
    mido = pytest.importorskip("mido")
    from dni_deploy.control.midi import ControlChangeHandler

    handler = make_handler("MIDI")
    knobs = ControlChangeHandler(handler, {20: "sigma", 1: ""})
    knobs.handle_message(mido.Message("control_change", control=20, value=127))
    knobs.handle_message(mido.Message("control_change", control=1, value=0))
    assert handler.shared_alpha.state.controls["sigma"] == 0.5
    assert handler.shared_alpha.state.requested.values == (0.0, 1.0)
    with pytest.raises(UsageError, match="MIDI controller 3"):
        ControlChangeHandler(handler, {3: "gamma"})


def test_stream() -> None:
    with open_frame_alpha(TWO, 0.5, controls=(SIGMA, STEP)) as constant:
        assert constant.read_controls() == {}
    shared_alpha = make_shared_alpha()
    with open_frame_alpha(TWO, shared_alpha) as live:
        shared_alpha.set_controls({"step": 1})
        assert live.read_controls() == {"sigma": 0.125, "step": 1.0}
