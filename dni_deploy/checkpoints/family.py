"""Ordered, named checkpoints of one architecture, which may be blended."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from dni_deploy.checkpoints.checkpoint import Checkpoint
from dni_deploy.checkpoints.selection import Recognizer
from dni_deploy.errors import InputError, LimitError, MismatchError, UsageError, escape_name
from dni_deploy.network_controls import Control
from dni_deploy.utils.file_entry import split_entry

MAX_MEMBERS = 16
COMPUTED_BUFFERS = {"attn_mask", "relative_position_index"}
"""Last parts of the names of buffers in window transformers (Swin, SwinIR, HAT) that follow from the sizes of window and image:
no member has learned them. Other versions of a network do not save them, and `attn_mask` has the size of the training images."""
MEMBER_NAME_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True)
class Member:
    """A checkpoint of a family.

    Attributes:
        name: Name that an alpha uses for it: letters, digits, dot, dash and underscore, at most 64.
        checkpoint: Its tensors.
    """

    name: str
    checkpoint: Checkpoint


@dataclass(frozen=True)
class Difference:
    """One thing in which a member differs from the first.

    Attributes:
        key: Name of the tensor.
        kind: "missing", "extra", "shape", "type" or "integers".
        expected: What the first member has.
        got: What this member has.
    """

    key: str
    kind: str
    expected: str
    got: str

    def __str__(self) -> str:
        name = repr(escape_name(self.key, 60))
        if self.kind == "missing":
            return f"{name} {self.expected} is missing"
        if self.kind == "extra":
            return f"{name} {self.got} is too many"
        return f"{name} {self.got} instead of {self.expected}"


@dataclass(frozen=True)
class Family:
    """Members that fit together: equal names and shapes, equal integer buffers, finite numbers.

    Attributes:
        members: 2 to 16, in the order in which they were passed; the first one's order of tensors is the family's.
        notes: One sentence for each thing worth knowing that is no error.
    """

    members: tuple[Member, ...]
    notes: tuple[str, ...] = ()

    @classmethod
    def from_checkpoints(
        cls,
        members: Mapping[str, str | os.PathLike[str] | Checkpoint | Mapping[str, Any]],
        *,
        key: str | None = None,
        recognizers: Sequence[Recognizer] = (),
    ) -> Family:
        """Reads checkpoints that are not read yet, and compares all with the first.

        Args:
            members: Paths, checkpoints or state dicts, by the members' names. "PATH#ENTRY" is an entry of a file.
            key: The entry to read where a path names none.
            recognizers: What knows networks, to find the one in each file; exporters.architectures.recognize makes them.

        Returns:
            The family.

        Raises:
            UsageError: The number of members or a name is wrong.
            MismatchError: Members differ; the message has the first difference and the counts.
            InputError: A member has NaN or infinite numbers, and what Checkpoint.read raises.
            LimitError: There are more than 16 members.
        """
        family = read_members(members, key=key, recognizers=recognizers)
        first, *others = family
        for member in others:
            differences = find_differences(first.checkpoint, member.checkpoint)
            if differences:
                raise MismatchError(describe_mismatch(first, member, differences))
        return cls(family, tuple(_collect_notes(family)))

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the members, in family order."""
        return tuple(member.name for member in self.members)

    @property
    def float_keys(self) -> tuple[str, ...]:
        """Names of the tensors that a blend mixes, in the first member's order."""
        return self.members[0].checkpoint.float_keys

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every tensor, integer buffers included."""
        return {name: array.shape for name, array in self.members[0].checkpoint.tensors.items()}

    def with_controls(self, controls: Sequence[Control]) -> Family:
        """Returns the family with the tensors of controls, which are the same in every member."""
        if not controls:
            return self
        added = {control.weight_name: np.array([control.stored], np.float32) for control in controls}
        return replace(
            self,
            members=tuple(
                replace(member, checkpoint=replace(member.checkpoint, tensors={**member.checkpoint.tensors, **added}))
                for member in self.members
            ),
        )

    def __getitem__(self, name: str) -> Member:
        """Returns the member of a name, or raises UsageError."""
        for member in self.members:
            if member.name == name:
                return member
        raise UsageError(f"No member is called {escape_name(name, 80)!r}; there are {', '.join(self.names)}.")


def read_members(
    members: Mapping[str, str | os.PathLike[str] | Checkpoint | Mapping[str, Any]],
    *,
    key: str | None = None,
    recognizers: Sequence[Recognizer] = (),
) -> tuple[Member, ...]:
    """Reads checkpoints without comparing them; arguments and errors are those of Family.from_checkpoints.

    Members that are the same network as the first under other names of its tensors get the first one's names.
    """
    check_member_names(members)
    loaded = [Member(name, _load_checkpoint(value, name, key, recognizers)) for name, value in members.items()]
    for member in loaded:
        _check_finite(member)
    first, *others = loaded
    return (first, *(_share_computed_buffers(first, _rename_like(first, member)) for member in others))


def check_member_names(members: Mapping[str, Any]) -> None:
    """Raises LimitError or UsageError where there are too many or too few members, or one has a name that an alpha cannot use."""
    if len(members) > MAX_MEMBERS:
        raise LimitError(f"{len(members)} members were given; the limit is {MAX_MEMBERS}.")
    if len(members) < 2:
        raise UsageError(f"A family has 2 to {MAX_MEMBERS} members, {len(members)} given; write name=file for each.")
    for name in members:
        if not isinstance(name, str) or not MEMBER_NAME_PATTERN.fullmatch(name):
            raise UsageError(
                f"Member name {escape_name(name, 80)!r} is not usable: letters, digits, '.', '-' and '_', "
                "beginning with a letter or digit, at most 64."
            )


def _rename_like(first: Member, member: Member) -> Member:
    """The member under the first one's names where both are one network, whose tensors are in the same order."""
    one, other = first.checkpoint, member.checkpoint
    if one.network is None or other.network is None or one.network[0] != other.network[0] or one.network == other.network:
        return member
    if [one.tensors[name].shape for name in one.network[1]] != [other.tensors[name].shape for name in other.network[1]]:
        return member
    names = dict(zip(other.network[1], one.network[1], strict=True))
    renamed = replace(
        other,
        tensors={new: other.tensors[old] for old, new in names.items()},
        network=one.network,
        notes=(*other.notes, f"Its tensors have the names of {first.name}, which is the same network under other names."),
    )
    return Member(member.name, renamed)


