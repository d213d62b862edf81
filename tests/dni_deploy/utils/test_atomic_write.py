"""Atomic writes: old or new and never anything else, through faults, kills and full disks."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import stat
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dni_deploy.bundle.bundle import Bundle
from dni_deploy.errors import DniError, InputError, LimitError, UsageError
from dni_deploy.utils import atomic_write
from dni_deploy.utils.atomic_write import (
    check_outputs,
    make_folder,
    write_bytes,
    write_bytes_atomically,
    write_file_atomically,
    write_folder_atomically,
)
from dni_deploy.utils.private_file import write_private_file
from tests.support import pico_bundle as pico

OLD, NEW = b"old", b"new" * 1000


def write_while(context: AbstractContextManager[Path], meanwhile: Callable[[], object]) -> None:
    """Writes NEW atomically, and calls something just before the file gets its name."""
    with context as temporary:
        (temporary / "file" if temporary.is_dir() else temporary).write_bytes(NEW)
        meanwhile()


def test_a_file_appears_complete_and_without_leftovers(tmp_path: Path) -> None:
    target = tmp_path / "x.png"
    with write_file_atomically(target) as temporary:
        assert temporary.parent == tmp_path
        assert temporary.name.startswith(".x.png.")
        assert str(os.getpid()) in temporary.name
        assert temporary.suffix == ".png"  # as writers use it
        temporary.write_bytes(NEW)
        assert not target.exists()
    assert target.read_bytes() == NEW
    assert os.listdir(tmp_path) == ["x.png"]


def test_an_existing_file_is_kept_without_force_and_replaced_with_it(tmp_path: Path) -> None:
    target = tmp_path / "x"
    target.write_bytes(OLD)
    entered = False
    with (
        pytest.raises(UsageError, match=r"exists; give --force to replace it. Nothing was written."),
        write_file_atomically(target),
    ):
        entered = True
    assert not entered
    assert target.read_bytes() == OLD
    write_bytes_atomically(target, NEW, force=True)
    assert target.read_bytes() == NEW


def test_a_file_that_appears_meanwhile_is_kept(tmp_path: Path) -> None:
    target = tmp_path / "x"
    with pytest.raises(UsageError, match="by another process"):
        write_while(write_file_atomically(target), lambda: target.write_bytes(OLD))
    assert target.read_bytes() == OLD
    assert os.listdir(tmp_path) == ["x"]


def test_writing_works_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(*_: Any, **__: Any) -> None:
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(atomic_write, "os", SimpleNamespace(**{**vars(os), "link": no_links}))
    write_bytes_atomically(tmp_path / "x", NEW)
    assert (tmp_path / "x").read_bytes() == NEW
    with pytest.raises(UsageError):
        write_while(write_file_atomically(tmp_path / "y"), lambda: (tmp_path / "y").write_bytes(OLD))
    assert (tmp_path / "y").read_bytes() == OLD
    assert sorted(os.listdir(tmp_path)) == ["x", "y"]


@pytest.mark.parametrize("force", [False, True])
def test_impossible_targets_are_refused(tmp_path: Path, force: bool) -> None:
    (tmp_path / "folder").mkdir()
    for path, message in (
        (tmp_path / "folder", "folder|not a file"),
        (tmp_path / "absent" / "x", "does not exist"),
        ("", "not the name"),
        (tmp_path / "..", "not the name"),
        (tmp_path / ("x" * 256), "too long"),
    ):
        with pytest.raises(UsageError, match=message), write_file_atomically(path, force=force) as temporary:
            temporary.write_bytes(NEW)
    assert os.listdir(tmp_path) == ["folder"]


@pytest.mark.skipif(os.name == "nt", reason="links need a privilege there")
def test_a_link_is_replaced_and_not_followed(tmp_path: Path) -> None:
    (tmp_path / "real").write_bytes(OLD)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with pytest.raises(UsageError):
        write_bytes_atomically(tmp_path / "link", NEW)
    write_bytes_atomically(tmp_path / "link", NEW, force=True)
    assert (tmp_path / "real").read_bytes() == OLD
    assert (tmp_path / "link").read_bytes() == NEW


@pytest.mark.parametrize("raised", [KeyboardInterrupt, ValueError, SystemExit])
def test_any_exception_keeps_the_old_file_and_no_temporary(tmp_path: Path, raised: type[BaseException]) -> None:
    target = tmp_path / "x"
    target.write_bytes(OLD)

    def fail() -> None:
        raise raised

    with pytest.raises(raised):
        write_while(write_file_atomically(target, force=True), fail)
    with pytest.raises(raised):
        write_while(write_folder_atomically(tmp_path / "folder"), fail)
    assert os.listdir(tmp_path) == ["x"]
    assert target.read_bytes() == OLD


def test_os_errors_inside_the_block_are_explained(tmp_path: Path) -> None:
    def attempt(error: OSError) -> None:
        with write_file_atomically(tmp_path / "x"):
            raise error

    with pytest.raises(LimitError, match=r"no room to write .*Nothing was written"):
        attempt(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    with pytest.raises(FileNotFoundError):  # errors about other files pass through
        attempt(FileNotFoundError(errno.ENOENT, "gone", "input.png"))


def test_a_block_that_writes_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="could not be written"), write_file_atomically(tmp_path / "x"):
        pass
    assert os.listdir(tmp_path) == []


def test_only_a_new_or_empty_folder_is_published(tmp_path: Path) -> None:
    with write_folder_atomically(tmp_path / "new") as temporary:
        (temporary / "inner").mkdir()
        (temporary / "inner" / "file").write_bytes(NEW)
        assert not (tmp_path / "new").exists()
    assert (tmp_path / "new" / "inner" / "file").read_bytes() == NEW
    (tmp_path / "empty").mkdir()
    for force, path in ((False, "new"), (True, "new"), (False, "empty")):
        with pytest.raises(UsageError), write_folder_atomically(tmp_path / path, force=force):
            pytest.fail("entered")
    with write_folder_atomically(tmp_path / "empty", force=True) as temporary:
        (temporary / "file").write_bytes(OLD)
    with pytest.raises(UsageError, match="created by another process meanwhile"):
        write_while(
            write_folder_atomically(tmp_path / "raced"), lambda: shutil.copytree(tmp_path / "empty", tmp_path / "raced")
        )
    assert os.listdir(tmp_path / "raced") == ["file"]
    assert (tmp_path / "raced" / "file").read_bytes() == OLD
    assert sorted(os.listdir(tmp_path)) == ["empty", "new", "raced"]


@pytest.mark.skipif(os.name == "nt", reason="process numbers are not looked at there")
def test_temporaries_of_dead_processes_are_removed_and_others_kept(tmp_path: Path) -> None:
    ended_process = subprocess.Popen([sys.executable, "-c", "pass"])
    ended_process.wait()
    host = atomic_write._compute_host_id()
    dead = tmp_path / f".x.{ended_process.pid}-{host}-00000000.part"
    alive = tmp_path / f".x.{os.getppid()}-{host}-00000000.part"
    other_folder = tmp_path / f".x.{ended_process.pid}-{'0' * 6}-00000000.part"
    leftover = tmp_path / f".x.{ended_process.pid}-{'0' * 6}-11111111.part"
    other = tmp_path / f".y.{ended_process.pid}-{host}-00000000.part"
    for path in (dead, alive, other_folder, leftover, other):
        path.write_bytes(OLD)
    os.utime(leftover, (0, 0))
    folder = tmp_path / f".x.{ended_process.pid}-{host}-22222222.part"
    folder.mkdir()
    (folder / "file").touch()
    write_bytes_atomically(tmp_path / "x", NEW)
    assert set(os.listdir(tmp_path)) == {"x", alive.name, other_folder.name, other.name}


CALLS = ("open", "write", "fsync", "close", "replace", "link", "rename", "mkdir", "unlink")


class FaultyOs:
    """The module os, whose n-th call of those in CALLS fails; `short` makes writes end early instead of failing."""

    def __init__(self, failing_call: int, code: int, for_ever: bool) -> None:
        self.at, self.code, self.for_ever, self.count, self.failed = failing_call, code, for_ever, 0, ""

    def __getattr__(self, name: str) -> Any:
        real = getattr(os, name)
        if name not in CALLS:
            return real

        def call(*arguments: Any, **options: Any) -> Any:
            self.count += 1
            if self.count == self.at or (self.for_ever and self.count > self.at):
                self.failed = name
                if name == "close":
                    real(*arguments)  # a failing close still closes
                raise OSError(self.code, os.strerror(self.code), arguments[0] if isinstance(arguments[0], str) else None)
            if name == "write" and len(arguments[1]) > 1:
                return real(arguments[0], arguments[1][: len(arguments[1]) // 2 + 1])  # short writes throughout
            return real(*arguments, **options)

        return call


def temporaries(folder: Path) -> list[str]:
    return [name for name in os.listdir(folder) if ".part" in name]


def every_fault(
    monkeypatch: pytest.MonkeyPatch, job: Callable[[], object], verify: Callable[[bool, FaultyOs], None], codes: tuple[int, ...]
) -> int:
    """Runs the job with each fault until none occurs; returns the number of faults."""
    faults = 0
    for code, for_ever in product(codes, (False, True)):
        for failing_call in range(1, 500):
            faulty, error = FaultyOs(failing_call, code, for_ever), None
            with monkeypatch.context() as patches:
                patches.setattr(atomic_write, "os", faulty)
                try:
                    job()
                except DniError as raised:
                    error = raised
            assert "\n" not in str(error)
            verify(error is not None, faulty)
            if faulty.count < failing_call:
                assert error is None
                break
            faults += 1
        else:
            pytest.fail("never succeeded")
    return faults


CODES = (errno.EIO, errno.ENOSPC, errno.EACCES)

SOME_CODES = [
    pytest.param((errno.ENOSPC,), id="ENOSPC"),
    pytest.param((errno.EIO, errno.EACCES), id="rest", marks=pytest.mark.slow),
]


@pytest.mark.parametrize("force", [False, True])
def test_every_fault_of_a_file_write_leaves_old_or_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, force: bool) -> None:
    target = tmp_path / "x"

    def prepare() -> None:
        target.unlink(missing_ok=True)
        if force:
            target.write_bytes(OLD)

    def verify(failed: bool, faulty: FaultyOs) -> None:
        content = target.read_bytes() if target.exists() else None
        assert content == NEW or (failed and content == (OLD if force else None))
        # A disk that fails forever prevents cleanup, too; a single fault must leave nothing behind.
        if not faulty.for_ever:
            assert len(temporaries(tmp_path)) <= (faulty.failed == "unlink")  # except after a fault in the cleanup itself
        for name in temporaries(tmp_path):
            (tmp_path / name).unlink()
        prepare()

    prepare()
    assert every_fault(monkeypatch, lambda: write_bytes_atomically(target, NEW, force=force), verify, CODES) > 20


@pytest.mark.parametrize("codes", SOME_CODES)
def test_every_fault_of_a_new_bundle_leaves_nothing_or_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, codes: tuple[int, ...]
) -> None:
    target = tmp_path / "x.dni"

    def verify(failed: bool, faulty: FaultyOs) -> None:
        if target.exists():
            assert Bundle.open(target).members == ("a", "b")
        else:
            assert failed
        assert temporaries(tmp_path) == []
        shutil.rmtree(target, ignore_errors=True)

    assert every_fault(monkeypatch, lambda: pico.write(target), verify, codes) > 20


@pytest.mark.parametrize("codes", SOME_CODES)
def test_every_fault_of_a_replacement_leaves_the_old_or_the_new_bundle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, codes: tuple[int, ...]
) -> None:
    target, original_copy = tmp_path / "x.dni", tmp_path / "old.dni"
    old = pico.write(original_copy).digest
    shutil.copytree(original_copy, target)
    new: set[str] = set()

    def verify(failed: bool, faulty: FaultyOs) -> None:
        bundle = Bundle.open(target)
        if bundle.digest != old:
            new.add(bundle.digest)
            assert bundle.members == ("a", "b", "c")
        else:
            assert failed
        shutil.rmtree(target)
        shutil.copytree(original_copy, target)

    assert every_fault(monkeypatch, lambda: pico.write(target, force=True, count=3), verify, codes) > 40
    assert len(new) == 1


WRITER = """
    import sys
    from pathlib import Path
    from dni_deploy.utils.atomic_write import write_bytes_atomically
    from tests.support import pico_bundle as pico

    folder = Path(sys.argv[1])
    print("ready", flush=True)
    while True:
        for seed in (1, 2):
            write_bytes_atomically(folder / "x", bytes([seed]) * 100_000, force=True)
            pico.write(folder / "x.dni", force=True, b=pico.tensors(seed))
