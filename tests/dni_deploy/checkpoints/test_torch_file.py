"""torch.save files: none uses more memory than it has bytes, and every kind of damage is a one-line error."""

from __future__ import annotations

import io
import json
import pickle
import warnings
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import psutil
import pytest

from dni_deploy.checkpoints.checkpoint import Checkpoint
from dni_deploy.errors import CheckpointError, DniError, LimitError, RefusedError
from tests.support import malformed_checkpoints as malformed
from tests.support.reading_files import assert_refused, watch_audit_events

torch = pytest.importorskip("torch")
ONE = malformed.tensor((1,), (1,), 1)


@pytest.fixture(scope="module")
def warm_reader(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a valid file after reading it once, which imports everything that reading imports (zipfile: a codec for names)."""
    path = tmp_path_factory.mktemp("warm") / "warm.pth"
    path.write_bytes(malformed.torch_zip(ONE, {"data/0": b"1234"}))
    Checkpoint.read(path)
    return path


def saved(value: object, **options: object) -> bytes:
    memory = io.BytesIO()
    torch.save(value, memory, **options)
    return memory.getvalue()


def doubled() -> bytes:
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(2):
            archive.writestr("archive/data.pkl", malformed.tensor((1,), (1,), 1))
    return memory.getvalue()


def script_module_in_itself() -> bytes:
    """A TorchScript archive whose module has itself as an attribute."""
    module = b"\x80\x02c__torch__\nNet\n)\x81q\x00}X\x04\x00\x00\x00selfh\x00sb."
    return malformed.torch_zip(module, {"code/__torch__.py": b"", "constants.pkl": b"\x80\x02)."})


def program(config: object) -> bytes:
    records = {"archive_format": b"pt2", "data/weights/weight_0": bytes(8)}
    return malformed.torch_zip(b"}.", {**records, "data/weights/model_weights_config.json": json.dumps(config).encode()})


def program_entry(**changes: object) -> dict[str, object]:
    meta = {"dtype": 7, "sizes": [{"as_int": 2}], "strides": [{"as_int": 1}], "storage_offset": {"as_int": 0}, "layout": 7}
    return {"config": {"w": {"path_name": "weight_0", "use_pickle": False, "tensor_meta": {**meta, **changes}}}}


def quantized() -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch is about to drop them; existing files remain
        return torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8)


def arrays() -> bytes:
    memory = io.BytesIO()
    np.savez(memory, w=np.ones(3))
    return memory.getvalue()


CASES: dict[str, tuple[bytes, type[DniError], str]] = {
    "empty": (b"", CheckpointError, "empty"),
    "one byte": (b"J", CheckpointError, ""),
    "a web page": (b"\n<!DOCTYPE html><html>404</html>", CheckpointError, "web page"),
    "an LFS pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", CheckpointError, "git lfs pull"),
    "a picture": (b"\x89PNG\r\n\x1a\n" + bytes(50), CheckpointError, "PNG"),
    "a text": (b"config = 1\nother = 2\n", CheckpointError, "not a checkpoint"),
    "JSON": (b'{"error": "not found"}', CheckpointError, ""),
    "zeros": (bytes(4096), CheckpointError, ""),
    "a tar": (bytes(257) + b"ustar" + bytes(600), CheckpointError, "tar"),
    "a plain zip": (malformed.torch_zip(b"", root="x/y"), CheckpointError, "not one of torch.save"),
    "NumPy arrays": (arrays(), CheckpointError, "NumPy"),
    "TorchScript for ever": (script_module_in_itself(), LimitError, "100 deep"),
    "a program past its storage": (program(program_entry(sizes=[{"as_int": 3}])), RefusedError, "declares 3 numbers"),
    "a program of negative sizes": (program(program_entry(sizes=[{"as_int": -1}])), CheckpointError, "damaged"),
    "a program of symbols": (program(program_entry(sizes=[{"as_expr": "s0"}])), CheckpointError, "damaged"),
    "a sparse program": (program(program_entry(layout=1)), CheckpointError, "sparse or unusual"),
    "a complex program": (program(program_entry(dtype=10)), CheckpointError, "sparse or unusual"),
    "a program without its record": (
        program({"config": {"w": {**program_entry()["config"]["w"], "path_name": "../x"}}}), CheckpointError, "damaged"),  # type: ignore[index]
    "no tensors": (saved({}), CheckpointError, "no tensors"),
    "numbers": (saved({"epoch": 3}), CheckpointError, "no tensors"),
    "a list": (saved([torch.ones(1)]), CheckpointError, "instead of tensors under names"),
    "one tensor": (saved(torch.ones(1)), CheckpointError, "one tensor"),
    "a plain pickle": (pickle.dumps({"w": [1, 2]}), CheckpointError, "not one of torch.save"),
    "sparse": (saved({"w": torch.eye(3).to_sparse()}), RefusedError, "sparse"),
    "sparse, legacy": (saved({"w": torch.eye(3).to_sparse()}, _use_new_zipfile_serialization=False), RefusedError, "sparse"),
    "meta": (saved({"w": torch.ones(2, device="meta")}), CheckpointError, "meta"),
    "complex": (saved({"w": torch.ones(2, dtype=torch.complex64)}), CheckpointError, "complex64"),
    "float8": (saved({"w": torch.ones(2).to(torch.float8_e4m3fn)}), CheckpointError, "float8_e4m3fn"),
    "quantized": (saved({"w": quantized()}), CheckpointError, "quantized"),
    "compressed": (malformed.torch_zip(ONE, {"data/0": bytes(10**6)}, compression=8), RefusedError, "compressed"),
    "records twice": (doubled(), RefusedError, "two records"),
    "a record outside": (malformed.torch_zip(ONE, {"../../etc/x": b"1"}), RefusedError, "reaches out"),
    "an absolute record": (malformed.torch_zip(ONE, {"!/x": b""}, root=""), RefusedError, "reaches out"),
    "no numbers": (malformed.torch_zip(ONE), CheckpointError, "missing"),
    "short numbers": (malformed.torch_zip(ONE, {"data/0": b"12"}), CheckpointError, "2 bytes instead of 4"),
    "256 GiB by stride 0": (
        malformed.torch_zip(malformed.tensor((2**18, 2**18), (0, 0), 1), {"data/0": b"1234"}), RefusedError, "declares"
    ),
    "256 GiB, legacy": (
        malformed.legacy(
            malformed.tensor((2**18, 2**18), (0, 0), 1), keys=pickle.dumps(["0"], 2), storages=b"\x01" + bytes(7) + b"1234"
        ), RefusedError, "declares",
    ),
    "past the storage": (malformed.torch_zip(malformed.tensor((2,), (5,), 2), {"data/0": bytes(8)}), CheckpointError, "past its storage"),
    "offset past it": (malformed.torch_zip(malformed.tensor((1,), (1,), 2, offset=2), {"data/0": bytes(8)}), CheckpointError, "past"),
    "a negative size": (malformed.torch_zip(malformed.tensor((-1,), (1,), 2), {"data/0": bytes(8)}), CheckpointError, "damaged"),
    "a negative offset": (
        malformed.torch_zip(malformed.tensor((1,), (1,), 2, offset=-1), {"data/0": bytes(8)}), CheckpointError, "damaged"
    ),
    "a negative stride": (
        malformed.torch_zip(malformed.tensor((2,), (-1,), 2, offset=1), {"data/0": bytes(8)}), CheckpointError, "damaged"
    ),
    "one storage in two ways": (
        malformed.torch_zip(
            ONE[:-1] + malformed.tensor((1,), (1,), 1, kind="IntStorage")[3:].replace(b"\x8c\x01w", b"\x8c\x01v"), {"data/0": b"1234"}
        ), CheckpointError, "damaged",
    ),
    "20 axes": (malformed.torch_zip(malformed.tensor((1,) * 20, (1,) * 20, 2), {"data/0": bytes(8)}), CheckpointError, "damaged"),
    "big-endian": (malformed.torch_zip(ONE, {"data/0": b"1234", "byteorder": b"big"}), CheckpointError, "byte order"),
    "from the future": (malformed.torch_zip(ONE, {"data/0": b"1234", "version": b"99"}), CheckpointError, "version"),
    "a key twice by prefix": (saved({"_orig_mod.a": torch.ones(1), "a": torch.ones(1)}), CheckpointError, "one name"),
    "a key twice by NFC": (saved({"e\u0301": torch.ones(1), "\u00e9": torch.ones(1)}), CheckpointError, "one name"),
    "an empty name": (saved({"": torch.ones(1)}), CheckpointError, "0 characters"),
    "a long name": (saved({"x" * 10**6: torch.ones(1)}), CheckpointError, "1,000,000 characters"),
    "NUL in a name": (saved({"a\0b": torch.ones(1)}), CheckpointError, r"\x00"),
    "escapes in a name": (saved({"\x1b[31mred\n": torch.ones(1)}), CheckpointError, "control"),
    "bidi in a name": (saved({"abc\u202egnp": torch.ones(1)}), CheckpointError, "control"),
    "a path as a name": (saved({"../../etc/x": torch.ones(1)}), CheckpointError, "paths"),
    "a number as a name": (saved({3: torch.ones(1)}), CheckpointError, "not text"),
    "two unknown wrappers": (saved({"a": {"w": torch.ones(1)}, "b": {"w": torch.ones(1)}}), CheckpointError, "'a', 'b'"),
    "wrappers inside each other for ever": (
        malformed.torch_zip(b"\x80\x02}q\x00X\x05\x00\x00\x00model}q\x01(X\x05\x00\x00\x00modelh\x00X\x03\x00\x00\x00net"
                          + ONE[2:-1] + b"us.", {"data/0": b"1234"}), CheckpointError, "",
    ),
    "too many steps": (malformed.torch_zip(b"\x80\x02" + b"N0" * 2_000_000 + b"}."), LimitError, "steps"),
    "copies of copies": (
        malformed.torch_zip(b"\x80\x02](" + b"N" * 10_000 + b"e\x85q\x000" + b"ctorch\nSize\nq\x010" + b"h\x01h\x00R0" * 10_000 + b"}."),
        LimitError, "steps",
    ),
    "a string of 2**60": (b"\x80\x04\x8d" + (2**60).to_bytes(8, "little") + b"x", CheckpointError, ""),
    "100,000 nested tuples as a key": (
        malformed.torch_zip(b"\x80\x02})" + b"\x85" * 100_000 + b"Ns."), CheckpointError, "no tensors",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_malformed_files_are_refused(name: str, tmp_path: Path) -> None:
    data, kind, message = CASES[name]
    path = tmp_path / "bad.pth"
    path.write_bytes(data)
    assert_refused(path, kind, message)


def test_long_and_unusual_file_names_are_read(tmp_path: Path) -> None:
    path = tmp_path / ("\x1b[31m" + "x" * 200 + "\n.pth")
    for name, (data, kind, _) in CASES.items():
        if "steps" not in name:
            path.write_bytes(data)
            assert_refused(path, kind)
    payload = malformed.payloads("true")["zip, asyncio.unix_events _UnixSubprocessTransport._start"]
    for data in (payload, saved(torch.nn.Sequential(torch.nn.Conv2d(1, 1, 1)))):
        path.write_bytes(data)
        assert_refused(path, RefusedError)


class Net(torch.nn.Module):
    """A network with a submodule, a shared one, a buffer and attributes that are no tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.body = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.PReLU(4))
        self.last = torch.nn.Conv2d(4, 3, 1)
        self.register_buffer("mean", torch.rand(3).double())
        self.scale, self.sizes = 2, [1, 2]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.last(self.body(x)) * self.scale + self.mean[0]
        return out


