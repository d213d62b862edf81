"""Commands with s3:// through s3fs against a server on this machine: bytes, requests, exit codes and the library's own words.

Skipped without DNI_CLOUD, a folder made by `pip install --target FOLDER s3fs "moto[s3]" flask flask-cors`.
"""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dni_deploy.bundle.bundle import Bundle
from dni_deploy.cli.main import main
from dni_deploy.storage import object_store
from tests.engines.conftest import write
from tests.support.handmade_graphs import HAND
from tests.support.video_clips import Clip

FOLDER = os.environ.get("DNI_CLOUD", "")
ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.slow, pytest.mark.skipif(not FOLDER, reason="DNI_CLOUD names no folder with s3fs and moto")]

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    """Starts the server, and lets this process and its children use it with credentials that it takes."""
    log = tmp_path_factory.mktemp("s3") / "requests.txt"
    environment = {**os.environ, "PYTHONPATH": FOLDER, "MOTO_S3_DEFAULT_MAX_KEYS": "100"}
    command = [sys.executable, str(ROOT / "tests/support/s3_server.py"), str(log)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True)
    assert process.stdout is not None
    port = int(process.stdout.readline())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [*sys.path, FOLDER])
        for name, value in {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_MAX_ATTEMPTS": "1",
        }.items():
            patch.setenv(name, value)
        patch.setattr(object_store, "RETRY_WAITS_S", (0.0, 0.0, 0.0))
        import s3fs  # type: ignore[import-not-found]

        files = s3fs.S3FileSystem(use_listings_cache=False)
        files.mkdir("bucket")
        yield SimpleNamespace(files=files, log=log, clear=s3fs.S3FileSystem.clear_instance_cache)
        s3fs.S3FileSystem.clear_instance_cache()
    process.terminate()
    process.wait(10)


@pytest.fixture(scope="module")
def bundle(server: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Returns a bundle of 3 channels to 3 that is at s3://bucket/x.dni, too."""
    bundle = write(HAND["conv_bn"](), tmp_path_factory.mktemp("bundle") / "x.dni", 2)
    for path in bundle.path.iterdir():
        server.files.pipe_file(f"bucket/x.dni/{path.name}", path.read_bytes())
    return bundle


@pytest.fixture(autouse=True)
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DNI_CACHE", str(tmp_path / "cache"))


def call(*arguments: Any) -> int:
    try:
        return main([str(argument) for argument in arguments])
    except SystemExit as stopped:
        return int(stopped.code or 0)


def make_png(seed: int) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (12, 16, 3), dtype=np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def read_tree(files: Any, prefix: str) -> dict[str, bytes]:
    return {path.removeprefix(f"{prefix}/"): files.cat_file(path) for path in files.find(prefix)}


def list_requests(server: SimpleNamespace, start: str) -> list[str]:
    return [line for line in server.log.read_text().splitlines() if line.startswith(start)]


def test_a_tree_of_images(server: SimpleNamespace, bundle: Bundle, tmp_path: Path) -> None:
    for seed, name in enumerate(["1.png", "a/2.png", "a/ü & b/3.png", "4.png", "notes.txt"]):
        server.files.pipe_file(f"bucket/in/{name}", make_png(seed))
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_bytes(make_png(seed))
    assert call("run", bundle.path, tmp_path / "in", "-o", tmp_path / "out", "--alpha", "0.5", "-r") == 0
    assert call("run", "s3://bucket/x.dni", "s3://bucket/in", "-o", "s3://bucket/once/out", "--alpha", "0.5", "-r") == 0
    expected = {path.relative_to(tmp_path / "out").as_posix(): path.read_bytes() for path in (tmp_path / "out").rglob("*.png")}
    assert len(expected) == 4
    assert read_tree(server.files, "bucket/once/out") == expected
    assert len(list_requests(server, "PUT /bucket/once/out/1.png")) == 2


def test_a_put_that_fails_is_a_row(server: SimpleNamespace, bundle: Bundle, tmp_path: Path, capsys: Capture) -> None:
    for name in ("1.png", "refused/2.png"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_bytes(make_png(1))
    assert call("run", bundle.path, tmp_path / "in", "-o", "s3://bucket/rows", "--alpha", "0.5", "-r") == 8
    failed = "failed: s3://bucket/rows/refused/2.png cannot be read or written (OSError: [Errno 16] Reduce your hopes)"
    assert failed in capsys.readouterr().err
    assert len(list_requests(server, "PUT /bucket/rows/refused/2.png")) == 4
    assert server.files.find("bucket/rows") == ["bucket/rows/1.png"]


def test_a_folder_is_listed_by_pages(server: SimpleNamespace, bundle: Bundle) -> None:
    server.files.pipe({f"bucket/many/{number:04}.jpg": b"" for number in range(105)})
    server.files.pipe({f"bucket/many-out/{number:04}.png": b"" for number in range(105)})
    server.log.write_text("")
    assert call("run", bundle.path, "s3://bucket/many", "-o", "s3://bucket/many-out", "--alpha", "1", "--skip-existing") == 0
    assert len(server.log.read_text().splitlines()) <= 14


def test_a_video(server: SimpleNamespace, bundle: Bundle, tmp_path: Path) -> None:
    clip = Clip(frames=6, audio=None).write(tmp_path / "a.mkv")
    server.files.put_file(str(clip), "bucket/a.mkv")
    assert call("video", bundle.path, clip, "-o", tmp_path / "b.mkv", "--alpha", "0.5") == 0
    assert call("video", "s3://bucket/x.dni", "s3://bucket/a.mkv", "-o", "s3://bucket/b.mkv", "--alpha", "0.5") == 0
    assert server.files.cat_file("bucket/b.mkv") == (tmp_path / "b.mkv").read_bytes()
    assert call("video", bundle.path, "s3://bucket/a.mkv", "-o", "s3://bucket/b.mkv", "--alpha", "0.5") == 2


def test_eight_processes_read_a_bundle_once(server: SimpleNamespace, bundle: Bundle) -> None:
    server.log.write_text("")
    code = "from dni_deploy.bundle.bundle import Bundle; print(Bundle.open('s3://bucket/x.dni').digest)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), FOLDER])}
    processes = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, env=environment, text=True) for _ in range(8)
    ]
    assert {process.communicate(timeout=60)[0].strip() for process in processes} == {bundle.digest}
    for stored in bundle.manifest.files:
        assert len(list_requests(server, f"GET /bucket/x.dni/{stored.file}")) == 1