"""


@contextmanager
def process(code: str, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    root = Path(__file__).parents[3]
    started = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)],
        stdout=subprocess.PIPE, text=True, cwd=root, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    try:
        yield started
    finally:
        started.kill()
        started.wait()
        if started.stdout:
            started.stdout.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills forked children")
def test_a_kill_at_any_time_leaves_a_complete_file_and_bundle(tmp_path: Path) -> None:
    # One process that has imported everything forks the writers: an import for each of 20 would take most of the time.
    write_bytes_atomically(tmp_path / "x", b"\1" * 100_000)
    pico.write(tmp_path / "x.dni", b=pico.tensors(1))
    server = f"""
        import os, signal, sys, time, random
        from tests.support import pico_bundle
        writer = compile({textwrap.dedent(WRITER)!r}, "writer", "exec")
        times = random.Random(7)
        for number in range(20):
            child = os.fork()
            if child == 0:
                sys.stdout = open(os.devnull, "w")
                exec(writer, {{}})
            time.sleep(0.005 + 0.1 * times.random())
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            print(number, flush=True)
            sys.stdin.readline()
    """
    root = Path(__file__).parents[3]
    forker = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(server), str(tmp_path)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=root, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert forker.stdin is not None
    assert forker.stdout is not None
    digests = set()
    try:
        for number in range(20):
            assert forker.stdout.readline().strip() == str(number)
            content = (tmp_path / "x").read_bytes()
            assert content in (b"\1" * 100_000, b"\2" * 100_000)
            digests.add(Bundle.open(tmp_path / "x.dni").digest)
            forker.stdin.write("\n")
            forker.stdin.flush()
        assert len(digests) <= 2
    finally:
        forker.kill()
        forker.communicate()
    # The next write removes what the kills left of the same target.
    write_bytes_atomically(tmp_path / "x", OLD, force=True)
    assert [name for name in temporaries(tmp_path) if name.startswith(".x.") and ".dni." not in name] == []
    bundle = pico.write(tmp_path / "x.dni", force=True)
    assert bundle.members == ("a", "b")


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_FSIZE")
def test_a_full_disk_is_a_limit_error_and_keeps_the_old_file(tmp_path: Path) -> None:
    old = pico.write(tmp_path / "x.dni").digest
    (tmp_path / "x").write_bytes(OLD)
    code = """
        import resource, sys
        from pathlib import Path
        from dni_deploy.errors import LimitError
        from dni_deploy.utils.atomic_write import write_bytes_atomically
        from tests.support import pico_bundle as pico

        folder = Path(sys.argv[1])
        resource.setrlimit(resource.RLIMIT_FSIZE, (700, 700))  # smaller than each of the bundle's files
        for job in (
            lambda: write_bytes_atomically(folder / "x", bytes(5000), force=True),
            lambda: pico.write(folder / "x.dni", force=True, count=3),
            lambda: pico.write(folder / "new.dni"),
        ):
            try:
                job()
            except LimitError as error:
                print(error)
    """
    with process(code, tmp_path) as full:
        lines = full.communicate(timeout=60)[0].splitlines()
    assert len(lines) == 3
    assert all("no room" in line for line in lines)
    assert "The old one is untouched." in lines[0]
    assert Bundle.open(tmp_path / "x.dni").digest == old
    assert (tmp_path / "x").read_bytes() == OLD
    assert sorted(os.listdir(tmp_path)) == ["x", "x.dni"]
    assert len(os.listdir(tmp_path / "x.dni")) == 4


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_ctrl_c_removes_the_temporary(tmp_path: Path) -> None:
    code = """
        import sys, time
        from dni_deploy.utils.atomic_write import write_file_atomically

        with write_file_atomically(sys.argv[1]) as temporary:
            temporary.write_bytes(b"part")
            print("ready", flush=True)
            time.sleep(60)
    """
    with process(code, tmp_path / "x") as interrupted:
        assert interrupted.stdout is not None
        assert interrupted.stdout.readline() == "ready\n"
        interrupted.send_signal(signal.SIGINT)
        deadline = time.monotonic() + 10
        while interrupted.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
    assert os.listdir(tmp_path) == []


def test_possible_outputs_pass(tmp_path: Path) -> None:
    existing = tmp_path / "there.png"
    existing.write_bytes(b"x")
    assert check_outputs((tmp_path / "a.png", None), force=False) == (str(tmp_path / "a.png"),)
    assert check_outputs((existing,), force=True) == (str(existing),)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("there.png",), "exists; give --force"),
        (("none/a.png",), "folder of .* does not exist"),
        (("a.png", "./a.png"), "one name"),
    ],
)
def test_impossible_outputs_are_refused(tmp_path: Path, names: tuple[str, ...], message: str) -> None:
    (tmp_path / "there.png").write_bytes(b"x")
    with pytest.raises(UsageError, match=message):
        check_outputs([tmp_path / name if name[0] != "." else f"{tmp_path}/{name}" for name in names], force=False)


def test_a_large_folder_is_not_listed_for_every_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And what a killed process left is removed when the folder is listed again."""
    listed: list[float] = []
    now = 0.0

    def list_slowly(path: Path) -> list[str]:
        nonlocal now
        listed.append(now)
        now += 0.1  # as a folder of 100,000 names may take
        return os.listdir(path)

    monkeypatch.setattr(atomic_write, "os", SimpleNamespace(**{**vars(os), "listdir": list_slowly}))
    monkeypatch.setattr(atomic_write, "time", SimpleNamespace(time=time.time, monotonic=lambda: now))
    stale = tmp_path / f".49.{2**22 + 1}-{atomic_write._compute_host_id()}-00000000.part"
    for number in range(50):
        now += 0.01
        write_bytes_atomically(tmp_path / str(number), NEW)
        if number == 20:
            stale.touch()
    assert len(listed) == 1
    now += 6.0
    write_bytes_atomically(tmp_path / "49", OLD, force=True)
    assert len(listed) == 2
    assert not stale.exists()