def assert_state(path: Path, net: torch.nn.Module) -> None:
    tensors = Checkpoint.read(path).tensors
    state = net.state_dict()
    assert set(tensors) == set(state)
    for name, value in state.items():
        assert (tensors[name].dtype, tensors[name].tobytes()) == (value.numpy().dtype, value.numpy().tobytes())


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("how", ["trace", "script"])
def test_the_tensors_of_torchscript_are_read_without_its_code(how: str, tmp_path: Path, warm_reader: Path) -> None:
    net = Net().eval()
    module = torch.jit.script(net) if how == "script" else torch.jit.trace(net, torch.rand(1, 3, 8, 8))
    module.save(tmp_path / "net.pt")
    with watch_audit_events() as dangerous_events:
        assert_state(tmp_path / "net.pt", net)
        assert not dangerous_events


def test_the_tensors_of_an_exported_program_are_read(tmp_path: Path) -> None:
    net = Net().eval()
    torch.export.save(torch.export.export(net, (torch.rand(1, 3, 8, 8),)), tmp_path / "net.pt2")
    assert_state(tmp_path / "net.pt2", net)


@pytest.mark.parametrize("record", ["data/weights/model.pt", "!serialized_state_dict.pt", "!serialized_state_dict.json"])
def test_the_tensors_of_programs_of_older_versions_are_read(record: str, tmp_path: Path) -> None:
    """Laid out by hand as torch 2.8 and 2.1 to 2.7 wrote them: a file of torch.save inside."""
    net = Net()
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w") as archive:
        archive.writestr("archive_format" if record[0] != "!" else "serialized_exported_program.json", "pt2")
        archive.writestr(record.removeprefix("!") if record[0] == "!" else f"net/{record}", saved(net.state_dict()))
    (tmp_path / "net.pt2").write_bytes(memory.getvalue())
    assert_state(tmp_path / "net.pt2", net)


