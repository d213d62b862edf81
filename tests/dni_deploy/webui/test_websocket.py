"""The WebSocket: valid and invalid messages; clients that never read, flood, or disconnect."""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import struct
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

pytest.importorskip("uvicorn", reason="the page's server needs the extra `serve`")

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from dni_deploy.session.session import Session
from dni_deploy.utils.hardware import measure_resident_bytes
from dni_deploy.webui.guard import PageLimits
from dni_deploy.webui.message import FLAG_SET_BY_PAGE
from tests.dni_deploy.webui.frame_message import unpack_message
from tests.dni_deploy.webui.page_server import TOKEN, MovingSource, PageFixture, serve_page


@pytest.fixture(scope="module")
def live() -> Iterator[PageFixture]:
    with serve_page(3, MovingSource()) as opened:
        yield opened


def send_request(page: ClientConnection, **fields: Any) -> None:
    page.send(json.dumps(fields))


def wait_until(condition: Callable[[], object], seconds: float = 6.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)


def frame(page: ClientConnection, timeout: float = 5.0) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Returns the next frame; other messages are skipped."""
    while True:
        data = page.recv(timeout)
        if isinstance(data, bytes):
            return unpack_message(data)


def read_field(page: ClientConnection, key: str, timeout: float = 5.0) -> Any:
    while True:
        data = page.recv(timeout)
        if isinstance(data, str) and key in (message := json.loads(data)):
            return message[key]


def works(live: PageFixture) -> bool:
    with connect(live.frames) as page:
        send_request(page, next=True)
        return frame(page)[0]["members"] == len(live.shared_alpha.members)


def test_a_page_gets_one_frame_for_each_request(live: PageFixture) -> None:
    with connect(live.frames, origin=live.origin) as page:  # type: ignore[arg-type]
        hello = read_field(page, "hello")
        assert hello["members"] == ["bright", "dark", "middle"]
        assert set(hello["plane"]) == {"bright", "dark", "middle"}
        send_request(page, next=True)
        first, jpegs = frame(page)
        assert set(jpegs) == {"blend"}
        assert jpegs["blend"][:2] == b"\xff\xd8"
        with pytest.raises(TimeoutError):
            frame(page, 0.2)
        send_request(page, next=True)
        send_request(page, next=True)
        second, third = frame(page)[0], frame(page)[0]
        assert first["sequence"] < second["sequence"] < third["sequence"]
        assert first["frame"] < third["frame"]


def test_every_frame_has_its_alpha_and_latest_request_id(live: PageFixture) -> None:
    with connect(live.frames) as page:
        for request_id, request in enumerate(
            ({"alpha": [0.5, 0.25, 0.25]}, {"point": [0.5, 1.0]}, {"share": {"member": "dark", "value": 1.0}}), 1
        ):
            send_request(page, request_id=request_id, **request)
            send_request(page, next=True)
            fields, _ = frame(page)
            while fields["request_id"] < request_id:
                send_request(page, next=True)
                fields, _ = frame(page)
            assert fields["flags"] & FLAG_SET_BY_PAGE
            assert re.fullmatch(r"page \d{1,4}", live.shared_alpha.state.source)  # a number, and no address in memory
            assert fields["shares"] == ((0.5, 0.25, 0.25), (0.0, 0.0, 1.0), (0.0, 1.0, 0.0))[request_id - 1]
        send_request(page, request_id=1, alpha=[1.0, 0.0, 0.0])  # late: an older request than the newest
        send_request(page, next=True)
        frame(page)
        assert live.shared_alpha.state.requested.values == (0.0, 1.0, 0.0)
        live.shared_alpha.set_alpha([0.0, 0.0, 1.0], "osc")
        fields = {"shares": None}
        while fields["shares"] != (0.0, 0.0, 1.0):
            send_request(page, next=True)
            fields, _ = frame(page)
        assert not fields["flags"] & FLAG_SET_BY_PAGE


@pytest.mark.parametrize(
    "text",
    ['{"alpha": NaN}', '{"alpha": [1e999, 0, 0]}', '{"alpha": [2, -1, 0]}', '{"alpha": "nobody=1"}', '{"alpha": {"bright": 1e400}}',
     '{"point": [NaN, 0]}', '{"share": {"member": "nobody", "value": 1}}', "hello", "[" * 1000, '{"views": ["secret"]}'],
)  # fmt: skip
def test_a_malformed_request_gets_an_error_and_changes_nothing(live: PageFixture, text: str) -> None:
    before = live.shared_alpha.state
    with connect(live.frames) as page:
        page.send(text)
        problem = read_field(page, "problem")
        assert 10 < len(problem) < 300
        assert "/" not in problem.replace("and/or", "")
        assert live.shared_alpha.state == before
        send_request(page, next=True)
        assert frame(page)


def closed(page: ClientConnection, seconds: float = 5.0) -> int | None:
    """Returns the close code that the server sent."""
    end = time.monotonic() + seconds
    with contextlib.suppress(ConnectionClosed):
        while time.monotonic() < end:
            page.recv(end - time.monotonic())
    return page.close_code


def test_an_invalid_message_closes_only_its_own_connection(live: PageFixture) -> None:
    with connect(live.frames) as other, connect(live.frames) as page:
        page.send(b"\x00\x01")
        assert closed(page) == 1003
        with connect(live.frames) as page:
            page.send('{"alpha": "' + "x" * (1 << 16) + '"}')
            assert closed(page) == 1009
        with connect(live.frames) as page:
            with contextlib.suppress(ConnectionClosed):  # the server may close before the last fragment is sent
                page.send(["[" * 40_000, "[" * 40_000])
            assert closed(page) == 1009
        with connect(live.frames) as page:
            with contextlib.suppress(ConnectionClosed):
                for _ in range(60):
                    page.send("nonsense")
            assert closed(page) == 1008
        send_request(other, next=True)
        assert frame(other)


class Raw:
    """A hand-written WebSocket client, for frames that a library would not send."""

    def __init__(self, live: PageFixture) -> None:
        self.socket = socket.create_connection(("127.0.0.1", live.page.port), 5)
        self.socket.sendall(
            f"GET /frames?token={TOKEN} HTTP/1.1\r\nHost: 127.0.0.1:{live.page.port}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n".encode()
        )
        answer = b""
        while b"\r\n\r\n" not in answer:
            answer += self.socket.recv(4096)
        assert b" 101 " in answer
        assert b"permessage-deflate" not in answer
        self.rest = answer.partition(b"\r\n\r\n")[2]

    def send(self, first: int, payload: bytes, masked: bool = True) -> None:
        size = len(payload)
        length = bytes([size | 0x80 * masked]) if size < 126 else bytes([126 | 0x80 * masked]) + struct.pack(">H", size)
        mask = os.urandom(4) if masked else b""
        body = bytes(value ^ mask[index % 4] for index, value in enumerate(payload)) if masked else payload
        self.socket.sendall(bytes([first]) + length + mask + body)

    def code(self, seconds: float = 5.0) -> int:
        """Returns the close code, or 0 if the connection ended without one."""
        self.socket.settimeout(seconds)
        data = self.rest
        try:
            while part := self.socket.recv(65536):
                data += part
        except ConnectionResetError:
            pass
        index = 0
        while index + 2 <= len(data):
            size, head = data[index + 1] & 127, 2
            if size == 126:
                size, head = struct.unpack(">H", data[index + 2 : index + 4])[0], 4
            if data[index] & 15 == 8:
                if size == 0:
                    return 1005
                return int(struct.unpack(">H", data[index + head : index + head + 2])[0])
            index += head + size
        return 0


@pytest.mark.parametrize(
    ("first", "payload", "masked", "code"),
    [
        (0x81, b"\xff\xfe", True, 1007),
        (0x83, b"", True, 1002),
        (0xC1, b"{}", True, 1002),
        (0x81, b"{}", False, 1002),
        (0x89, b"x" * 126, True, 1002),
        (0x80, b"{}", True, 1002),
        (0x88, b"\x03", True, 1002),
        (0x88, b"", True, 1005),
    ],
)
def test_frames_that_break_the_protocol_end_the_connection(
    live: PageFixture, first: int, payload: bytes, masked: bool, code: int
) -> None:
    raw = Raw(live)
    raw.send(first, payload, masked)
    assert raw.code() == code
    raw.socket.close()
    assert works(live)


def test_the_last_alpha_of_a_flood_wins_with_little_memory(live: PageFixture) -> None:
    before = measure_resident_bytes()
    with connect(live.frames) as page:
        for number in range(20_000):
            coefficient = (number % 1000) / 1000
            page.send(f'{{"request_id": {number + 1}, "alpha": [{coefficient}, {1 - coefficient:.3f}, 0.0]}}')
        send_request(page, next=True)
        while frame(page)[0]["request_id"] < 20_000:
            send_request(page, next=True)
    assert live.shared_alpha.state.requested.values == (0.999, 0.001, 0.0)
    after = measure_resident_bytes()
    if before is not None and after is not None:
        assert after - before < 20e6  # a queue of 20,000 messages with a frame each would be far more
    assert works(live)


def test_a_flood_of_pings_and_requests_is_served(live: PageFixture) -> None:
    raw = Raw(live)
    for _ in range(2000):
        raw.send(0x89, b"ping")
        raw.send(0x81, b'{"next":true}')
    raw.socket.close()
    assert works(live)
    wait_until(lambda: live.state.client_count == 0)


def test_a_client_that_never_reads_is_disconnected() -> None:
    limits = PageLimits(send_timeout_s=0.5, ping_interval_s=0.3, pong_timeout_s=0.4)
    noise = bytes(range(256)) * (1280 * 720 * 3 // 256)
    import numpy as np

    noise_frame = np.random.default_rng(0).permutation(np.frombuffer(noise, np.uint8)).reshape(720, 1280, 3)
    with serve_page(2, MovingSource(200, noise_frame), limits) as live:
        raw = Raw(live)
        raw.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        started = time.monotonic()
        try:
            while live.state.client_count and time.monotonic() - started < 8:
                raw.send(0x81, b'{"next":true}')
                time.sleep(0.01)
        except OSError:
            pass  # disconnected
        wait_until(lambda: live.state.client_count == 0)
        assert time.monotonic() - started < 6
        assert works(live)
        raw.socket.close()


def test_half_open_and_dropped_clients_free_their_connection() -> None:
    with serve_page(2, limits=PageLimits(ping_interval_s=0.2, pong_timeout_s=0.3)) as live:
        silent = Raw(live)  # answers no ping
        wait_until(lambda: live.state.client_count == 1)
        wait_until(lambda: live.state.client_count == 0, 3.0)
        silent.socket.close()
        dropped = Raw(live)
        dropped.send(0x81, b'{"next":true}')
        dropped.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        dropped.socket.close()  # a reset in the middle of a frame
        wait_until(lambda: live.state.client_count == 0)
        assert works(live)


def test_a_client_over_the_limit_is_refused() -> None:
    with serve_page(2, limits=PageLimits(max_clients=2)) as live:
        with connect(live.frames) as first_client, connect(live.frames):
            read_field(first_client, "hello")
            wait_until(lambda: live.state.client_count == 2)
            with connect(live.frames) as third:
                assert closed(third) == 1013
        wait_until(lambda: live.state.client_count == 0)
        assert works(live)


def test_a_failed_renderer_ends_the_connection_with_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    with serve_page(2, MovingSource()) as live:
        monkeypatch.setattr(Session, "render", lambda session, frame: 1 / 0)
        with connect(live.frames) as page:
            send_request(page, next=True)
            assert closed(page) == 1011
    assert isinstance(live.renderer.failure, ZeroDivisionError)


def test_shutdown_is_quick_and_sends_a_close_code() -> None:
    with contextlib.ExitStack() as stack:
        live = stack.enter_context(serve_page(2, MovingSource()))
        pages = [stack.enter_context(connect(live.frames)) for _ in range(3)]
        raw = Raw(live)
        for page in pages:
            send_request(page, next=True)
            frame(page)
        started = time.monotonic()
        live.page.stop()
        assert time.monotonic() - started < 2.5
        assert [closed(page) for page in pages] == [1012] * 3
        raw.socket.close()
        with pytest.raises(OSError, match=r".*"):
            socket.create_connection(("127.0.0.1", live.page.port), 0.5)
