"""Seeded defects: small wrong changes to the code, each of which a test has to notice.

    python -m tests.campaign.seeded_defects [NAME...|--sample N]

puts each of seeded_defects.txt into a copy of the tree, alone, runs the fast tests that belong to it there, and prints a table.
Add one for every check that a promise rests on. A defect that survives is a test that is missing.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
TEST_TIMEOUT_S = 200


class Defect(NamedTuple):
    """A wrong change.

    Attributes:
        name: What goes wrong, unique.
        file: Of the tree.
        old: Text that occurs once in the file.
        new: What takes its place.
        tests: Files of tests below tests/ or tests/dni_deploy/, or single tests (FILE::TEST), of which one has to fail.
    """

    name: str
    file: str
    old: str
    new: str
    tests: str


def read_defects() -> tuple[Defect, ...]:
    """Reads the list: after `== name | file | tests`, the lines of the old text behind a minus, of the new behind a plus."""
    found = []
    for entry in Path(__file__).with_suffix(".txt").read_text(encoding="utf-8").split("\n== ")[1:]:
        head, *lines = entry.splitlines()
        name, file, tests = head.split(" | ")
        old, new = ("\n".join(line[1:] for line in lines if line[:1] == sign) for sign in "-+")
        found.append(Defect(name, file, old, new, tests))
    return tuple(found)


DEFECTS = read_defects()


def find_tests(defect: Defect) -> list[str]:
    """Lists the tests of a defect, relative to the root."""
    found = []
    for name in defect.tests.split():
        file = name.partition("::")[0]
        folder = next((folder for folder in ("tests/dni_deploy", "tests") if (ROOT / folder / file).exists()), "tests")
        found.append(f"{folder}/{name}")
    return found


def choose_sample(count: int, seed: str) -> list[Defect]:
    """Chooses some defects, the same ones for one seed."""
    return random.Random(seed).sample(DEFECTS, count)


def find_seed() -> str:
    """Returns the hash of the commit; outside of a repository, that of this file."""
    found = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    return found.stdout.strip() or sha256(Path(__file__).read_bytes()).hexdigest()


def copy_tree(target: Path) -> Path:
    """Copies what tests need of the tree."""
    skipped = shutil.ignore_patterns(".git", "__pycache__", "*.egg-info", "*.dni", ".venv", ".mypy_cache", ".ruff_cache")
    shutil.copytree(ROOT, target, ignore=skipped)
    return target


def run_tests(copy: Path, tests: Sequence[str], timeout: float = TEST_TIMEOUT_S) -> tuple[bool, str]:
    """Runs tests of a copy up to the first failure.

    Returns:
        Whether all passed, and the line that says which failed.
    """
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-x",
        "-q",
        "-m",
        "not slow and not campaign",
        "-p",
        "no:cacheprovider",
        "--no-header",
    ]
    environment = {
        **os.environ, "PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1",
        "CI": "true",  # hypothesis: no deadlines and the same examples, so that a busy machine fails no test
    }  # fmt: skip
    try:
        result = subprocess.run(
            [*command, *tests],
            cwd=copy,
            env=environment,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return False, "no end: a test hangs"
    if result.returncode not in (0, 1, 2):  # 1: a test failed, 2: one could not be imported
        raise RuntimeError(f"pytest ended with {result.returncode}: {result.stdout[-500:]} {result.stderr[-500:]}")
    lines = [line for line in result.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    return result.returncode == 0, lines[0] if lines else ""


def try_defect(copy: Path, defect: Defect) -> tuple[bool, str]:
    """Puts a defect into a copy, runs its tests and takes it out again; returns what `run_tests` does."""
    path = copy / defect.file
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace(defect.old, defect.new), encoding="utf-8")
    try:
        return run_tests(copy, find_tests(defect))
    finally:
        path.write_text(text, encoding="utf-8")


def try_defects(defects: Sequence[Defect], *, clean_run: bool = True) -> list[str]:
    """Tries defects one after the other and prints a line for each.

    Args:
        defects: The defects.
        clean_run: Whether their tests have to pass without a defect first.

    Returns:
        The names of those that no test noticed.

    Raises:
        RuntimeError: A test fails without any defect.
    """
    survivors = []
    with tempfile.TemporaryDirectory(prefix="dni-defects-") as folder:
        copy = copy_tree(Path(folder, "tree"))
        every_test = sorted({test for defect in defects for test in find_tests(defect)})
        passed, line = run_tests(copy, every_test, 10 * TEST_TIMEOUT_S) if clean_run else (True, "")
        if not passed:
            raise RuntimeError(f"without a defect, too: {line}")
        for defect in defects:
            started = time.monotonic()
            passed, line = try_defect(copy, defect)
            verdict = "SURVIVED" if passed else "caught"
            print(f"{verdict:8s} {time.monotonic() - started:5.1f} s  {defect.name:34s} {line[:110]}", flush=True)
            if passed:
                survivors.append(defect.name)
    print(f"{len(defects) - len(survivors)} of {len(defects)} defects caught", flush=True)
    return survivors


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--sample", type=int, metavar="N", help="as many, chosen by the hash of the commit")
    parser.add_argument("--no-clean-run", action="store_true", help="do not run the tests without a defect first")
    chosen = parser.parse_args()
    named = [defect for defect in DEFECTS if not chosen.names or defect.name in chosen.names]
    named = choose_sample(chosen.sample, find_seed()) if chosen.sample else named
    sys.exit(bool(try_defects(named, clean_run=not chosen.no_clean_run)))
