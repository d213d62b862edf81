"""dni-deploy serve: the whole command, its one line of output, its options, and how it ends."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("uvicorn", reason="the page's server needs the extra `serve`")

from websockets.sync.client import connect

from dni_deploy.alpha.log import AlphaLog
from dni_deploy.api import serve as serve_module
from dni_deploy.control.open_listeners import ListenerOptions
from dni_deploy.errors import BusyError, LimitError, UsageError
from dni_deploy.webui import server
from tests.support.frame_session import Dimmer, opener

ROOT = Path(__file__).parents[3]


class Bundle:
    """The attributes of a bundle that the command reads."""

    members = ("bright", "dark")
    from dni_deploy.signature import Signature

    signature = Signature(radius=0)
    slider = None
    path = Path("sr.dni")
    digest = "digest"


@pytest.fixture
def bundle(monkeypatch: pytest.MonkeyPatch) -> list[Dimmer]:
    """Makes any path a bundle of two members; returns the engines that were opened."""
    engines: list[Dimmer] = []

    def open_session(bundle: Any, options: Any = None, **keywords: Any) -> Any:
        engines.append(Dimmer((1.0, 0.2)))
        return opener(engines[-1], Bundle.members)(bundle, options, **keywords)

    monkeypatch.setattr(serve_module, "open_session", open_session)
    monkeypatch.setattr(serve_module.Bundle, "open", lambda path: Bundle)
    return engines


def served(**options: Any) -> serve_module.ServeStatus:
    """Returns the status reported once the page answers, and stops the server."""
    statuses: list[serve_module.ServeStatus] = []

    def started(serving: serve_module.ServeStatus, page: server.PageServer) -> None:
        statuses.append(serving)
        page.stop()

    serve_module.serve("sr.dni", port=0, on_started=started, **options)
    return statuses[0]


def test_serve_runs_until_stopped_and_closes_everything(bundle: list[Dimmer]) -> None:
    statuses = []

    def started(serving: serve_module.ServeStatus, page: server.PageServer) -> None:
        statuses.append(serving)
        page.stop()

    report = serve_module.serve(
        "sr.dni", port=0, alpha="bright=0.25,dark=0.75", preview=serve_module.PreviewOptions(size="64x48"), on_started=started
    )
    assert report.frames == 0
    assert statuses[0].alpha == {"bright": 0.25, "dark": 0.75}
    assert statuses[0].url.startswith("http://127.0.0.1:")
    assert len(statuses[0].url.partition("token=")[2]) >= 43  # 256 bits
    assert statuses[0].warning == ""
    assert [engine.closed for engine in bundle] == [1]


def test_every_frame_that_is_shown_is_in_the_alpha_log(bundle: list[Dimmer], tmp_path: Path) -> None:
    log = tmp_path / "show.jsonl"

    def started(serving: serve_module.ServeStatus, page: server.PageServer) -> None:
        def watch() -> None:
            with connect(serving.url.replace("http:", "ws:").replace("/?", "/frames?")) as viewer:
                for share in (0.1, 0.7):
                    viewer.send(json.dumps({"next": True, "alpha": share}))
                    while isinstance(viewer.recv(5), str):
                        pass
            page.stop()

        threading.Thread(target=watch, daemon=True).start()

    serve_module.serve("sr.dni", port=0, on_started=started, alpha_log=log)
    entries = list(AlphaLog.read_entries(log))
    assert [(entry.frame, entry.coefficients.values) for entry in entries] == [(0, (0.1, 0.9)), (1, (0.7, 1 - 0.7))]
    with pytest.raises(UsageError, match="exists; give --force"):
        served(alpha_log=log)
    assert len(list(AlphaLog.read_entries(log))) == 2
    served(alpha_log=log, force=True)
    assert list(AlphaLog.read_entries(log)) == []


def test_a_full_disk_behind_the_alpha_log_ends_with_its_error(bundle: list[Dimmer], monkeypatch: pytest.MonkeyPatch) -> None:
    if not os.path.exists("/dev/full"):
        pytest.skip("/dev/full is of Linux")

    with pytest.raises(LimitError, match="could not be written"):
        served(alpha_log="/dev/full", force=True)


def test_serve_starts_with_the_first_value_of_a_timeline(bundle: list[Dimmer]) -> None:
    status = served(alpha="0:bright=1, 2s:bright=0; loop")
    assert status.alpha == {"bright": 1.0, "dark": 0.0}


@pytest.mark.parametrize(
    "options",
    [{"alpha": "nobody=1"}, {"alpha": "0:x=1"},
     {"token": "short"}, {"token": "with a space in it and long"}, {"host": "0.0.0.0"}, {"host": "no.such.host.invalid"},
     {"listeners": ListenerOptions(slew=-1.0)}],
)  # fmt: skip
def test_invalid_options_are_refused(bundle: list[Dimmer], options: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        serve_module.serve("sr.dni", **{"port": 0, "token": None, **options})
    assert all(engine.closed == 1 for engine in bundle)


@pytest.mark.parametrize("options", [{"quality": 0}, {"quality": 96}, {"fps": 0.5}, {"fps": float("nan")}, {"size": "1x1"}])
def test_invalid_preview_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        serve_module.PreviewOptions(**options)


def test_a_port_in_use_is_refused(bundle: list[Dimmer]) -> None:
    with socket.socket() as busy_socket:
        busy_socket.bind(("127.0.0.1", 0))
        busy_socket.listen()
        with pytest.raises(BusyError) as caught:
            serve_module.serve("sr.dni", port=busy_socket.getsockname()[1])
    assert caught.value.exit_code == 9


def test_serving_other_machines_needs_a_token_and_warns(bundle: list[Dimmer]) -> None:
    status = served(host="0.0.0.0", token="sixteen-letters-or-more")
    assert "Other machines" in status.warning
    assert status.url.startswith("http://127.0.0.1:")


CHILD = """
import sys
from tests.support.frame_session import Dimmer, opener
from tests.dni_deploy.api.test_serve import Bundle
from dni_deploy.api import serve as serve_module
serve_module.Bundle.open = lambda path: Bundle
serve_module.open_session = lambda *args, **keywords: opener(Dimmer((1.0, 0.2)), Bundle.members)(*args, **keywords)
from dni_deploy.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize(("ending", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("as_json", [False, True])
def test_serve_command_prints_one_line_and_ends_at_once(ending: int, code: int, as_json: bool) -> None:
    command = [sys.executable, "-c", CHILD, "serve", "sr.dni", "--port", "0", "--size", "64x48", *["--json"] * as_json]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, cwd=ROOT)
    try:
        assert child.stdout is not None
        line = child.stdout.readline().strip()
        url = json.loads(line)["url"] if as_json else line
        with urllib.request.urlopen(url, timeout=5) as page:
            assert page.status == 200
        idle = socket.create_connection(("127.0.0.1", int(url.split(":")[2].partition("/")[0])), 5)  # must not delay it
        started = time.monotonic()
        child.send_signal(ending)
        out, err = child.communicate(timeout=10)
        assert time.monotonic() - started < 4
        idle.close()
    finally:
        child.kill()
    assert child.returncode == code, err
    assert out == ""
    assert "Traceback" not in err
    assert url.partition("token=")[2] not in err