def _share_computed_buffers(first: Member, member: Member) -> Member:
    """The member with the first one's buffers of COMPUTED_BUFFERS, where it has none or another size of training images."""
    expected, tensors = first.checkpoint.tensors, dict(member.checkpoint.tensors)
    keys = [key for key in {**expected, **tensors} if key.rsplit(".", 1)[-1] in COMPUTED_BUFFERS]
    changed = [key for key in keys if key not in tensors or key not in expected or _is_resized_mask(key, expected, tensors)]
    if not changed:
        return member
    for key in changed:
        tensors.pop(key, None)
        if key in expected:
            tensors[key] = expected[key]
    count = "1 buffer" if len(changed) == 1 else f"{len(changed)} buffers"
    note = f"Taken from {first.name}, because the network computes it itself: {count}, first {changed[0]!r}."
    return Member(member.name, replace(member.checkpoint, tensors=tensors, notes=(*member.checkpoint.notes, note)))


def _is_resized_mask(key: str, expected: Mapping[str, Any], tensors: Mapping[str, Any]) -> bool:
    return key.endswith("attn_mask") and expected[key].shape != tensors[key].shape


def find_differences(first: Checkpoint, other: Checkpoint) -> list[Difference]:
    """Lists everything in which `other` does not fit `first`, in first's order, extra names last.

    `*.num_batches_tracked` counts training steps and has no part in inference: it may differ or be missing.
    """
    differences: list[Difference] = []
    for key, array in first.tensors.items():
        if _is_batch_counter(key):
            continue
        twin = other.tensors.get(key)
        if twin is None:
            differences.append(Difference(key, "missing", str(array.shape), "nothing"))
        elif twin.shape != array.shape:
            differences.append(Difference(key, "shape", str(array.shape), str(twin.shape)))
        elif (array.dtype.kind == "f") != (twin.dtype.kind == "f"):
            differences.append(Difference(key, "type", str(array.dtype), str(twin.dtype)))
        elif array.dtype.kind != "f" and not np.array_equal(array, twin):
            index = int(np.flatnonzero(np.atleast_1d(array != twin))[0])
            expected, got = f"{array.flat[index]} at [{index}]", f"has {twin.flat[index]} at [{index}]"
            differences.append(Difference(key, "integers", expected, got))
    extra = (key for key in other.tensors if key not in first.tensors and not _is_batch_counter(key))
    differences += [Difference(key, "extra", "nothing", str(other.tensors[key].shape)) for key in extra]
    return differences


