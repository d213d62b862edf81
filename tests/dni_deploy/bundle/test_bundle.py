"""The bundle: its bytes on disk, what ONNX tools see in it, and every kind of damage."""

from __future__ import annotations

import os
from hashlib import sha256
from itertools import combinations
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from dni_deploy.bundle import writer
from dni_deploy.bundle.bundle import Bundle
from dni_deploy.bundle.folder import MANIFEST_FILE_NAME
from dni_deploy.bundle.stored_file import read_verified
from dni_deploy.bundle.writer import write_bundle
from dni_deploy.errors import BundleError, DniError, MismatchError, RefusedError, UsageError
from tests.support import pico_bundle as pico

FILES = {
    "a-ed81c8a13652a994.safetensors",
    "b-544dc0b61a932906.safetensors",
    "graph-b0b59e140d15459e.onnx",
    MANIFEST_FILE_NAME,
}


@pytest.fixture(scope="module")
def shared_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return pico.write(tmp_path_factory.mktemp("whole") / "x.dni")


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    """Returns a bundle that the test may damage."""
    return pico.write(tmp_path / "x.dni")


def infer(model: str | bytes, x: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    result: np.ndarray = session.run(None, {"x": x})[0]
    return result


def make_input() -> np.ndarray:
    return np.random.default_rng(5).random((1, 1, 6, 7), np.float32)


def test_stored_bytes_are_fixed(shared_bundle: Bundle) -> None:
    # A change of these is a change of the format on disk (or of how onnx or safetensors write): find out why before changing them.
    assert set(os.listdir(shared_bundle.path)) == FILES
    assert shared_bundle.digest == "95e904531534ae405eb055267f1d3d3e02231eabc60a3f0978a327d1f2ab4a8b"


def test_the_same_input_gives_the_same_bytes(shared_bundle: Bundle, bundle: Bundle) -> None:
    for name in FILES:
        assert (shared_bundle.path / name).read_bytes() == (bundle.path / name).read_bytes()


def test_an_opened_bundle_describes_itself(shared_bundle: Bundle) -> None:
    assert shared_bundle.members == ("a", "b")
    assert shared_bundle.weight_names == pico.USED
    assert shared_bundle.signature == pico.SIGNATURE
    assert shared_bundle.architecture == "pico"
    assert shared_bundle.manifest.opset == 17
    assert shared_bundle.manifest.unused == ("spare.weight",)
    assert shared_bundle.digest == sha256((shared_bundle.path / MANIFEST_FILE_NAME).read_bytes()).hexdigest()
    assert [member.source for member in shared_bundle.manifest.members] == ["a.pth", "b.pth"]
    assert b"somebody" not in (shared_bundle.path / MANIFEST_FILE_NAME).read_bytes()


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_members_round_trip_bit_for_bit(tmp_path: Path, dtype: type) -> None:
    bundle = pico.write(tmp_path / "x.dni", count=3, dtype=dtype)
    for seed, name in enumerate("abc"):
        expected = pico.tensors(seed, dtype)
        tensors = bundle.read_tensors(name)
        assert tensors.keys() == expected.keys()
        for key, values in expected.items():
            assert tensors[key].dtype == values.dtype
            assert tensors[key].tobytes() == values.tobytes()
            assert not tensors[key].flags.writeable
        assert tuple(bundle.read_weights(name)) == bundle.weight_names
    assert bundle.read_tensors("a")["bn.weight"] is not bundle.read_tensors("a")["bn.weight"]
    with pytest.raises(UsageError, match="no member 'd'; it has a, b, c"):
        bundle.read_tensors("d")


@pytest.mark.parametrize(
    ("dtype", "limit", "extra"), [(np.float32, 0, ""), (np.float16, 0, "weights"), (np.float64, 1 << 20, "")]
)
def test_onnx_tools_see_the_first_member(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: type, limit: int, extra: str
) -> None:
    monkeypatch.setattr(writer, "MAX_INLINE_BYTES", limit)
    bundle = pico.write(tmp_path / "x.dni", dtype=dtype)
    file = bundle.path / bundle.manifest.graph.file
    onnx.checker.check_model(str(file), full_check=True)
    loaded = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in onnx.load(file).graph.initializer}
    for name, values in pico.tensors(0, dtype).items():
        if name in pico.USED:
            np.testing.assert_array_equal(loaded[name], values.astype(np.float32))
    assert any(name.startswith("weights-") for name in os.listdir(bundle.path)) == bool(extra)
    x = make_input()
    # The same graph and the same weights in the same library: equal bytes.
    assert infer(str(file), x).tobytes() == infer(bundle.read_graph_with_weights("a").SerializeToString(), x).tobytes()
    assert infer(str(file), x).tobytes() != infer(bundle.read_graph_with_weights("b").SerializeToString(), x).tobytes()


