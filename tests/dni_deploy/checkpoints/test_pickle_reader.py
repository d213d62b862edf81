"""Pickles: data is read, and nothing that a pickle names is ever imported or called."""

from __future__ import annotations

import argparse
import collections
import datetime
import errno
import functools
import io
import pathlib
import pickle
import time
import uuid
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from dni_deploy.checkpoints import pickle_reader, read_budget
from dni_deploy.checkpoints.checkpoint import Checkpoint
from dni_deploy.checkpoints.file_type import CheckpointFile
from dni_deploy.checkpoints.pickle_reader import OpaqueValue, Storage, StoredTensor, UnusableTensor
from dni_deploy.checkpoints.read_budget import ReadBudget
from dni_deploy.errors import CheckpointError, LimitError, RefusedError
from tests.support import malformed_checkpoints as malformed
from tests.support.reading_files import assert_refused, watch_audit_events

torch = pytest.importorskip("torch")


@pytest.fixture(scope="module")
def warm_reader(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a valid file after reading it once, which imports everything that reading imports (zipfile: a codec for names)."""
    path = tmp_path_factory.mktemp("warm") / "warm.pth"
    path.write_bytes(malformed.torch_zip(malformed.tensor((1,), (1,), 1), {"data/0": b"1234"}))
    Checkpoint.read(path)
    return path


def test_the_audit_hook_detects_a_payload_that_runs(tmp_path: Path) -> None:
    """The positive control: in a reader that trusts it, the same payload runs and is detected."""
    sentinel = tmp_path / "sentinel"
    with watch_audit_events() as dangerous_events:
        pickle.loads(malformed.call("os system", f"echo {malformed.MARK} > {sentinel}"))
    assert sentinel.exists()
    assert {"os.system", "pickle.find_class"} <= set(dangerous_events)


PAYLOADS = malformed.payloads("true")


def test_there_are_many_payloads() -> None:
    assert len(PAYLOADS) >= 40


@pytest.mark.parametrize("name", PAYLOADS)
def test_no_payload_runs(name: str, tmp_path: Path, warm_reader: Path) -> None:
    sentinel = tmp_path / "sentinel"
    path = tmp_path / "evil.pth"
    path.write_bytes(malformed.payloads(f"echo {malformed.MARK} > {sentinel}")[name])
    with watch_audit_events() as dangerous_events:
        with pytest.raises(RefusedError) as caught:
            Checkpoint.read(path)
        assert not dangerous_events
    assert not sentinel.exists()
    assert_refused(path, RefusedError, "Nothing was run")
    assert caught.value.exit_code == 5


def test_no_payload_runs_under_another_suffix(tmp_path: Path) -> None:
    path = tmp_path / "evil.safetensors"
    path.write_bytes(malformed.torch_zip(malformed.call("os system", "true")))
    assert_refused(path, RefusedError, "'os.system'")


class Custom(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(1, 1, 1)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("net", [torch.nn.Sequential(torch.nn.Conv2d(1, 1, 1)), Custom()], ids=["torch's", "own"])
def test_whole_modules_are_recognized(net: torch.nn.Module, zipped: bool, tmp_path: Path) -> None:
    torch.save(net, tmp_path / "net.pth", _use_new_zipfile_serialization=zipped)
    assert_refused(tmp_path / "net.pth", RefusedError, "net.state_dict()", "whole pickled module")


def read_pickle(stream: io.BytesIO, where: str, storages: dict[str, Storage] | None = None) -> Any:
    return pickle_reader.read_pickle(stream, where, ReadBudget(where), storages)


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize(
    "value",
    [
        {"a": [1, 2.5, -3, 2**70], "b": ("x", None, True, False), "c": {"d": ()}},
        collections.OrderedDict([("z", 1), ("a", 2)]),
        [b"bytes", "gr\u00fcn \u7d75", (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)],
        {"shared": [[]] * 3},
    ],
)
def test_plain_data_is_read_as_pickle_reads_it(value: Any, protocol: int) -> None:
    assert read_pickle(io.BytesIO(pickle.dumps(value, protocol)), "x") == value


def test_the_stream_position_is_after_the_pickle() -> None:
    stream = io.BytesIO(pickle.dumps(1, 2) + pickle.dumps("two", 2))
    assert [read_pickle(stream, "x"), read_pickle(stream, "x")] == [1, "two"]
    with pytest.raises(Exception, match="exhausted"):  # Checkpoint.read turns it into a one-line error
        read_pickle(stream, "x")


def test_a_tensor_is_a_view_of_a_storage() -> None:
    storages: dict[str, Storage] = {}
    value = read_pickle(io.BytesIO(malformed.tensor((2, 3), (3, 1), 8, offset=2)), "x", storages)
    storage = Storage("float32", "0", 8)
    assert value == {"w": StoredTensor(storage, "float32", 2, (2, 3), (3, 1))}
    assert storages == {"0": storage}


def test_objects_that_are_not_tensors_are_opaque() -> None:
    device = read_pickle(io.BytesIO(b"\x80\x02ctorch\ndevice\nX\x03\x00\x00\x00cpu\x85R."), "x")
    assert isinstance(device, OpaqueValue)
    sparse = read_pickle(io.BytesIO(b"\x80\x02ctorch._utils\n_rebuild_sparse_tensor\n)R."), "x")
    assert sparse == UnusableTensor("sparse")


class _TrainingState:
    """A class that a reader of the file does not have."""

    def __init__(self) -> None:
        self.best = 31.5


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    "value",
    [
        argparse.Namespace(lr=1e-4, path=pathlib.Path("x")),
        pathlib.PurePosixPath("a/b"),
        datetime.datetime(2024, 1, 2, tzinfo=datetime.timezone.utc),
        datetime.timedelta(1),
        uuid.UUID(int=1),
        _TrainingState(),
        {"activation": torch.nn.ReLU, "loss": torch.nn.functional.mse_loss},
    ],
    ids=["namespace", "path", "date", "duration", "uuid", "instance", "functions"],
)
def test_state_beside_the_weights_is_not_read(value: Any, zipped: bool, tmp_path: Path) -> None:
    torch.save({"w": torch.ones(2), "args": value}, tmp_path / "x.pth", _use_new_zipfile_serialization=zipped)
    with watch_audit_events() as dangerous_events:
        checkpoint = Checkpoint.read(tmp_path / "x.pth")
        assert not dangerous_events
    assert list(checkpoint.tensors) == ["w"]
    if not isinstance(value, dict):
        assert "args" in checkpoint.notes[0]


@pytest.mark.parametrize(
    "data",
    [
        pickle.dumps(functools.partial(print, 1), 2),
        b"\x80\x02cmine\nPoint\nK\x01K\x02\x86\x81.",  # NEWOBJ with arguments
        b"\x80\x02cos\nenviron\n}b.",  # BUILD on something that exists already
    ],
    ids=["call", "arguments", "existing"],
)
def test_calls_of_unknown_names_are_refused(data: bytes) -> None:
    with pytest.raises(RefusedError, match="Nothing was run"):
        read_pickle(io.BytesIO(data), "x")


@pytest.mark.parametrize("opcode", [b"\x85", b"\x86", b"\x87"])
def test_a_tuple_longer_than_the_stack_is_refused(opcode: bytes) -> None:
    with pytest.raises(ValueError, match="not a tuple"):
        read_pickle(io.BytesIO(b"\x80\x02" + opcode + b"."), "x")


def test_the_number_of_pickle_steps_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(read_budget, "MAX_STEPS", 5)
    with pytest.raises(LimitError, match="more than 5 steps"):
        read_pickle(io.BytesIO(pickle.dumps([[], [], [], []], 2)), "x")
    with pytest.raises(CheckpointError, match="pickle operation PERSID"):
        read_pickle(io.BytesIO(b"P0\n."), "x")


HASH_MODULUS = (1 << 61) - 1


def colliding(number: int) -> bytes:
    """An integer of the hash 1 as the pickle operation LONG1."""
    data = (number * HASH_MODULUS + 1).to_bytes(12, "little")
    return b"\x8a" + bytes([len(data)]) + data


def text(value: str) -> bytes:
    return b"X" + len(value).to_bytes(4, "little") + value.encode()


LARGE_DICT = b"\x80\x02}q\x00(" + b"".join(text(str(number)) + b"N" for number in range(20_000)) + b"u"
COSTLY = {
    "keys of one hash": b"\x80\x02}(" + b"".join(colliding(number) + b"N" for number in range(1, 30_000)) + b"u.",
    "memo of one hash": b"\x80\x02" + b"".join(b"Np%d\n" % (number * HASH_MODULUS + 1) for number in range(1, 30_000)) + b".",
    "one state again and again": LARGE_DICT + b"c__torch__.X\nY\n)\x81" + b"h\x00b" * 10_000 + b".",
    "long names": b"\x80\x02" + text("m" * 500_000) + b"q\x000" + text("n" * 500_000) + b"q\x010" + b"h\x00h\x01\x930" * 2000,
}


@pytest.mark.parametrize("data", COSTLY.values(), ids=COSTLY)
def test_time_does_not_grow_beyond_the_files_size(data: bytes) -> None:
    """Each takes 3 to 60 s where the work is not counted, or keys can be chosen that collide."""
    begin = time.thread_time()
    with suppress(LimitError, CheckpointError, ValueError):
        read_pickle(io.BytesIO(data), "x")
    assert time.thread_time() - begin < 2


@pytest.mark.parametrize("data", [b"N." * 200, b"\x80\x02(" + b"N0" * 200 + b"N."])
def test_all_pickles_of_a_file_share_one_budget(data: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(read_budget, "MAX_STEPS", 150)
    (tmp_path / "x.pth").write_bytes(data)
    with pytest.raises(LimitError, match="more than 150 steps"):
        Checkpoint.read(tmp_path / "x.pth")
    with zipfile.ZipFile(tmp_path / "zip.pth", "w") as archive:
        for number in range(10):
            archive.writestr(f"a/{number}.pkl", b"\x80\x02" + b"N0" * 10 + b"N.")
        archive.writestr("a/data.pkl", b"\x80\x02}.")
    with pytest.raises(LimitError, match="more than 150 steps"):
        Checkpoint.read(tmp_path / "zip.pth")


def test_reading_takes_a_limited_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(read_budget, "MAX_READ_SECONDS", -1.0)
    with pytest.raises(LimitError, match="seconds to read"):
        read_pickle(io.BytesIO(pickle.dumps(1)), "x")


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="no file here that cannot be read")
def test_a_disk_that_fails_is_said_to() -> None:
    with pytest.raises(CheckpointError, match=r"/proc/self/mem cannot be read \(Input/output error\)"):
        Checkpoint.read("/proc/self/mem")


def test_a_disk_that_fails_later_is_said_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x.pth").write_bytes(pickle.dumps({"a": 1}, 2))

    def fail(*_: object) -> bytes:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(CheckpointFile, "read", fail)
    with pytest.raises(CheckpointError, match=r"cannot be read \(Input/output error\)"):
        Checkpoint.read(tmp_path / "x.pth")
