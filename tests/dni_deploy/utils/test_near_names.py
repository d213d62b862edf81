"""Names in another case and near names are found."""

from __future__ import annotations

import time

import pytest

from dni_deploy.utils.near_names import match_case, suggest_name


@pytest.mark.parametrize(
    ("name", "names", "found"),
    [
        ("a", ("a", "A"), ["a"]),
        ("n20", ("N20", "N60"), ["N20"]),
        ("GAN", ("Gan", "gAn"), ["Gan", "gAn"]),
        ("straße", ("STRASSE",), ["STRASSE"]),
        ("x", ("a",), []),
    ],
)
def test_a_name_matches_itself_else_another_case(name: str, names: tuple[str, ...], found: list[str]) -> None:
    assert match_case(name, names) == found


def test_a_near_name_is_suggested() -> None:
    assert suggest_name("runn", ("run", "refit")) == "; did you mean 'run'?"
    assert suggest_name("PNSR", ("psnr", "gan")) == "; did you mean 'psnr'?"
    assert suggest_name("abacus", ("run",)) == "."
    assert suggest_name("tensorrt-old", ("tensorrt-rtx",), likeness=0.9) == "."


def test_a_long_text_costs_no_time() -> None:
    started = time.perf_counter()
    assert suggest_name("x" * 10**6, ["y" * 10**6] * 10) == "."
    assert time.perf_counter() - started < 1
