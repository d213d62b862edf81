"""Defects that are put into the code are noticed by its tests."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from tests.campaign.seeded_defects import (
    DEFECTS,
    ROOT,
    Defect,
    choose_sample,
    copy_tree,
    find_seed,
    find_tests,
    try_defect,
    try_defects,
)

SAMPLE = 6


def test_every_defect_still_fits_the_code() -> None:
    texts = {file: (ROOT / file).read_text(encoding="utf-8") for file in {defect.file for defect in DEFECTS}}
    unfit = {defect.name: count for defect in DEFECTS if (count := texts[defect.file].count(defect.old)) != 1}
    assert not unfit, f"times that the old text occurs: {unfit}"
    assert all(defect.old != defect.new for defect in DEFECTS)
    assert not [test for defect in DEFECTS for test in find_tests(defect) if not (ROOT / test.partition("::")[0]).exists()]
    assert max(Counter(defect.name for defect in DEFECTS).values()) == 1
    assert len(DEFECTS) >= 60


def test_the_sample_differs_from_commit_to_commit() -> None:
    samples = {tuple(defect.name for defect in choose_sample(SAMPLE, str(seed))) for seed in range(9)}
    assert len(samples) == 9
    assert choose_sample(SAMPLE, "a") == choose_sample(SAMPLE, "a")


@pytest.mark.slow
def test_a_change_that_is_no_defect_survives(tmp_path: Path) -> None:
    file = "dni_deploy/utils/format_count.py"
    text = (ROOT / file).read_text(encoding="utf-8")
    harmless = Defect("harmless", file, text, text + "# a comment\n", "utils/test_format_count.py")
    assert try_defect(copy_tree(tmp_path / "tree"), harmless) == (True, "")


@pytest.mark.slow
def test_a_sample_of_the_defects_is_noticed() -> None:
    assert try_defects(choose_sample(SAMPLE, find_seed())) == []


@pytest.mark.campaign
def test_the_defects_are_noticed() -> None:
    assert len(try_defects(DEFECTS)) <= 0.05 * len(DEFECTS)