def _is_batch_counter(key: str) -> bool:
    return key.rsplit(".", 1)[-1] == "num_batches_tracked"


def describe_mismatch(first: Member, member: Member, differences: list[Difference]) -> str:
    """Describes in one sentence how a member does not fit the first one."""
    kinds = {kind: sum(difference.kind == kind for difference in differences) for kind in ("missing", "extra")}
    counts = ", ".join(f"{count} {kind}" for kind, count in kinds.items() if count)
    total = sum(not _is_batch_counter(key) for key in first.checkpoint.tensors) + kinds["extra"]
    return (
        f"Member {member.name!r} does not fit family {first.name!r}: {_compare_networks(first, member)}{len(differences)} of "
        f"{total} tensors differ{f' ({counts})' if counts else ''}, first {differences[0]}. "
        "Blend only checkpoints of one architecture."
    )


def _compare_networks(first: Member, member: Member) -> str:
    """What both are, where a recognizer knows them."""
    one, other = _describe_network(first.checkpoint), _describe_network(member.checkpoint)
    return f"{member.name} is {other}, {first.name} is {one}; " if one and other and one != other else ""


def _describe_network(checkpoint: Checkpoint) -> str | None:
    if checkpoint.network is None:
        return None
    _, names, title = checkpoint.network
    count = sum(checkpoint.tensors[name].size for name in names)
    return f"{title} with {count:,} weights in {len(names)} tensors"


def _load_checkpoint(value: Any, name: str, key: str | None, recognizers: Sequence[Recognizer]) -> Checkpoint:
    if isinstance(value, Checkpoint):
        return value if value.network else value.recognize(recognizers)
    if isinstance(value, (str, os.PathLike)):
        path, entry = split_entry(value)
        return Checkpoint.read(path, key=entry or key, recognizers=recognizers)
    if isinstance(value, Mapping):
        return Checkpoint.from_state_dict(value, source=f"memory ({name})", key=key, recognizers=recognizers)
    raise UsageError(f"Member {name!r} is a {type(value).__name__}; give a path, a Checkpoint or a state dict.")


def _check_finite(member: Member) -> None:
    bad = member.checkpoint.count_nonfinite()
    if bad:
        key, count = bad[0]
        more = f", and {len(bad) - 1} more tensors have some" if len(bad) > 1 else ""
        raise InputError(
            f"Member {member.name!r} has {count:,} NaN or infinite numbers in {escape_name(key, 80)!r} "
            f"of {member.checkpoint.tensors[key].size:,}{more}; a blend would spread them. Use an earlier checkpoint."
        )


def _collect_notes(members: tuple[Member, ...]) -> list[str]:
    notes = [f"{member.name}: {note}" for member in members for note in member.checkpoint.notes]
    first, *others = members
    for member in others:
        dtypes = [
            (first.checkpoint.tensors[key].dtype, member.checkpoint.tensors[key].dtype) for key in first.checkpoint.float_keys
        ]
        unlike = [pair for pair in dtypes if pair[0] != pair[1]]
        if unlike:
            expected, got = unlike[0]
            notes.append(
                f"{member.name} has {len(unlike)} tensors of {got} where {first.name} has {expected}; each stays as it is."
            )
    for member in members:
        doubles = [key for key in member.checkpoint.float_keys if member.checkpoint.tensors[key].dtype == np.float64]
        if doubles:
            notes.append(f"{member.name} has {len(doubles)} tensors of float64; networks run with them rounded to float32.")
    for index, member in enumerate(members):
        for twin in members[:index]:
            if _has_same_weights(twin.checkpoint, member.checkpoint):
                notes.append(f"{member.name} has the same numbers as {twin.name}; a blend of the two changes nothing.")
    return notes


def _has_same_weights(one: Checkpoint, other: Checkpoint) -> bool:
    """Whether all weights are the same once they are rounded to float32."""
    with np.errstate(over="ignore"):
        return all(
            np.array_equal(one.tensors[key].astype(np.float32), other.tensors[key].astype(np.float32)) for key in one.float_keys
        )