def small_state() -> OrderedDict[str, torch.Tensor]:
    random = torch.Generator().manual_seed(0)
    return OrderedDict((f"conv{i}.weight", torch.randn(2, 3, 2, 2, generator=random)) for i in range(3))


def test_reading_uses_little_more_memory_than_the_file(tmp_path: Path) -> None:
    """At most little more than twice the file: the tensors are views of the bytes read."""
    size = 64 << 20
    torch.save({"w": torch.zeros(size // 4)}, tmp_path / "large.pth")
    process = psutil.Process()
    before = process.memory_info().rss
    checkpoint = Checkpoint.read(tmp_path / "large.pth")
    assert process.memory_info().rss - before < 1.5 * size  # once for the data; half as much again for the allocator
    assert checkpoint.tensors["w"].nbytes == size


def save_small_state(zipped: bool) -> bytes:
    return saved(small_state(), _use_new_zipfile_serialization=zipped)


@pytest.mark.parametrize("zipped", [True, False])
def test_every_truncation_is_detected(zipped: bool, tmp_path: Path) -> None:
    data = save_small_state(zipped)
    path = tmp_path / "cut.pth"
    for length in range(0, len(data), 1 if len(data) < 1500 else 7):
        path.write_bytes(data[:length])
        with pytest.raises((CheckpointError, LimitError)) as caught:
            Checkpoint.read(path)
        assert len(str(caught.value)) <= 300
    path.write_bytes(data[:-1])
    assert_refused(path, CheckpointError, "cut short")


def test_trailing_bytes_are_detected(tmp_path: Path) -> None:
    path = tmp_path / "more.pth"
    path.write_bytes(save_small_state(False) + b"x")
    assert_refused(path, CheckpointError, "after its end")


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("seed", [0, 1])
def test_mutated_files_give_tensors_or_a_dni_error(zipped: bool, seed: int, tmp_path: Path, warm_reader: Path) -> None:
    path = tmp_path / "mutant.pth"
    outcomes, longest = {"read": 0, "refused": 0}, 0
    with watch_audit_events() as dangerous_events:
        for data in malformed.mutations(save_small_state(zipped), 300, seed):
            path.write_bytes(data)
            dangerous_events.clear()  # the test itself writes the file
            try:
                checkpoint = Checkpoint.read(path)
            except DniError as error:
                outcomes["refused"] += 1
                longest = max(longest, len(str(error)))
            else:
                outcomes["read"] += 1
                assert all(not array.flags.writeable for array in checkpoint.tensors.values())
            assert not dangerous_events
    assert longest <= 300
    assert outcomes["refused"] > 100  # most mutations matter


def test_every_bit_flip_of_a_zip_record_is_detected(tmp_path: Path) -> None:
    """The zip container has a CRC for each record; torch does not check it."""
    data = save_small_state(True)
    numbers = small_state()["conv1.weight"].numpy().tobytes()
    offset = data.index(numbers)
    path = tmp_path / "flipped.pth"
    for bit in range(0, len(numbers) * 8, 13):
        copy = bytearray(data)
        copy[offset + bit // 8] ^= 1 << bit % 8
        path.write_bytes(copy)
        assert_refused(path, CheckpointError, "checksum")