@pytest.mark.parametrize("name", ["n" * 251 + ".bin", "n" * 240, "\u7d75" * 83 + ".png", "n." + "s" * 240])
def test_every_name_that_the_disk_takes_is_written(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The temporary name is longer than the target's, and a library may look at its suffix."""
    with write_file_atomically(tmp_path / name) as temporary:
        assert len(Path(name).suffix) > 32 or temporary.name.endswith(f".part{Path(name).suffix}")
        write_bytes(temporary, NEW)
    assert os.listdir(tmp_path) == [name]
    start, end = atomic_write._frame_temporary_name(tmp_path / name)
    stale = (
        tmp_path / f"{start}{2**22 + 1}-{atomic_write._compute_host_id()}-00000000{end}"
    )  # beyond the largest process number
    stale.write_bytes(OLD)
    monkeypatch.setattr(atomic_write, "_listing_by_folder", {})  # as a program that begins later has it
    write_bytes_atomically(tmp_path / name, NEW, force=True)
    assert os.listdir(tmp_path) == [name]


@pytest.mark.skipif(os.name == "nt", reason="modes mean something else there")
@pytest.mark.parametrize("umask", [0o022, 0o077, 0o000])
def test_what_replaces_a_file_has_its_mode(tmp_path: Path, umask: int) -> None:
    (tmp_path / "link").symlink_to("file")
    before = os.umask(umask)
    try:
        for mode in (0o600, 0o640, 0o664, 0o444):
            path = tmp_path / "file"
            path.write_bytes(OLD)
            path.chmod(mode)
            write_bytes_atomically(path, NEW, force=True)
            assert stat.S_IMODE(path.stat().st_mode) == mode
            write_bytes_atomically(tmp_path / f"new {mode}", NEW, mode_of=path)
            assert stat.S_IMODE((tmp_path / f"new {mode}").stat().st_mode) == mode
            path.unlink()
        write_bytes_atomically(tmp_path / "new", NEW)
        assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o666 & ~umask
        write_bytes_atomically(tmp_path / "link", NEW, force=True)
        assert stat.S_IMODE((tmp_path / "link").stat().st_mode) == 0o666 & ~umask
        (tmp_path / "folder").mkdir(mode=0o700)
        with write_folder_atomically(tmp_path / "folder", force=True) as temporary:
            (temporary / "file").write_bytes(NEW)
        assert stat.S_IMODE((tmp_path / "folder").stat().st_mode) == 0o700
        (tmp_path / "public").write_bytes(OLD)
        (tmp_path / "public").chmod(0o644)
        write_private_file(tmp_path / "public", (NEW,), force=True)
        assert stat.S_IMODE((tmp_path / "public").stat().st_mode) == 0o600
    finally:
        os.umask(before)


@pytest.mark.skipif(not Path("/proc/self/ns/pid").exists(), reason="this system has no namespaces")
def test_a_process_number_of_another_namespace_means_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two containers of one host name see other processes under the same numbers."""
    ids, real = set[str](), os.stat

    def look(path: object, *arguments: object, **keywords: object) -> object:
        if path == "/proc/self/ns/pid":
            return SimpleNamespace(st_ino=len(ids))
        return real(path, *arguments, **keywords)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "stat", look)
    for _ in range(2):
        ids.add(atomic_write._compute_host_id.__wrapped__())
    assert len(ids) == 2


def test_a_folder_made_for_nothing_is_removed(tmp_path: Path) -> None:
    for name, made in (("new", False), ("old", True)):
        folder = tmp_path / name
        if made:
            folder.mkdir()
        with pytest.raises(ValueError, match="no"), make_folder(folder):
            raise ValueError("no")
        assert folder.exists() == made
        with make_folder(folder):
            (folder / "file").touch()
        with pytest.raises(ValueError, match="no"), make_folder(folder):
            raise ValueError("no")
        assert (folder / "file").exists()
