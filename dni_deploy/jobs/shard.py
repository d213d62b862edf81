"""Shards: process K of N does every N-th unit of a job, with nothing between the processes but the job's folder."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import TypeVar

from dni_deploy.errors import UsageError, escape_name
from dni_deploy.jobs.ray_options import RayOptions
from dni_deploy.utils.format_count import format_numbers

Unit = TypeVar("Unit")

JOIN = "join"
"""The word in place of K/N that stands for putting the results of all shards together."""

MAX_SHARDS = 100_000


@dataclass(frozen=True)
class JobOptions(RayOptions):
    """How a command goes on with a job, how much of it it does, and, as RayOptions says, where.

    Attributes:
        resume: Resume a run that was stopped; else start again.
        shard: "K/N" or "join"; None: all of it.
        max_failures: How many images may fail before the run stops, a number or a part such as "5%"; None: any number, but
            if the first 50 all fail with one sentence, it stops with that.
    """

    resume: bool = True
    shard: str | None = None
    max_failures: str | int | None = None


@dataclass(frozen=True)
class Shard:
    """One of several processes that share a job.

    Attributes:
        number: Its number, from 1.
        count: Number of shards.
    """

    number: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Parses "K/N".

        Raises:
            UsageError: It is none, N is 0 or too large, or K is not 1 to N.
        """
        match = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text.strip(), re.ASCII)
        if match is None:
            raise UsageError(f"--shard {escape_name(text, 60)} is neither K/N, such as 1/4, nor {JOIN}. Nothing was written.")
        number, count = int(match[1]), int(match[2])
        if not 1 <= count <= MAX_SHARDS:
            raise UsageError(f"--shard {text} names {count} shards; there are 1 to {MAX_SHARDS}. Nothing was written.")
        if not 1 <= number <= count:
            hint = "; the first one is 1, so add 1 to a number that counts from 0" if number == 0 else ""
            raise UsageError(f"--shard {text}: shard {number} is none of 1 to {count}{hint}. Nothing was written.")
        return cls(number, count)

    def select_units(self, units: Sequence[Unit]) -> list[Unit]:
        """Returns this shard's share of the units: every `count`-th of them, so that the sum of all shards is all units."""
        return list(units[self.number - 1 :: self.count])

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"


def find_shard(position: int, count: int) -> Shard:
    """Returns the shard that does the unit at a position of the list, where there are `count` shards."""
    return Shard(position % count + 1, count)


def format_shards_to_repeat(shards: Collection[str], list_positions: Callable[[int], Collection[int]]) -> str:
    """Says which shards make what is missing: "; of 4 shards, run 2 again".

    Args:
        shards: Those that have begun, as they format themselves; "" does not count.
        list_positions: Returns the positions of the missing units in the list, where there are that many shards.

    Returns:
        The phrase; "" where none has begun.
    """
    phrase = ""
    for count in sorted({Shard.parse(shard).count for shard in shards if shard}):
        numbers = format_numbers(sorted({find_shard(position, count).number for position in list_positions(count)}))
        phrase += f"; of {count} shards, run {numbers} again" if not phrase else f", or of {count} {numbers}"
    return phrase
