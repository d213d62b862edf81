"""The real tritonserver and its real clients (benchmarks/triton/server.py says how they are installed)."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import dni_deploy as dni
from benchmarks.triton.client import Answer, Client
from benchmarks.triton.server import TritonServer, import_clients, why_unavailable
from dni_deploy.bundle.bundle import Bundle
from tests.engines.conftest import write
from tests.support import handmade_graphs, served_bundle

pytestmark = [pytest.mark.slow, pytest.mark.skipif(why_unavailable() is not None, reason=str(why_unavailable()))]

PAGE = Path(__file__).parents[3] / "docs" / "triton.md"
PROTOCOLS = ("http", "grpc")
IMAGE = np.random.default_rng(0).integers(0, 256, (37, 53, 3), np.uint8)
RECOVERY_S = 15.0


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Bundle]:
    folder = tmp_path_factory.mktemp("bundles")
    return {
        "conv": write(handmade_graphs.conv_without_bias_bn(), folder / "conv.dni"),
        "control": served_bundle.write(folder / "control.dni", members=3),
    }


@pytest.fixture(scope="module")
def repository(bundles: dict[str, Bundle], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("triton") / "models"
    dni.triton(bundles["conv"], folder, options=dni.ModelOptions(threads=1, instances=2))
    dni.triton(bundles["control"], folder, options=dni.ModelOptions(threads=1, tile=32, max_queue=1, controls={"gain": 0.5}))
    dni.triton(bundles["control"], folder, name="raw", options=dni.ModelOptions(threads=1, raw=True))
    return folder


@pytest.fixture(scope="module")
def server(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    import_clients()
    with TritonServer(repository, ["conv", "control"], tmp_path_factory.mktemp("server")) as server:
        yield server


def connect(server: TritonServer, protocol: str, model: str) -> Client:
    return Client(protocol, getattr(server, protocol), model)


def run_probe(server: TritonServer, repository: Path, model: str, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-I", str(repository / model / "probe.py"), "--server", f"http://{server.http}", *options]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def is_alive(server: TritonServer, repository: Path, model: str) -> tuple[bool, str]:
    with run_probe(server, repository, model) as process:
        text, _ = process.communicate(timeout=30)
        return process.returncode == 0, text


def refused(client: Client, *arguments: Any, **others: Any) -> str:
    with pytest.raises(Exception, match=r"\[(400|StatusCode\.INVALID_ARGUMENT)\]") as caught:
        client.ask(*arguments, **others)
    return str(caught.value)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_bytes_are_those_of_a_session(server: TritonServer, bundles: dict[str, Bundle], protocol: str) -> None:
    with (
        dni.open_session(bundles["conv"], threads=1, engine="onnxruntime") as session,
        connect(server, protocol, "conv") as client,
    ):
        for step in range(20):
            alpha = float(np.float32((step * 7 % 20) / 19))
            got = client.ask(IMAGE, alpha)
            wanted = session.render(IMAGE, alpha=alpha)
            assert np.array_equal(got.output, wanted.output)
            assert got.alpha.tolist() == np.float32(wanted.coefficients.values).tolist()
        pair = client.ask(IMAGE, [0.25, 0.75])
        assert np.array_equal(pair.output, session(IMAGE, alpha=0.25))
        ruled = client.ask(IMAGE, 0.25, rules=np.frombuffer(b"norm:*=1", np.uint8))
        session.rules = ["norm:*=1"]
        assert np.array_equal(ruled.output, session(IMAGE, alpha=0.25))
        assert not np.array_equal(ruled.output, pair.output)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_controls_tiles_and_three_members(server: TritonServer, bundles: dict[str, Bundle], protocol: str) -> None:
    with (
        dni.open_session(bundles["control"], threads=1, engine="onnxruntime") as session,
        connect(server, protocol, "control") as client,
    ):
        shares = [0.5, 0.25, 0.25]
        for gain in (None, 0.75):
            others = {} if gain is None else {"control_gain": np.array([gain], np.float32)}
            wanted = session(IMAGE, alpha=shares, controls={"gain": gain or 0.5})
            assert np.array_equal(client.ask(IMAGE, shares, **others).output, wanted)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_what_is_wrong_is_400_with_a_sentence_and_the_server_lives(server: TritonServer, protocol: str) -> None:
    with connect(server, protocol, "conv") as client:
        assert "is nan; it must be a finite number" in refused(client, IMAGE, float("nan"))
        assert "outside 0 to 1" in refused(client, IMAGE, 1.5)
        assert "must sum to 1" in refused(client, IMAGE, [0.2, 0.3])
        assert "the family has 2 members: 'a', 'b'" in refused(client, IMAGE, [0.2, 0.3, 0.5])
        assert "got uint8 (0, 4, 3)" in refused(client, IMAGE[:0, :4], 0.5)
        assert "Expected [-1,-1,3], got [37,53]" in refused(client, IMAGE[:, :, 0].copy(), 0.5)  # Triton's own
        assert "is no rule" in refused(client, IMAGE, 0.5, rules=np.frombuffer(b"nonsense", np.uint8))
        assert client.ask(IMAGE, 0.5).output.shape == IMAGE.shape
    with connect(server, protocol, "control") as client:
        gain = np.array([2.0], np.float32)
        assert "outside its range 0.1..1.7" in refused(client, IMAGE, [1, 0, 0], control_gain=gain)


def test_the_client_of_the_docs(
    server: TritonServer, bundles: dict[str, Bundle], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (block,) = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text("utf-8"), re.S | re.M)
    block = block.replace("localhost:8001", server.grpc).replace('"sr"', '"conv"')
    Image.fromarray(IMAGE).save(tmp_path / "in.png")
    monkeypatch.chdir(tmp_path)
    exec(compile(block, PAGE.name, "exec"), {})
    with dni.open_session(bundles["conv"], threads=1, engine="onnxruntime") as session:
        expected = session(IMAGE, alpha=float(np.float32(0.35)))
    with Image.open(tmp_path / "out.png") as image:
        assert np.array_equal(np.asarray(image), expected)


def run_threads(work: Callable[[int], None], count: int) -> None:
    threads = [threading.Thread(target=work, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_sixteen_viewers_get_their_own_alpha(server: TritonServer, bundles: dict[str, Bundle]) -> None:
    with dni.open_session(bundles["conv"], threads=1, engine="onnxruntime") as session:
        references = [session(IMAGE, alpha=float(np.float32(k / 16))) for k in range(16)]
    right = []

    def view(number: int) -> None:
        with connect(server, PROTOCOLS[number % 2], "conv") as client:
            right.extend(np.array_equal(client.ask(IMAGE, number / 16).output, references[number]) for _ in range(10))

    run_threads(view, 16)
    assert (len(right), all(right)) == (160, True)


def test_more_requests_than_the_queue_holds_are_refused(server: TritonServer) -> None:
    answers, refusals = [], []

    def view(number: int) -> None:
        with connect(server, "http", "control") as client:
            try:
                answers.append(client.ask(IMAGE, [1, 0, 0]).output)
            except Exception as error:
                refusals.append(str(error))

    run_threads(view, 12)
    assert answers
    assert refusals
    assert all("[503]" in text and "Exceeds maximum queue size" in text for text in refusals)


def test_raw_tensors_and_a_model_that_is_loaded_later_and_unloaded(
    server: TritonServer, bundles: dict[str, Bundle], repository: Path
) -> None:
    assert not is_alive(server, repository, "raw")[0]
    x = np.random.default_rng(0).normal(0, 10, (1, 3, 5, 7)).astype(np.float32)
    with connect(server, "grpc", "raw") as client:
        client.connection.load_model("raw")
        (process_id,) = server.list_stubs("raw")
        answer = client.ask_for({"input": x, "alpha": np.array([0.5, 0.25, 0.25], np.float32)})
        assert np.allclose(answer.output, x * 0.625, rtol=1e-6)
        assert answer.alpha.tolist() == [0.5, 0.25, 0.25]
        assert is_alive(server, repository, "raw") == (True, "raw: 200 \n")
        client.connection.unload_model("raw")
        deadline = time.monotonic() + 20
        while Path(f"/proc/{process_id}").exists() and time.monotonic() < deadline:
            time.sleep(0.1)
    assert server.list_stubs("raw") == []  # and its memory with it


def ask_until_answered(client: Client, image: Any) -> Answer:
    started = time.monotonic()
    while True:
        try:
            return client.ask(image, 0.5)
        except Exception:
            assert time.monotonic() - started < RECOVERY_S
            time.sleep(0.1)


def test_a_process_that_is_killed_is_seen_and_comes_back(server: TritonServer, repository: Path) -> None:
    with connect(server, "http", "conv") as client:
        expected = client.ask(IMAGE, 0.5).output
        victim, survivor = server.list_stubs("conv")
        os.kill(victim, signal.SIGKILL)
        deadline = time.monotonic() + RECOVERY_S
        alive, text = True, ""
        while alive and time.monotonic() < deadline:  # one of two: seen when a request reaches the dead one
            alive, text = is_alive(server, repository, "conv")
        assert not alive
        assert "is not healthy" in text
        assert client.connection.is_model_ready("conv")  # why nothing less than an inference tells
        watch = run_probe(server, repository, "conv", "--watch", "0.5")
        try:
            started = time.monotonic()
            while len({*server.list_stubs("conv")} - {victim, survivor}) < 2:
                assert time.monotonic() < started + RECOVERY_S
                time.sleep(0.1)
            answer = ask_until_answered(client, IMAGE)
            seconds = time.monotonic() - started
        finally:
            watch.terminate()
            printed, _ = watch.communicate(timeout=30)
        assert seconds < RECOVERY_S
        assert np.array_equal(answer.output, expected)
        assert "conv is loaded again: 200" in printed
        assert is_alive(server, repository, "conv")[0]
