"""Every unit is in exactly one shard, and a wrong shard is refused."""

from __future__ import annotations

import pytest

from dni_deploy.errors import UsageError
from dni_deploy.jobs.shard import Shard, find_shard


@pytest.mark.parametrize("count", [1, 2, 3, 7, 12, 13])
def test_every_unit_is_in_one_shard(count: int) -> None:
    units = list(range(12))
    parts = [Shard(number, count).select_units(units) for number in range(1, count + 1)]
    assert sorted(unit for part in parts for unit in part) == units
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    assert all(unit in parts[find_shard(position, count).number - 1] for position, unit in enumerate(units))


def test_a_shard_is_parsed_as_it_is_formatted() -> None:
    assert str(Shard.parse(" 03/12 ")) == "3/12"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0/4", "shard 0 is none of 1 to 4; the first one is 1"),
        ("5/4", "shard 5 is none of 1 to 4"),
        ("1/0", "names 0 shards"),
        ("1/100001", "names 100001 shards"),
        ("", "neither K/N"),
        ("/", "neither K/N"),
        ("1/", "neither K/N"),
        ("$SLURM_ARRAY_TASK_ID/4", "neither K/N"),
        ("-1/4", "neither K/N"),
        ("1.5/4", "neither K/N"),
        ("1/4/2", "neither K/N"),
        ("\u0661/4", "neither K/N"),
        ("joined", "nor join"),
    ],
)
def test_what_is_no_shard_is_refused(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message.replace("$", r"\$")):
        Shard.parse(text)