def test_the_graph_keeps_constants_but_no_weights(shared_bundle: Bundle) -> None:
    initializers = {initializer.name: initializer for initializer in shared_bundle.read_graph().graph.initializer}
    assert onnx.numpy_helper.to_array(initializers.pop("half")) == 0.5
    assert tuple(initializers) == shared_bundle.weight_names
    for name, initializer in initializers.items():
        initializer_without_data = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=pico.SHAPES[name])
        assert initializer == initializer_without_data


def test_mismatched_weights_are_refused(shared_bundle: Bundle) -> None:
    weights = shared_bundle.read_weights("a")
    with pytest.raises(MismatchError, match=r"'bn\.bias'"):
        shared_bundle.read_graph_with_weights({name: values for name, values in weights.items() if name != "bn.bias"})
    with pytest.raises(MismatchError, match=r"'bn\.bias'"):
        shared_bundle.read_graph_with_weights({**weights, "bn.bias": np.zeros(3, np.float32)})


# Damage.


def _flip(bundle: Bundle, name: str, bit: int) -> None:
    with open(bundle.path / name, "r+b", buffering=0) as file:
        byte = os.pread(file.fileno(), 1, bit // 8)[0]
        os.pwrite(file.fileno(), bytes([byte ^ 1 << bit % 8]), bit // 8)


def test_sampled_bit_flips_of_every_file_are_refused(bundle: Bundle) -> None:
    for name in FILES:
        for bit in range(0, 8 * (bundle.path / name).stat().st_size, 61):  # a prime, so that every bit position is covered
            _flip(bundle, name, bit)
            with pytest.raises(DniError):
                Bundle.open(bundle.path)
            _flip(bundle, name, bit)
    Bundle.open(bundle.path)


@pytest.mark.slow
def test_every_bit_flip_of_every_stored_file_is_refused(bundle: Bundle) -> None:
    # The manifest's own bits: test_manifest.py.
    for stored in bundle.manifest.files:
        for bit in range(8 * stored.size):
            _flip(bundle, stored.file, bit)
            with pytest.raises(BundleError):
                read_verified(bundle.path, stored, keep=False)
            _flip(bundle, stored.file, bit)
    Bundle.open(bundle.path)


def test_every_truncation_and_a_longer_file_are_refused(bundle: Bundle) -> None:
    for name in FILES:
        path = bundle.path / name
        data = path.read_bytes()
        for length in [*range(0, len(data), 7), len(data) - 1]:
            path.write_bytes(data[:length])
            with pytest.raises(BundleError):
                Bundle.open(bundle.path)
        path.write_bytes(data + b"\0")
        with pytest.raises(BundleError):
            Bundle.open(bundle.path)
        path.write_bytes(data)
    Bundle.open(bundle.path)


def test_missing_and_swapped_files_are_refused(bundle: Bundle) -> None:
    for name in FILES:
        os.rename(bundle.path / name, bundle.path / "aside")
        with pytest.raises(BundleError, match="has no"):
            Bundle.open(bundle.path)
        os.rename(bundle.path / "aside", bundle.path / name)
    for one, other in combinations(sorted(FILES), 2):
        first, second = ((bundle.path / name).read_bytes() for name in (one, other))
        (bundle.path / one).write_bytes(second)
        (bundle.path / other).write_bytes(first)
        with pytest.raises(DniError):
            Bundle.open(bundle.path)
        (bundle.path / one).write_bytes(first)
        (bundle.path / other).write_bytes(second)
    Bundle.open(bundle.path)


def test_the_message_names_file_and_both_digests(bundle: Bundle) -> None:
    name = "b-544dc0b61a932906.safetensors"
    (bundle.path / name).write_bytes((bundle.path / "a-ed81c8a13652a994.safetensors").read_bytes())
    with pytest.raises(BundleError) as raised:
        Bundle.open(bundle.path)
    assert all(part in str(raised.value) for part in (name, "ed81c8a13652a994", "544dc0b61a932906"))


@pytest.mark.skipif(os.name == "nt", reason="links need a privilege there")
@pytest.mark.parametrize("name", sorted(FILES))
def test_links_pipes_and_folders_are_refused_unread(bundle: Bundle, tmp_path: Path, name: str) -> None:
    path = bundle.path / name
    os.rename(path, tmp_path / "real")
    path.symlink_to(tmp_path / "real")  # the content would be valid
    with pytest.raises(RefusedError, match="link"):
        Bundle.open(bundle.path)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(RefusedError):  # and does not wait for a writer
        Bundle.open(bundle.path)
    path.unlink()
    path.mkdir()
    with pytest.raises(RefusedError):
        Bundle.open(bundle.path)
    path.rmdir()
    path.symlink_to("/dev/zero")
    with pytest.raises(RefusedError):
        Bundle.open(bundle.path)


@pytest.mark.skipif(os.name == "nt", reason="links need a privilege there")
def test_a_bundle_opens_by_a_link_and_with_plans_in_it(bundle: Bundle, tmp_path: Path) -> None:
    (bundle.path / "plans").mkdir()
    (tmp_path / "link").symlink_to(bundle.path)
    assert Bundle.open(tmp_path / "link").digest == bundle.digest


def test_other_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="does not exist"):
        Bundle.open(tmp_path / "absent")
    (tmp_path / "file").touch()
    with pytest.raises(BundleError, match="is not a folder"):
        Bundle.open(tmp_path / "file")
    with pytest.raises(BundleError, match="not a bundle"):
        Bundle.open(tmp_path)
    (tmp_path / MANIFEST_FILE_NAME).write_text('{"name": "a web app"}')
    with pytest.raises(BundleError, match="format"):
        Bundle.open(tmp_path)


def test_a_file_changed_after_opening_is_detected_when_read(bundle: Bundle) -> None:
    path = bundle.path / bundle.manifest.members[0].stored.file
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(BundleError, match="the manifest says"):
        bundle.read_weights("a")
    path.unlink()
    with pytest.raises(BundleError, match="the bundle is incomplete, or was replaced since it was opened"):
        bundle.read_weights("a")
    bundle.read_weights("b")


def test_external_data_chosen_by_the_graph_is_refused(tmp_path: Path) -> None:
    # A hand-made graph under a hand-made manifest must not make a reader open other files.
    tensor = TensorProto(name="t", data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "../secret"
    inner = helper.make_graph([helper.make_node("Constant", [], ["k"], value=tensor)], "inner", [], [])
    for place in ("initializer", "attribute", "subgraph"):
        graph = pico.graph()
        if place == "initializer":
            graph.graph.initializer.append(tensor)
        elif place == "attribute":
            graph.graph.node.append(helper.make_node("Constant", [], ["k"], value=tensor))
        else:
            graph.graph.node.append(helper.make_node("If", ["c"], ["k"], then_branch=inner, else_branch=inner))
        path = tmp_path / f"{place}.dni"
        bundle = write_bundle(path, graph, pico.family(), pico.SIGNATURE, architecture="pico", graph_facts={})
        with pytest.raises(RefusedError, match="'t' points at a file"):
            bundle.read_graph()


def test_a_reader_during_a_replacement_gets_the_new_bundle(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    from dni_deploy.bundle import bundle as module

    read, replaced = module.read_verified, []

    def replace_first(folder, stored, **options):  # type: ignore[no-untyped-def]
        if stored is not None and not replaced:
            replaced.append(True)
            pico.write(bundle.path, force=True, count=3, dtype=np.float16)
        return read(folder, stored, **options)

    monkeypatch.setattr(module, "read_verified", replace_first)
    assert Bundle.open(bundle.path).members == ("a", "b", "c")
