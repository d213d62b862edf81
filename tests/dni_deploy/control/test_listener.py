"""The base class of the listeners: starting, stopping and binding a port."""

from __future__ import annotations

import errno
import logging
import socket
import threading
from typing import Any

import pytest

from dni_deploy.control import listener as listener_module
from dni_deploy.control.listener import AlphaListener, bind_socket
from dni_deploy.errors import BusyError, UnavailableError, UsageError
from tests.dni_deploy.control.listening import RecordedReports, new_shared_alpha


class CountingListener(AlphaListener):
    """Counts the calls of the base class; its thread refuses two messages and waits."""

    source = "test"

    def __init__(self, reports: RecordedReports, fails: bool = False) -> None:
        super().__init__(new_shared_alpha(), report=reports)
        self.fails, self.calls, self.ready = fails, list[str](), threading.Event()

    def _open_input(self) -> None:
        self.calls.append("open")
        if self.fails:
            raise UnavailableError("there is no such device.")

    def _run(self) -> None:
        for sentence in ("one", "two"):
            self.handler.count_refusal(sentence)
        self.ready.set()
        self._stopping.wait()

    def _wake_thread(self) -> None:
        self.calls.append("wake")

    def _close_input(self) -> None:
        self.calls.append("close")


def test_a_listener_opens_runs_and_closes_once_and_again(caplog: pytest.LogCaptureFixture) -> None:
    reports = RecordedReports()
    listener = CountingListener(reports)
    with caplog.at_level(logging.DEBUG, "dni_deploy.control.listener"):
        for _ in range(2):
            with listener:
                listener.start()  # does nothing
                assert listener.ready.wait(10)
                assert "dni-test" in {thread.name for thread in threading.enumerate()}
            listener.close()  # does nothing
            listener.ready.clear()
    assert listener.calls == ["open", "wake", "close"] * 2
    assert "dni-test" not in {thread.name for thread in threading.enumerate()}
    assert (listener.accepted_count, listener.refused_count) == (0, 4)
    assert "2 messages by test were refused" in reports.sentences[1]
    assert [record.levelname for record in caplog.records] == ["DEBUG"] * 4


def test_a_listener_that_cannot_open_starts_no_thread() -> None:
    listener = CountingListener(RecordedReports(), fails=True)
    with pytest.raises(UnavailableError, match="no such device"):
        listener.start()
    listener.close()
    assert listener.calls == ["open"]


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
def test_a_port_in_use_is_busy_and_is_free_after_it(kind: socket.SocketKind) -> None:
    with bind_socket("127.0.0.1", 0, kind, "OSC") as bound:
        if kind == socket.SOCK_STREAM:
            bound.listen()
        port = bound.getsockname()[1]
        with pytest.raises(BusyError, match=f"OSC cannot listen on 127.0.0.1 port {port}: another program has it"):
            bind_socket("127.0.0.1", port, kind, "OSC")
    bind_socket("127.0.0.1", port, kind, "OSC").close()


@pytest.mark.parametrize(
    ("host", "port", "message"),
    [
        ("127.0.0.1", -1, "not a port"),
        ("127.0.0.1", 65_536, "not a port"),
        ("no.such.host.invalid", 0, "no such address"),
        ("x" * 300, 0, "no such address"),
        ("192.0.2.1", 0, "not an address of this machine"),  # reserved for documentation
    ],
)
def test_an_address_that_does_not_exist_is_a_usage_error(host: str, port: int, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        bind_socket(host, port, socket.SOCK_STREAM, "HTTP")


@pytest.mark.parametrize(("number", "kind"), [("EACCES", UsageError), ("ENOBUFS", UnavailableError)])
def test_a_refused_bind_is_a_one_line_error(monkeypatch: pytest.MonkeyPatch, number: str, kind: type[Exception]) -> None:
    import errno

    class RefusingSocket(socket.socket):
        def bind(self, address: object) -> None:
            raise OSError(getattr(errno, number), "refused")

    monkeypatch.setattr(socket, "socket", RefusingSocket)
    with pytest.raises(kind, match="HTTP cannot listen on"):
        bind_socket("127.0.0.1", 0, socket.SOCK_STREAM, "HTTP")


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
def test_windows_is_asked_for_the_port_alone(kind: socket.SocketKind, monkeypatch: pytest.MonkeyPatch) -> None:
    options: list[tuple[int, ...]] = []

    class Socket(socket.socket):
        def setsockopt(self, *arguments: Any) -> None:
            options.append(arguments)

        def bind(self, address: Any) -> None:
            raise OSError(errno.EACCES, "access forbidden")  # what Windows says of a port that another program has alone

    monkeypatch.setattr(listener_module, "EXCLUSIVE_OPTION", -5)
    monkeypatch.setattr(listener_module.socket, "socket", Socket)
    with pytest.raises(BusyError, match="another program has it"):
        bind_socket("127.0.0.1", 8000, kind, "OSC")
    assert options == [(socket.SOL_SOCKET, -5, 1)]
