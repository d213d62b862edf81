"""Power loss: records what a writer asks of the file system, and enumerates what a power cut may leave of it.

The model is that of POSIX, stricter than any one file system. What a file holds is safe from its last fsync on; what was written
later may be there, in part, or not. A name (created, linked, renamed, removed) is safe from the next fsync of its folder on; of
the changes since then, any may be there and any may not, but a rename is one change. Only names and content are modeled.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import combinations, product
from pathlib import Path
from typing import Any
from unittest.mock import patch

Tree = dict[str, bytes | None]
"""Content of each file by its path, with None for a folder."""

MAX_FREE_CHANGES = 5
"""Up to this many changes of names, every subset is tried; of more, each that came first, each alone and each left out."""


@dataclass(eq=False)
class File:
    """A file: its content at the last fsync, and now."""

    synced: bytes
    now: bytes

    def list_contents(self) -> list[bytes]:
        """Lists what may be on the disk, the safe content first and what is there now last."""
        return [self.now] if self.synced == self.now else [self.synced, self.now[: len(self.now) // 2], self.now]


@dataclass(eq=False)
class Folder:
    """A folder: its names at the last fsync, and the changes since, each of which is there as a whole or not at all."""

    synced: dict[str, File | Folder] = field(default_factory=dict)
    now: dict[str, File | Folder] = field(default_factory=dict)
    changes: list[dict[str, File | Folder | None]] = field(default_factory=list)

    def change(self, **names: File | Folder | None) -> None:
        """Changes names at once; None removes one."""
        self.changes.append(names)
        for name, node in names.items():
            if node is None:
                self.now.pop(name, None)
            else:
                self.now[name] = node

    def list_versions(self) -> Iterator[dict[str, File | Folder]]:
        """Yields the names that may be on the disk."""
        count = len(self.changes)
        if count <= MAX_FREE_CHANGES:
            chosen = [kept for size in range(count + 1) for kept in combinations(range(count), size)]
        else:
            first = [tuple(range(end)) for end in range(count + 1)]
            chosen = [*first, *((one,) for one in range(count))]
            chosen += [tuple(other for other in range(count) if other != one) for one in range(count)]
        for kept in chosen:
            names = dict(self.synced)
            for index in kept:
                for name, node in self.changes[index].items():
                    if node is None:
                        names.pop(name, None)
                    else:
                        names[name] = node
            yield names


class CrashRecorder:
    """Follows one folder on a real disk while a writer runs in this process.

    Attributes:
        events: What was asked, in order, such as "fsync x" or "rename .x.part x".
        states: Every state that a power cut at any moment of the recording may leave.
    """

    def __init__(self, root: Path) -> None:
        self.root = Path(os.path.realpath(root))
        self.events: list[str] = []
        self.states: dict[frozenset[tuple[str, bytes | None]], Tree] = {}
        self._tree = Folder()
        self._scan(self.root, self._tree)
        self._mark_all_synced(self._tree)

    def list_states(self) -> list[Tree]:
        """Lists the states that a power cut at this moment may leave."""
        return list(_list_trees(self._tree))

    def take_note(self, event: str = "") -> None:
        """Looks at what is on the disk now, and adds what may be left of it."""
        self._scan(self.root, self._tree)
        if event:
            self.events.append(event)
        for tree in _list_trees(self._tree):
            self.states.setdefault(frozenset(tree.items()), tree)

    def _scan(self, path: Path, folder: Folder) -> None:
        """Finds names and content that came about without a call that is followed, such as a file that a library wrote."""
        entries = {entry.name: entry for entry in os.scandir(path)}
        for name in [name for name in folder.now if name not in entries]:
            folder.change(**{name: None})
        for name, entry in entries.items():
            node = folder.now.get(name)
            if entry.is_dir(follow_symlinks=False):
                if not isinstance(node, Folder):
                    node = Folder()
                    folder.change(**{name: node})
                self._scan(Path(entry.path), node)
                continue
            content = os.readlink(entry.path).encode() if entry.is_symlink() else Path(entry.path).read_bytes()
            if isinstance(node, File):
                node.now = content
            else:
                folder.change(**{name: File(b"", content)})

    def _mark_all_synced(self, folder: Folder) -> None:
        folder.synced, folder.changes = dict(folder.now), []
        for node in folder.now.values():
            if isinstance(node, Folder):
                self._mark_all_synced(node)
            else:
                node.synced = node.now

    def _find(self, path: str) -> tuple[Folder, str] | None:
        """The folder that has a path, and its name there; None for one elsewhere."""
        parent = os.path.realpath(os.path.dirname(os.path.abspath(path)))
        if parent != str(self.root) and not parent.startswith(f"{self.root}{os.sep}"):
            return None
        folder = self._tree
        for part in Path(parent).relative_to(self.root).parts:
            inner = folder.now[part]
            assert isinstance(inner, Folder)
            folder = inner
        return folder, os.path.basename(path)

    def sync(self, descriptor: int) -> None:
        """Follows an fsync."""
        path = os.readlink(f"/proc/self/fd/{descriptor}")
        self.take_note()
        if path == str(self.root):
            node: File | Folder | None = self._tree
        else:
            found = self._find(path)
            node = found[0].now.get(found[1]) if found else None
        if isinstance(node, Folder):
            node.synced, node.changes = dict(node.now), []
        elif isinstance(node, File):
            node.synced = node.now
        self.take_note(f"fsync {os.path.basename(path)}")

    def rename(self, source: str, target: str, *, link: bool = False) -> None:
        """Follows a rename or a link that was made."""
        came, went = self._find(source), self._find(target)
        if came is None or went is None:
            return
        node = came[0].now[came[1]]
        if link:
            went[0].change(**{went[1]: node})
        elif came[0] is went[0]:
            came[0].change(**{came[1]: None, went[1]: node})
        else:
            went[0].change(**{went[1]: node})
            came[0].change(**{came[1]: None})
        self.take_note(f"{'link' if link else 'rename'} {came[1]} {went[1]}")


def _list_trees(folder: Folder) -> Iterator[Tree]:
    """Yields what may be in a folder: all versions of names, each with all files old, half or new, or with one of them so."""
    for names in folder.list_versions():
        parts: list[list[Tree]] = []
        files = {name: node.list_contents() for name, node in names.items() if isinstance(node, File)}
        open_files = [name for name, contents in files.items() if len(contents) > 1]
        now: Tree = {name: contents[-1] for name, contents in files.items()}
        variants = [now]
        for index in (0, 1):
            variants.append({**now, **{name: files[name][index] for name in open_files}})
            variants += [{**now, name: files[name][index]} for name in open_files]
        parts.append(variants)
        for name, node in names.items():
            if isinstance(node, Folder):
                inner = [{f"{name}/{path}": content for path, content in tree.items()} for tree in _list_trees(node)]
                parts.append([{name: None, **tree} for tree in inner])
        for chosen in product(*parts):
            yield {path: content for tree in chosen for path, content in tree.items()}


@contextmanager
def record_crash_states(root: Path) -> Iterator[CrashRecorder]:
    """Records everything that this process does to a folder. Calls are followed where they are made: through the module os."""
    recorder = CrashRecorder(root)
    real = {
        name: getattr(os, name)
        for name in ("fsync", "rename", "replace", "link", "unlink", "remove", "mkdir", "rmdir", "truncate")
    }

    def resolve(path: Any, options: dict[str, Any], key: str = "dir_fd") -> str:
        folder = options.get(key)
        return os.path.join(os.readlink(f"/proc/self/fd/{folder}"), os.fspath(path)) if folder is not None else os.fspath(path)

    def fsync(descriptor: int) -> None:
        real["fsync"](descriptor)
        recorder.sync(descriptor)

    def moves(name: str) -> Callable[..., None]:
        def call(source: Any, target: Any, **options: Any) -> None:
            recorder.take_note()
            real[name](source, target, **options)
            recorder.rename(resolve(source, options, "src_dir_fd"), resolve(target, options, "dst_dir_fd"), link=name == "link")

        return call

    def changes(name: str) -> Callable[..., None]:
        def call(path: Any, *arguments: Any, **options: Any) -> None:
            recorder.take_note()
            real[name](path, *arguments, **options)
            recorder.take_note(f"{name} {os.path.basename(resolve(path, options))}")

        return call

    patched: dict[str, Any] = {"fsync": fsync}
    patched |= {name: moves(name) for name in ("rename", "replace", "link")}
    patched |= {name: changes(name) for name in ("unlink", "remove", "mkdir", "rmdir", "truncate")}
    with patch.multiple(os, **patched):
        yield recorder
        recorder.take_note()


def write_tree(tree: Tree, folder: Path) -> None:
    """Makes a folder hold exactly this."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for path, content in sorted(tree.items()):
        if content is None:
            (folder / path).mkdir()
        else:
            (folder / path).write_bytes(content)
