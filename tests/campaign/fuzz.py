"""Fuzzing of every reader of bytes or text from outside.

    python -m tests.campaign.fuzz [TARGET...] [--seconds 60] [--inputs N] [--seed S] [--atheris]

An input is bad where it raises anything but a DniError, takes 8 s, fills 500 MB or gives a message of more than one line. Inputs
are seeds that a generator damages: the same number gives the same inputs. With --atheris, coverage of our code guides one target.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import random
import resource
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
import traceback
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from PIL import Image
from safetensors.numpy import save

from dni_deploy.alpha.coefficients import Coefficients
from dni_deploy.alpha.plane import ControlPlane
from dni_deploy.alpha.source import open_alpha_source
from dni_deploy.blending.group_rules import parse_rule
from dni_deploy.blending.preset import Preset
from dni_deploy.bundle.bundle import Bundle
from dni_deploy.bundle.manifest import Manifest, StoredFile
from dni_deploy.checkpoints.checkpoint import Checkpoint
from dni_deploy.checkpoints.graph_family import read_graph_family
from dni_deploy.checkpoints.ncnn_file import read_ncnn_file
from dni_deploy.checkpoints.onnx_file import read_onnx_file
from dni_deploy.control.http import HttpAlphaListener, _RequestHandler
from dni_deploy.control.message_handler import AlphaMessageHandler
from dni_deploy.control.midi import ControlChangeHandler
from dni_deploy.control.osc import OscAlphaListener, parse_messages
from dni_deploy.control.osc_address import parse_osc_mapping
from dni_deploy.control.shared_alpha import SharedAlpha
from dni_deploy.errors import DniError
from dni_deploy.imaging.image_file import read_image
from dni_deploy.network_controls import parse_declarations
from dni_deploy.spatial.alpha_map import AlphaMap
from dni_deploy.webui.message import parse_client_request
from tests.support import pico_bundle
from tests.support.graph_files import make_conv_model, write_ncnn
from tests.support.malformed_checkpoints import torch_zip

ROOT = Path(__file__).parents[2]
CORPUS = Path(__file__).with_name("corpus")
"""Inputs that were bad once: a file of each is called by its target, a dot and a number."""

HANG_S, MAX_GROWTH_KB, MAX_MESSAGE_LENGTH = 8.0, 500_000, 700
MEMBERS = ("a", "b")

PIECES = (
    b"\0", b"\xff", b"\x7f\xff\xff\xff", b"\x80\0\0\0", b"\xff" * 8, b"\0" * 8, struct.pack("<q", 1 << 62), struct.pack("<q", -1),
    b"9" * 30, b"-1", b"1e999", b"1e-400", b"-0", b"NaN", b"inf", b"0x1", b"1_0", b"\xd9\xa1", b"\n", b"\r\n", b" ", b'"', b"{", b"[",
    b"[" * 50, b'{"a":' * 50, b"\\", b"..", b"/", b"=", b",", b";", b":", b"null", b"true", b"()", b"\xc3\xa9", b"\xed\xa0\x80",
)  # fmt: skip
"""What a damage may put in, besides a target's own pieces."""


@dataclass(frozen=True)
class Target:
    """A reader.

    Attributes:
        seeds: Good inputs.
        read: Reads one input; raises DniError where it is refused.
        pieces: What inputs of this kind are made of.
    """

    seeds: tuple[bytes, ...]
    read: Callable[[bytes], object]
    pieces: tuple[bytes, ...] = ()


class HangError(BaseException):
    """An input took HANG_S."""


