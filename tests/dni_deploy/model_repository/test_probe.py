"""The probe and the watch, against a server that answers as Triton does."""

from __future__ import annotations

import json
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dni_deploy.model_repository import probe

Answer = tuple[int, str]
CONFIG = {"instance_group": [{"count": 1, "gpus": [0, 1]}, {"count": 1}]}
DEAD = (500, '{"error":"Stub process \'sr_0_0\' is not healthy."}')


def count(succeeded: int, failed: int) -> Answer:
    stats = {"success": {"count": succeeded}, "fail": {"count": failed}}
    return 200, json.dumps({"model_stats": [{"inference_stats": stats}]})


class FakeTriton:
    """Notes what it is asked, and answers by `answers`: what a path ends with -> answers, of which the last one stays."""

    def __init__(self) -> None:
        self.answers: dict[str, list[Answer]] = {"config": [(200, json.dumps(CONFIG))], "infer": [(200, "{}")]}
        self.answers |= {"unload": [(200, "")], "load": [(200, "")], "stats": [count(0, 0)]}
        self.delay_s = 0.0
        self.asked: list[tuple[str, str]] = []
        self.lock = threading.Lock()
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def handle_any(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
                with fake.lock:
                    fake.asked.append((self.path, body))
                    answers = fake.answers[self.path.rpartition("/")[2]]
                    status, text = answers.pop(0) if len(answers) > 1 else answers[0]
                if self.path.endswith("/infer"):
                    time.sleep(fake.delay_s)
                self.send_response(status)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text.encode())

            do_GET = do_POST = handle_any

            def log_message(self, *arguments: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,))
        self.thread.start()

    def list_actions(self) -> list[str]:
        return [path.rpartition("/")[2] for path, _ in self.asked if "/repository/" in path]

    def close(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture
def triton() -> Iterator[FakeTriton]:
    fake = FakeTriton()
    yield fake
    fake.close()


@pytest.fixture
def run(triton: FakeTriton, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Runs the probe's command line as that of the model sr."""
    folder = tmp_path / "sr"
    folder.mkdir()
    (folder / "probe.json").write_text('{"inputs": []}')
    monkeypatch.setattr(probe, "FOLDER", folder)

    def run(*arguments: str, server: str = triton.url) -> int:
        monkeypatch.setattr(sys, "argv", ["probe.py", "--server", server, *arguments])
        return probe.main()

    return run


def test_a_model_that_answers(triton: FakeTriton, run: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert run() == 0
    assert capsys.readouterr().out == "sr: 200 \n"
    inferences = [entry for entry in triton.asked if entry[0].endswith("/infer")]
    assert inferences == [("/v2/models/sr/infer", '{"inputs": []}')] * 3  # one for each process


@pytest.mark.parametrize(
    ("answers", "sentence"),
    [
        ({"infer": [(200, "{}"), DEAD, (200, "{}")]}, "sr: 500 .*sr_0_0' is not healthy"),
        ({"infer": [(400, "no rule"), (200, "{}")]}, "sr: 400 no rule"),
        ({"config": [(400, "Request for unknown model")]}, "sr: 400 Request for unknown model"),
    ],
)
def test_a_model_that_does_not(
    triton: FakeTriton, run: Callable[..., int], capsys: pytest.CaptureFixture[str], answers: Any, sentence: str
) -> None:
    triton.answers |= answers
    assert run() == 1
    assert re.match(sentence, capsys.readouterr().out)


@pytest.mark.parametrize(
    ("stats", "code", "sentence"),
    [
        ([count(7, 3), count(9, 5)], 0, "sr: 200 busy: 2 other requests were answered in 0.05 s"),
        ([count(7, 3), count(7, 5)], 1, "sr: 500 2 other requests failed in 0.05 s, and none was answered"),
        ([count(7, 3), count(7, 3)], 1, "sr: 503 Exceeds maximum queue size"),
        ([(404, "no statistics here")], 1, "sr: 503 Exceeds maximum queue size"),
        ([(200, "[]")], 1, "sr: 503 Exceeds maximum queue size"),
    ],
)
def test_a_queue_that_is_full_is_no_death_where_others_are_answered(
    triton: FakeTriton, run: Callable[..., int], capsys: pytest.CaptureFixture[str], stats: Any, code: int, sentence: str
) -> None:
    triton.answers |= {"infer": [(503, "Exceeds maximum queue size")], "stats": stats}
    assert run("--timeout", "0.05") == code
    assert capsys.readouterr().out.strip() == sentence


def test_an_answer_that_takes_too_long(triton: FakeTriton, run: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    triton.delay_s = 0.1
    assert run("--timeout", "0.05") == 1
    assert capsys.readouterr().out == "sr: no answer timed out\n"


def test_no_server(run: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(server="http://127.0.0.1:9") == 1
    assert "sr: no answer" in capsys.readouterr().out


class Stop(Exception):  # ends the watch
    pass


def watch(run: Callable[..., int], monkeypatch: pytest.MonkeyPatch, rounds: int) -> None:
    left = iter(range(rounds - 1))

    def sleep(seconds: float) -> None:
        if seconds == 2.0 and next(left, None) is None:
            raise Stop

    monkeypatch.setattr(probe, "time", SimpleNamespace(sleep=sleep, monotonic=time.monotonic))
    with pytest.raises(Stop):
        run("--watch", "2")


def test_a_process_that_died_is_unloaded_and_loaded(
    triton: FakeTriton, run: Callable[..., int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    triton.answers["infer"] = [*[(200, "{}")] * 3, DEAD, *[(200, "{}")] * 5]
    watch(run, monkeypatch, 3)
    assert triton.list_actions() == ["unload", "load"]
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(": ")[0] for line in lines] == ["sr", "sr is loaded again", "sr"]


def test_a_model_that_cannot_be_loaded_is_tried_again(
    triton: FakeTriton, run: Callable[..., int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    triton.answers["load"] = [(400, "the bundle is damaged"), (200, "")]
    triton.answers["config"] = [(200, json.dumps(CONFIG)), (400, "no available versions"), (200, json.dumps(CONFIG))]
    triton.answers["infer"] = [*[DEAD] * 3, (200, "{}")]
    watch(run, monkeypatch, 3)
    assert triton.list_actions() == ["unload", "load", "load"]
    assert "sr is not loaded: 400 the bundle is damaged" in capsys.readouterr().out


def test_a_server_that_may_not_load_is_said_and_left(
    triton: FakeTriton, run: Callable[..., int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    triton.answers |= {"infer": [DEAD], "unload": [(503, "explicit model load / unload is not allowed")]}
    watch(run, monkeypatch, 1)
    assert triton.list_actions() == ["unload"]
    assert "sr is not unloaded: 503 explicit model load" in capsys.readouterr().out


@pytest.mark.parametrize("answer", [(503, "Exceeds maximum queue size"), (400, "no rule")])
def test_what_is_no_death_is_left_alone(
    triton: FakeTriton, run: Callable[..., int], monkeypatch: pytest.MonkeyPatch, answer: Answer
) -> None:
    triton.answers["infer"] = [answer]
    watch(run, monkeypatch, 2)
    triton.answers["config"] = [(400, "Request for unknown model: 'sr' has no available versions")]  # unloaded by someone
    watch(run, monkeypatch, 2)
    assert triton.list_actions() == []
