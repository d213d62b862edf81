"""Opening several listeners: requested ones listen, unavailable ones are a one-line error, and nothing stays open."""

from __future__ import annotations

import http.client
import io
import sys
import threading
from typing import Any

import pytest

from dni_deploy.control.http import HttpAlphaListener
from dni_deploy.control.open_listeners import ListenerOptions, open_listeners, parse_midi_option
from dni_deploy.errors import BusyError, UnavailableError, UsageError
from tests.dni_deploy.control.listening import RecordedReports, new_shared_alpha, wait_until


def listening() -> set[str]:
    return {thread.name for thread in threading.enumerate() if thread.name.startswith("dni-")}


def test_osc_http_and_lines_set_one_alpha_together() -> None:
    client = pytest.importorskip("pythonosc.udp_client")
    shared_alpha, reports = new_shared_alpha(), RecordedReports()
    with open_listeners(
        shared_alpha, osc=0, http=0, lines=io.StringIO("alpha 0.125\n"), note=reports, report=RecordedReports()
    ) as listeners:
        wait_until(lambda: shared_alpha.read().requested.values[0] == 0.125)
        client.SimpleUDPClient("127.0.0.1", listeners[0].port).send_message("/dni/alpha", 0.25)  # type: ignore[attr-defined]
        wait_until(lambda: shared_alpha.read().requested.values[0] == 0.25)
        connection = http.client.HTTPConnection("127.0.0.1", listeners[1].port)  # type: ignore[attr-defined]
        token = listeners[1].token  # type: ignore[attr-defined]
        assert token in reports.sentences[1]
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        connection.request("PUT", "/alpha", '{"alpha": 0.5}', headers)
        assert connection.getresponse().status == 200
        assert shared_alpha.read().requested.values[0] == 0.5
        assert [listener.accepted_count for listener in listeners] == [1, 1, 1]
        assert len(reports.sentences) == 2
        assert str(listeners[1].port) in reports.sentences[1]  # type: ignore[attr-defined]
    assert not listening()


def test_all_are_closed_when_one_fails() -> None:
    pytest.importorskip("pythonosc")
    with HttpAlphaListener(new_shared_alpha(), 0) as other:
        with pytest.raises(BusyError), open_listeners(new_shared_alpha(), osc=0, http=other.port):
            raise AssertionError("not reached")
        assert listening() == {"dni-http"}


@pytest.mark.parametrize(("package", "extra", "options"), [("pythonosc", "live", {"osc": 0}), ("mido", "midi", {"midi": "1"})])
def test_a_missing_package_names_its_extra(
    monkeypatch: pytest.MonkeyPatch, package: str, extra: str, options: dict[str, int]
) -> None:
    for name in [
        name
        for name in sys.modules
        if name.split(".")[0] == package or name in ("dni_deploy.control.osc", "dni_deploy.control.midi")
    ]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UnavailableError, match=rf"pip install .*\[{extra}\]"), open_listeners(new_shared_alpha(), **options):  # type: ignore[arg-type]
        raise AssertionError("not reached")


def test_a_midi_option_is_parsed_or_refused() -> None:
    assert parse_midi_option("1") == ({1: ""}, None)
    assert parse_midi_option(" 16 @ nano KONTROL ") == ({16: ""}, "nano KONTROL")
    assert parse_midi_option("20=psnr, 21=gan@x") == ({20: "psnr", 21: "gan"}, "x")
    for text in ("", "x", "1@", "1,1", "-1", "1=", "1.5", "99999", "²", "1@ "):
        with pytest.raises(UsageError):
            parse_midi_option(text)


def test_the_note_on_http_names_the_token_unless_none_is_required() -> None:
    for options, is_named in (
        ({}, True),
        ({"http_token": "a-token-of-the-tests"}, True),
        ({"requires_http_token": False}, False),
    ):
        notes = RecordedReports()
        with open_listeners(new_shared_alpha(), http=0, note=notes, **options) as (listener,):  # type: ignore[arg-type]
            token = listener.token  # type: ignore[attr-defined]
            assert token == options.get("http_token", token)
        assert (token is not None) == is_named
        assert ("Authorization: Bearer" in notes.sentences[0]) == is_named
        assert not is_named or token in notes.sentences[0]


@pytest.mark.parametrize("options", [{"http_token": "a-token-of-the-tests"}, {"requires_http_token": False}])
def test_a_token_without_http_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="give --http with it"):
        ListenerOptions(**options)


@pytest.mark.parametrize(
    "options", [{"osc_map": ["/a=alpha"]}, {"osc": 0, "osc_map": "/a=alpha"}, {"osc": "elsewhere"}, {"http": "1:2:3"}]
)
def test_osc_and_http_options_that_cannot_be_used_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        ListenerOptions(**options)


def test_listening_beyond_loopback_is_possible_and_warned_of() -> None:
    client = pytest.importorskip("pythonosc.udp_client")
    shared_alpha, notes = new_shared_alpha(), RecordedReports()
    options = ListenerOptions(osc="0.0.0.0:0", osc_map=["/1/fader1=alpha[0..127]"], http="0.0.0.0:0")
    with open_listeners(shared_alpha, options, note=notes, report=RecordedReports()) as (osc, listener):
        client.SimpleUDPClient("127.0.0.1", osc.port).send_message("/1/fader1", 127)  # type: ignore[attr-defined]
        wait_until(lambda: osc.accepted_count == 1)
        assert shared_alpha.read().requested.values == (1.0, 0.0)
        connection = http.client.HTTPConnection("127.0.0.1", listener.port)  # type: ignore[attr-defined]
        connection.request("GET", "/alpha", headers={"Authorization": f"Bearer {listener.token}"})  # type: ignore[attr-defined]
        assert connection.getresponse().status == 200
    warnings = [sentence for sentence in notes.sentences if sentence.startswith("Warning")]
    assert len(warnings) == 2
    assert "OSC has no password" in warnings[0]
    with (
        pytest.raises(UsageError, match="a token is required"),
        open_listeners(shared_alpha, http="0.0.0.0:0", requires_http_token=False),
    ):
        raise AssertionError("not reached")


def test_http_answers_at_both_loopback_addresses() -> None:
    with open_listeners(new_shared_alpha(), http=0, requires_http_token=False, report=RecordedReports()) as (listener,):
        for host in ("127.0.0.1", "::1"):
            connection = http.client.HTTPConnection(host, listener.port, timeout=5)  # type: ignore[attr-defined]
            try:
                connection.request("GET", "/alpha")
            except OSError:
                assert host == "::1"  # a machine without IPv6
                continue
            assert connection.getresponse().status == 200
            connection.close()