def test_what_cannot_be_used_is_said_in_one_sentence(
    server: SimpleNamespace, bundle: Bundle, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.files.pipe_file("bucket/one.png", make_png(1))
    (tmp_path / "one.png").write_bytes(make_png(1))
    run = ("run", bundle.path)
    absent = "there is no such bucket (FileNotFoundError: The specified bucket does not exist)"
    for arguments, code, words in (
        ((*run, "s3://absent/a.png", "-o", tmp_path / "o.png"), 7, absent),
        ((*run, "s3://absent/folder/", "-o", tmp_path / "o"), 7, absent),
        ((*run, tmp_path / "one.png", "-o", "s3://absent/o.png"), 7, absent),
        (("inspect", "s3://absent/x.dni"), 7, absent),
        (("inspect", "s3://bucket/none.dni"), 3, "s3://bucket/none.dni has no manifest.json"),
        ((*run, "s3://bucket/none.png", "-o", tmp_path / "o.png"), 3, "s3://bucket/none.png does not exist"),
    ):
        assert call(*arguments, *(["--alpha", "1"] if arguments[0] == "run" else [])) == code, arguments
        error = capsys.readouterr().err
        assert words in error, arguments
        assert len(error.splitlines()) == 1
    server.clear()
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert call("inspect", "s3://bucket/x.dni") == 7
    assert "cannot be reached (NoCredentialsError: Unable to locate credentials)" in capsys.readouterr().err
    server.clear()
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    assert call("inspect", "s3://bucket/x.dni") in (3, 7)
    assert "Could not connect to the endpoint URL" in capsys.readouterr().err
    server.clear()


def test_a_truncated_object_is_no_bundle(server: SimpleNamespace, bundle: Bundle, capsys: Capture) -> None:
    for path in bundle.path.iterdir():
        data = path.read_bytes()
        server.files.pipe_file(f"bucket/cut.dni/{path.name}", data[:-1] if path.suffix == ".safetensors" else data)
    assert call("inspect", "s3://bucket/cut.dni") == 3
    assert "it was cut or changed; copy it again" in capsys.readouterr().err