def mutate(data: bytes, rng: random.Random, pieces: Sequence[bytes]) -> bytes:
    """Damages an input in one to six places."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 6))):
        kind, size = rng.randrange(8), len(changed) or 1
        place = rng.randrange(size)
        if kind == 0 and changed:
            changed[place] ^= 1 << rng.randrange(8)
        elif kind == 1 and changed:
            changed[place] = rng.randrange(256)
        elif kind == 2:
            del changed[place : place + rng.choice((1, 2, 4, 16, 64))]
        elif kind == 3:
            changed[place:place] = rng.choice(pieces)
        elif kind == 4:
            piece = rng.choice(pieces)
            changed[place : place + len(piece)] = piece
        elif kind == 5:
            other = rng.randrange(size)
            changed[place:place] = changed[other : other + rng.choice((4, 16, 64))]
        elif kind == 6 and rng.random() < 0.4:
            del changed[place:]
        elif kind == 7 and size > 8:  # a number of 4 bytes, a little more or less
            place = min(place, size - 4)
            number = int.from_bytes(changed[place : place + 4], "little") + rng.choice((-16, -1, 1, 16))
            changed[place : place + 4] = (number % (1 << 32)).to_bytes(4, "little")
    return bytes(changed)


@contextmanager
def watch(seconds: float) -> Iterator[None]:
    """Raises HangError in the block after so long."""

    def stop(*_: object) -> None:
        raise HangError

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def try_input(target: Target, data: bytes) -> tuple[str, str]:
    """Reads one input.

    Returns:
        The kind of result ("read" or an error's name), and what is bad about it, or nothing.
    """
    peak, bad = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, ""
    try:
        with watch(HANG_S):
            target.read(data)
        kind = "read"
    except DniError as error:
        kind, text = type(error).__name__, str(error)
        if len(text) > MAX_MESSAGE_LENGTH or "\n" in text:
            bad = f"a message of {len(text)} characters and {text.count(chr(10)) + 1} lines: {text[:200]!r}"
    except HangError:
        kind = bad = f"takes more than {HANG_S:.0f} s"
    except BaseException as error:
        kind = type(error).__name__
        where = [line for line in traceback.format_exc().splitlines() if line.strip().startswith("File")][-1].strip()
        bad = f"{kind}: {str(error)[:200]} ({where})"
    growth = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak
    if growth > MAX_GROWTH_KB:
        bad = bad or f"fills {growth >> 10} MB"
    return kind, bad


def iterate_inputs(name: str, target: Target, seed: int) -> Iterator[bytes]:
    """Yields damaged seeds without end, the same ones for one seed."""
    rng = random.Random(f"{name} {seed}")
    pieces = (*PIECES, *target.pieces * 2)
    while True:
        yield mutate(rng.choice(target.seeds), rng, pieces)


def run_target(
    name: str, target: Target, seed: int = 0, *, inputs: int | None = None, seconds: float = 1e9, last: Path | None = None
) -> tuple[Counter[str], dict[str, bytes]]:
    """Tries inputs until there were so many, or for so long.

    Returns:
        How often each kind of result came, and one input for each thing that was bad.
    """
    tally, bad, end = Counter[str](), dict[str, bytes](), time.monotonic() + seconds
    for count, data in enumerate(iterate_inputs(name, target, seed)):
        if count == inputs or time.monotonic() > end:
            break
        if last is not None:
            last.write_bytes(data)
        kind, problem = try_input(target, data)
        tally[kind] += 1
        if problem:
            bad.setdefault(problem, data)
    return tally, bad


def list_corpus() -> list[tuple[str, Path]]:
    """Lists inputs that were bad once, each with its target."""
    return sorted((path.name.partition(".")[0], path) for path in CORPUS.iterdir()) if CORPUS.is_dir() else []


# --- targets


def make_targets(folder: Path) -> dict[str, Target]:
    """Makes every target; files are written into the folder."""
    return {
        **_make_checkpoints(folder),
        **_make_bundles(folder),
        **_make_texts(folder),
        **_make_pictures(folder),
        **_make_controls(),
    }


def _read_file(folder: Path, suffix: str, read: Callable[[Path], object]) -> Callable[[bytes], object]:
    path = folder / f"input{suffix}"

    def go(data: bytes) -> object:
        path.write_bytes(data)
        return read(path)

    return go


_STATE = {"w": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.zeros(3, np.float16), "n": np.array(3)}


def _tensor(key: str, kind: str, count: int, shape: str, strides: str) -> bytes:
    storage = (
        b"((X\x07\0\0\0storagectorch\n"
        + kind.encode()
        + b"\nX\x01\0\0\0"
        + key.encode()
        + b"X\x03\0\0\0cpuK"
        + bytes([count])
        + b"tQ"
    )
    return (
        b"ctorch._utils\n_rebuild_tensor_v2\n"
        + storage
        + b"K\x00"
        + shape.encode("latin-1")
        + strides.encode("latin-1")
        + b"\x89ccollections\nOrderedDict\n)RtR"
    )


_PROGRAM = (
    b"\x80\x02}q\x00(X\x0a\0\0\0params_ema}q\x01(X\x01\0\0\0w"
    + _tensor("0", "FloatStorage", 6, "K\x02K\x03\x86", "K\x03K\x01\x86")
    + b"X\x01\0\0\0b"
    + _tensor("1", "HalfStorage", 3, "K\x03\x85", "K\x01\x85")
    + b"uX\x05\0\0\0epochK\x03u."
)
_RECORDS = {"data/0": _STATE["w"].tobytes(), "data/1": _STATE["b"].tobytes()}


def _make_legacy() -> bytes:
    """A file as torch before 1.6 wrote it."""
    magic = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
    system = b"\x80\x02}(X\x10\0\0\0protocol_versionM\xe9\x03X\x0d\0\0\0little_endian\x88u."
    keys = b"\x80\x02](X\x01\0\0\0" + b"0X\x01\0\0\0" + b"1e."
    program = _PROGRAM.replace(b"K\x06tQ", b"K\x06NtQ").replace(b"K\x03tQ", b"K\x03NtQ")
    numbers = b"".join(struct.pack("<q", count) + data for count, data in ((6, _RECORDS["data/0"]), (3, _RECORDS["data/1"])))
    return magic + b"\x80\x02M\xe9\x03." + system + program + keys + numbers


def _zip_file(name: str, data: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(zipfile.ZipInfo(name), data)
    return buffer.getvalue()


def _make_checkpoints(folder: Path) -> dict[str, Target]:
    codes = (
        b"ctorch\nSize\n", b"cposix\nsystem\n", b")R", b"Q", b"\x93", b"h\0", b"q\0", b"\x85", b"(", b"t", b"u", b"s", b"}", b"]", b"2",
        b"0", b"1", b"\x8a\x08" + b"\xff" * 8, b"torch._utils\n_rebuild_tensor_v3\n", b"\x94", b"o", b"b", b"\x81", b"I1\n", b"a", b"e",
    )  # fmt: skip
    zipped, safe = torch_zip(_PROGRAM, _RECORDS), save(_STATE)
    read = _read_file(folder, ".pth", Checkpoint.read)
    words = (b'"shape"', b'"dtype":"F32"', b"[0,8]", b'"data_offsets"', b'"__metadata__"')

    def read_ncnn(data: bytes) -> object:
        """The .param and the .bin, divided by a line of its own."""
        param, _, weights = data.partition(b"\n--\n")
        (folder / "input.param").write_bytes(param)
        (folder / "input.bin").write_bytes(weights)
        return read_ncnn_file(folder / "input.param")

    def read_onnx(data: bytes) -> object:
        (folder / "input.onnx").write_bytes(data)
        return read_graph_family({"a": read_onnx_file(folder / "input.onnx"), "b": good})

    onnx.save(make_conv_model(1), folder / "good.onnx")
    good = read_onnx_file(folder / "good.onnx")
    layers = ["Input in 0 1 in", "Convolution c 1 1 in c 0=3 1=3 4=1 5=1 6=81", "ReLU r 1 1 c out"]
    param = write_ncnn(folder / "seed.param", layers, [(np.ones((3, 3, 3, 3)), "float16"), (np.ones(3), "plain")])
    index = json.dumps({"metadata": {}, "weight_map": {"w": "shard.safetensors"}}).encode()
    (folder / "shard.safetensors").write_bytes(safe)
    return {
        "zip": Target((zipped,), read, (b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06", b"PK\x06\x06", b"PK\x06\x07", b"data.pkl")),
        "pickle": Target((_PROGRAM,), lambda data: read(torch_zip(data, _RECORDS)), codes),
        "legacy": Target((_make_legacy(),), read, codes),
        "safetensors": Target((safe,), _read_file(folder, ".safetensors", Checkpoint.read), words),
        "archive": Target((_zip_file("net.safetensors", safe), _zip_file("net.pth", zipped)), _read_file(folder, ".zip", Checkpoint.read)),
        "shards": Target((index,), _read_file(folder, ".index.json", Checkpoint.read), (b'"weight_map"', b"../", b"shard.safetensors")),
        "onnx": Target((make_conv_model(0).SerializeToString(),), read_onnx, (b"../", b"location", b"offset", b"Conv", b"ai.onnx")),
        "ncnn": Target(
            (param.read_bytes() + b"\n--\n" + param.with_suffix(".bin").read_bytes(),),
            read_ncnn,
            (b"Convolution", b"-23300=2,1,2", b"0=", b"7767517", b"BinaryOp", b"Crop", b"PixelShuffle", b"Interp", b"Split", b"Pooling"),
        ),
    }  # fmt: skip


def _make_bundles(folder: Path) -> dict[str, Target]:
    bundle = pico_bundle.write(folder / "x.dni")
    stored = (folder / "x.dni" / "manifest.json").read_bytes()
    values: list[Any] = [
        None,
        True,
        0,
        -1,
        1 << 63,
        10**19,
        0.5,
        1e308,
        "",
        "../x",
        "a" * 1000,
        [],
        {},
        [[]],
        {"a": 1},
        "\0",
        [None] * 5,
    ]

    def list_places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
        items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        for key, inner in items:
            yield (*path, key)
            yield from list_places(inner, (*path, key))

    places = list(list_places(json.loads(stored)))

    def to_json(document: Any) -> bytes:
        return json.dumps(document, sort_keys=True, indent=2).encode() + b"\n"

    def read_sealed(data: bytes) -> object:
        """Changes fields, drawn by the input, and makes the manifest's own checksum fit."""
        rng, document = random.Random(data), json.loads(stored)
        del document["manifest_sha256"]
        for _ in range(rng.choice((1, 1, 2))):
            path, inner = rng.choice(places), document
            try:
                for key in path[:-1]:
                    inner = inner[key]
                if rng.random() < 0.8:
                    inner[path[-1]] = rng.choice(values)
                else:
                    del inner[path[-1]]
            except (KeyError, IndexError, TypeError):
                pass
        document["manifest_sha256"] = sha256(to_json(document)).hexdigest()
        return Manifest.from_bytes(to_json(document))

    def read_graph(data: bytes) -> object:
        """Reads a graph whose digest in the manifest fits."""
        changed = StoredFile.for_data("graph", "onnx", data)
        path = folder / "x.dni" / changed.file
        path.write_bytes(data)
        try:
            return replace(bundle, manifest=replace(bundle.manifest, graph=changed)).read_graph()
        finally:
            path.unlink()

    def read_member(data: bytes) -> object:
        first = bundle.manifest.members[0]
        changed = StoredFile.for_data(first.name, "safetensors", data)
        path = folder / "x.dni" / changed.file
        path.write_bytes(data)
        members = (replace(first, stored=changed), *bundle.manifest.members[1:])
        try:
            return replace(bundle, manifest=replace(bundle.manifest, members=members)).read_weights("a")
        finally:
            path.unlink()

    assert isinstance(bundle, Bundle)
    graph = (folder / "x.dni" / bundle.manifest.graph.file).read_bytes()
    member = (folder / "x.dni" / bundle.manifest.members[0].stored.file).read_bytes()
    return {
        "manifest": Target((stored,), Manifest.from_bytes, (b"null", b"1e5", b"{}", b"[]")),
        "sealed-manifest": Target((b"x" * 16,), read_sealed),
        "sealed-graph": Target((graph,), read_graph, (b"../", b"location", b"offset", b"length")),
        "sealed-member": Target((member,), read_member, (b'"shape"', b'"F16"')),
    }


def _make_texts(folder: Path) -> dict[str, Target]:
    def text(read: Callable[[str], object]) -> Callable[[bytes], object]:
        return lambda data: read(data.decode("utf-8", "surrogateescape"))

    def open_source(place: Any, members: tuple[str, ...] = MEMBERS) -> None:
        source: Any = open_alpha_source(place, members, fps=25.0)
        for seconds, frame in ((0.0, 0), (0.5, 12), (3.0, 75), (1e9, 10**9)):
            source.at(seconds, frame)
        if hasattr(source, "to_json"):
            json.dumps(source.to_json(), allow_nan=False)

    alphas = (
        b"0.35", b"a=0.35,b=0.65", b"b=0.65", b"0.35,0.65", b"path=0.4", b"0:b=0, 2.5s:b=1, 4s:b=0.3; smooth; loop", b"0f:b=0, 75f:b=1",
        b"0:a=0.8,b=0.2, 1:02.5:b=1; hold", b"sine(period=4s, from=a, to=b)", b"triangle(period=100f, from=a=0.8,b=0.2, to=b)",
    )  # fmt: skip
    rules = (b"norm:*=0.2", b"body.[0-7].*=0.8", b"body.*=0.2..0.8", b"bias:*=base*0.5", b"*=base+0.1", b"a*=a=0.2,b=0.8..b=1")
    track = {
        "schema": 1, "members": ["a", "b"], "interpolation": "smooth", "loop": False,
        "keyframes": [
            {"time": 0.0, "alpha": {"a": 1.0, "b": 0.0}}, {"time": "1:02.5", "alpha": {"b": 1.0}}, {"time": 70, "alpha": [0.5, 0.5]},
        ],
    }  # fmt: skip
    three = (*MEMBERS, "c")
    plane = {"schema": 1, "plane": {"a": [0, 0], "b": [1, 0], "c": [0.5, 1]}}
    path = {
        **plane,
        "interpolation": "smooth",
        "loop": True,
        "keyframes": [{"time": 0, "at": [0.1, 0.1]}, {"time": 3, "at": [0.9, 0.2]}],
    }
    log: list[dict[str, Any]] = [{"format": "dni-deploy alpha log", "schema": 1, "members": ["a", "b"], "bundle": ""}]
    log += [{"frame": k, "seconds": k / 25, "generation": k + 1, "shares": [1 - k / 10, k / 10]} for k in range(3)]
    preset = Preset(
        MEMBERS, Coefficients.parse("0.3", MEMBERS), tuple(parse_rule(rule.decode(), MEMBERS) for rule in rules[:3])
    )
    marks = (b'"frame"', b'"at"', b'"alpha"', b'"keyframes"', b'"plane"')
    timelines = (json.dumps(track).encode(), b'{"schema": 1, "curve": "sine(period=4s, from=a, to=b)"}')
    controls = (b"sigma=0..50/255@15/255", b"label:5=0..1@0", b"label.0=0..1@1")
    return {
        "alpha": Target(alphas, text(open_source), (b"s", b"f", b"+", b"sine(", b"; loop")),
        "shares": Target((*alphas[:2], *alphas[3:5]), text(lambda value: Coefficients.parse(value, MEMBERS))),
        "rule": Target(
            rules, text(lambda value: parse_rule(value, MEMBERS)), (b"]", b"*" * 50, b"?", b"[!", b"..", b"base", b"base*")
        ),
        "control": Target(controls, text(lambda value: parse_declarations([value])), (b"@", b"..", b"/0", b":999999")),
        "osc-map": Target(
            (b"/fader=alpha", b"/x=alpha:b[0..127]", b"/p=plane"),
            text(lambda value: parse_osc_mapping(value, MEMBERS)),
            (b"[", b".."),
        ),
        "timeline": Target(timelines, _read_file(folder, ".json", open_source), marks),
        "plane-path": Target(
            (json.dumps(path).encode(),), _read_file(folder, ".json", lambda place: open_source(place, three)), marks
        ),
        "csv": Target(
            (b"time,a,b\n0,1,0\n2.5,0,1\n1:02.5,,0.3\n", b"frame,a,b\r\n0,1,0\r\n5,0,1\r\n"),
            _read_file(folder, ".csv", open_source),
        ),
        "log": Target(
            ("".join(json.dumps(row) + "\n" for row in log).encode(),), _read_file(folder, ".jsonl", open_source), marks
        ),
        "preset": Target((json.dumps(preset.to_json()).encode(),), _read_file(folder, ".json", Preset.read), marks),
        "plane": Target(
            (json.dumps(plane).encode(),),
            _read_file(folder, ".json", lambda place: ControlPlane.read(place, three).at(0.3, 0.4)),
        ),
    }


def _make_pictures(folder: Path) -> dict[str, Target]:
    pixels = np.random.default_rng(0).integers(0, 255, (9, 11, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    pieces = (
        b"IDAT",
        b"IHDR",
        b"eXIf",
        b"iCCP",
        b"acTL",
        b"PLTE",
        b"tRNS",
        b"\xff\xd8",
        b"\xff\xe1",
        b"VP8X",
        b"ALPH",
        b"EXIF",
    )
    targets = {}
    kinds = (
        ("PNG", "RGB"),
        ("PNG", "P"),
        ("PNG", "RGBA"),
        ("JPEG", "RGB"),
        ("WEBP", "RGB"),
        ("BMP", "RGB"),
        ("TIFF", "RGB"),
        ("GIF", "P"),
    )
    for kind, mode in kinds:
        buffer = io.BytesIO()
        exif = Image.Exif()
        exif[0x0112] = 6
        image.convert(mode).save(
            buffer,
            kind,
            **({"lossless": True} if kind == "WEBP" else {}),
            **({"exif": exif} if kind in ("PNG", "JPEG", "WEBP") else {}),
        )
        read = _read_file(folder, f".{kind.lower()}", read_image)
        targets[f"{kind.lower()}-{mode.lower()}"] = Target((buffer.getvalue(),), read, pieces)
    buffer = io.BytesIO()
    image.convert("L").save(buffer, "PNG")
    targets["mask"] = Target((buffer.getvalue(),), _read_file(folder, ".png", AlphaMap.read), pieces)

    from dni_deploy.video_io import y4m

    def read_y4m(data: bytes) -> None:
        stream = io.BytesIO(data)
        for number, _ in enumerate(y4m.Y4mFormat(stream, 1, fps=None).read()):
            if number > 20:
                break

    head, frame = b"YUV4MPEG2 W8 H6 F25:1 Ip A1:1 C420jpeg XYSCSS=420JPEG\n", b"FRAME\n" + bytes(range(72))
    other = b"YUV4MPEG2 W7 H5 F30000:1001 C444 XCOLORRANGE=FULL\nFRAME Ip XDNI=x\n" + b"\0" * 105
    deep = b"YUV4MPEG2 W4 H2 F25:1 C422p10\nFRAME\n" + b"\xff" * 32
    words = (b"W0", b"W99999", b"H1000000000", b"C420p10", b"FRAME", b"F0:0", b"F1:0", b"Cmono", b"C420p16", b"It")
    targets["y4m"] = Target((head + frame * 3, other, deep), read_y4m, words)
    return targets


class _Connection:
    """A socket that holds a whole request, and takes the answer."""

    def __init__(self, data: bytes) -> None:
        self._data, self.answer = data, b""

    def makefile(self, *_: object) -> io.BytesIO:
        return io.BytesIO(self._data)

    def sendall(self, data: bytes) -> None:
        self.answer += data

    def settimeout(self, seconds: float) -> None:
        pass

    def getsockname(self) -> tuple[str, int]:
        return ("127.0.0.1", 80)


class _Server:
    def __init__(self, listener: HttpAlphaListener) -> None:
        self.listener = listener


def _make_controls() -> dict[str, Target]:
    members = ("a", "b", "c")
    shared = SharedAlpha(members, Coefficients.one_hot("a", members), controls=parse_declarations(["sigma=0..1@0.5"]))
    plane = ControlPlane.default(members)

    def silent(sentence: str) -> None:
        """Reports to nobody."""

    osc = OscAlphaListener(shared, 0, mappings=["/fader=alpha:b[0..127]"], plane=plane, report=silent)
    http = HttpAlphaListener(shared, 8080, token="t" * 24, plane=plane, report=silent)
    handler = AlphaMessageHandler(shared, "lines", plane, silent)
    midi = ControlChangeHandler(AlphaMessageHandler(shared, "MIDI", plane, silent), {1: "a", 7: "b", 10: "sigma"})

    def read_osc(data: bytes) -> None:
        for message in parse_messages(data):
            osc._handle_message(message)

    def read_http(data: bytes) -> None:
        connection = _Connection(data)
        _RequestHandler(connection, ("127.0.0.1", 1), _Server(http))  # type: ignore[arg-type]
        # What is not HTTP at all is answered as in HTTP/0.9, without a head.
        assert not connection.answer or connection.answer.startswith((b"HTTP/1.0 ", b'{"schema"'))

    def read_midi(data: bytes) -> None:
        import mido

        parser = mido.Parser()
        parser.feed(data)
        for message in parser:
            midi.handle_message(message)

    def read_line(data: bytes) -> None:
        handler.set_from_line(data.decode("utf-8", "replace"))

    def pad(text: bytes) -> bytes:
        return text + b"\0" * (4 - len(text) % 4)

    alpha = pad(b"/dni/alpha/b") + pad(b",f") + struct.pack(">f", 0.4)
    shares = pad(b"/dni/shares") + pad(b",[fff]") + struct.pack(">fff", 0.4, 0.5, 0.1)
    bundle = b"#bundle\0" + struct.pack(">Q", 1) + b"".join(struct.pack(">i", len(part)) + part for part in (alpha, shares))
    body = b'{"alpha": [0.4, 0.5, 0.1]}'
    put = b"PUT /alpha HTTP/1.1\r\nHost: 127.0.0.1:8080\r\nAuthorization: Bearer " + b"t" * 24
    put += b"\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    get = b"GET /alpha HTTP/1.1\r\nHost: localhost:8080\r\nAuthorization: Bearer " + b"t" * 24 + b"\r\n\r\n"
    page = (
        b'{"alpha": [0.4, 0.6], "request_id": 3}',
        b'{"point": [0.1, 0.9]}',
        b'{"share": {"member": "b", "value": 0.3}, "next": true}',
        b'{"control": {"name": "sigma", "value": 1}, "views": ["blend"]}',
    )
    return {
        "osc": Target(
            (alpha, shares, bundle, pad(b"/dni/*") + pad(b",d") + struct.pack(">d", 0.1)),
            read_osc,
            (b"#bundle\0", b",f", b"{a,b}", b"[!a]", b"//", b",T", b"/fader"),
        ),
        "http": Target(
            (put, get),
            read_http,
            (b"Content-Length: 5", b"\r\n\r\n", b"Transfer-Encoding: chunked", b"Origin: null", b"HTTP/9", b"OPTIONS", b"%00"),
        ),
        "midi": Target(
            (bytes((0xB0, 1, 64, 0xB0, 33, 5, 0xB1, 7, 127, 10, 3)), b"\xf0\x7e\x7f\xf7\xb0\x01\x40"),
            read_midi,
            (b"\xb0", b"\xf0", b"\xf7", b"\xf8", b"\x90"),
        ),
        "lines": Target(
            (b"alpha 0.4,0.5,0.1", b"b 0.7", b"plane 0.3 0.7", b"sigma 0.1", b"a=0.3,b=0.7"),
            read_line,
            (b"plane", b"path=", b"sigma"),
        ),
        "page": Target(
            page, lambda data: parse_client_request(data.decode("utf-8", "replace")), (b'"record"', b'"views"', b'"control"')
        ),
    }


# --- by hand


_GUIDED = """import atheris, sys
with atheris.instrument_imports(include=["dni_deploy"]):
    from tests.campaign import fuzz
sys.exit(fuzz.main())"""
"""Starts this module so that atheris sees which of our branches an input takes."""


def _run_in_child(name: str, options: argparse.Namespace) -> tuple[int, list[str]]:
    """Runs one target in a process of its own: what ends it is bad, too."""
    with tempfile.TemporaryDirectory(prefix="dni-fuzz-", dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as folder:
        command = [sys.executable, *(("-c", _GUIDED, "--atheris") if options.atheris else ("-m", "tests.campaign.fuzz"))]
        command += ["--child", folder, "--seed", str(options.seed), "--seconds", str(options.seconds)]
        command += ["--inputs", str(options.inputs)] if options.inputs else []
        result = subprocess.run([*command, name], cwd=ROOT, capture_output=True, text=True, check=False)
        path, last = Path(folder, "answer"), Path(folder, "last")
        answer = json.loads(path.read_text()) if path.exists() else {"tally": {}, "bad": {}, "mb": 0}
        bad = [f"{problem}\n      {_keep_input(name, bytes.fromhex(data))}" for problem, data in answer["bad"].items()]
        if result.returncode != 0:
            where = _keep_input(name, last.read_bytes()) if last.exists() else ""
            bad.append(f"the process ended with {result.returncode}: {result.stderr[-600:]}\n      {where}")
        count = sum(answer["tally"].values())
        print(f"{name:16s} {count:8,} {answer['tally']} {answer['mb']} MB, {len(bad)} bad", flush=True)
        return count, [f"{name}: {problem}" for problem in bad]


def _write_answer(folder: Path, tally: Counter[str], bad: dict[str, bytes]) -> None:
    found = {problem: data.hex() for problem, data in bad.items()}
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    (folder / "answer").write_text(json.dumps({"tally": tally, "bad": found, "mb": memory}))


def _keep_input(name: str, data: bytes) -> Path:
    folder = Path(tempfile.gettempdir(), "dni-fuzz-found")
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}.{sha256(data).hexdigest()[:8]}"
    path.write_bytes(data)
    return path


def _run_atheris(name: str, target: Target, seconds: float, folder: Path) -> None:
    """Lets coverage choose the inputs; does not return, but ends the process."""
    import atheris

    seeds = folder / "seeds"
    seeds.mkdir()
    for index, seed in enumerate(target.seeds):
        (seeds / str(index)).write_bytes(seed)
    tally, bad = Counter[str](), dict[str, bytes]()

    def run_one(data: bytes) -> None:
        kind, problem = try_input(target, data)
        tally[kind] += 1
        if problem:
            bad.setdefault(problem, data)
        if problem or sum(tally.values()) % 500 == 0:
            _write_answer(folder, tally, bad)

    atheris.Setup([name, f"-max_total_time={int(seconds)}", "-max_len=8192", str(seeds)], run_one)
    atheris.Fuzz()


def main() -> int:
    """Runs what the command line asks for; exit code 1 where something was bad."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="*", metavar="TARGET")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--inputs", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--atheris", action="store_true")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        names = options.targets or list(make_targets(Path(folder)))
    if options.child is None:
        results = [_run_in_child(name, options) for name in names]
        problems = [problem for _, found in results for problem in found]
        print(f"{sum(count for count, _ in results):,} inputs, {len(problems)} bad", *problems, sep="\n  ", flush=True)
        return bool(problems)
    (name,) = options.targets
    scratch = options.child / "scratch"
    scratch.mkdir()
    target = make_targets(scratch)[name]
    if options.atheris:
        _run_atheris(name, target, options.seconds, options.child)
        return 0
    tally, bad = run_target(
        name, target, options.seed, inputs=options.inputs, seconds=options.seconds, last=options.child / "last"
    )
    _write_answer(options.child, tally, bad)
    shutil.rmtree(scratch)
    return 0


if __name__ == "__main__":
    sys.exit(main())
