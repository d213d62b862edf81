"""Which tensors of a file are the network's, and under which names.

A file holds sets of tensors (entries), such as `params_ema` and `params`, or `generator.state_dict`. A set holds the network's
tensors under their names, or under a prefix (`module.`, `net_g.`), beside those of other networks and beside counters.

With recognizers every entry and every prefix in it is tried, and the one that makes a network is taken. Averaged weights go
before those that they are the average of. More than one network is an error that lists them.

Without recognizers, and where they know none of the sets, an entry is found by one rule, the first that fits:

1. The file is a state dict itself: names to tensors; other entries beside them (an epoch) are left out.
2. The entry with averaged weights, then the first of WRAPPER_KEYS, then the only one that holds tensors; and inside it the same
   again ("generator" -> "params_ema"). Several: an error that lists them.

Then the prefix `module.` (DataParallel) is removed where every name has it. `_orig_mod.` (torch.compile) is removed wherever
it is.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from numpy.typing import NDArray

from dni_deploy.errors import CheckpointError, escape_name

WRAPPER_KEYS = (
    "params_ema", "params", "state_dict", "model_state_dict", "model", "net", "network", "weights",
    "generator", "g_ema", "netG", "G", "g",
)  # fmt: skip
"""In order of preference."""

MAX_WRAPPER_DEPTH = 3
"""How many wrappers may lie inside each other."""
MAX_PREFIX_DEPTH = 4
"""Parts of a prefix, such as the two of `module.net_g.`."""
MIN_RECOGNIZED_TENSORS = 2
"""A prefix with fewer tensors is one layer."""
CHOICE_ADVICE = "Choose one by --key ENTRY, or for one file by NAME=PATH#ENTRY."

_AVERAGE_WORDS = {"ema", "swa", "avg", "average", "averaged", "averages", "moving", "polyak", "shadow", "lookahead", "slow"}
_GENERIC_WORDS = {"state", "dict", "model", "models", "params", "param", "weights", "net", "network", "module", "states"}
_SIDE_NETWORK_WORDS = {
    "d", "disc", "discriminator", "critic", "vgg", "lpips", "loss", "losses", "perceptual", "criterion", "optimizer",
}  # fmt: skip
"""Words for networks that training needs and inference does not."""
_BOOKKEEPING_NAMES = {
    "total_ops", "total_params", "n_averaged", "num_updates", "decay", "step", "steps", "global_step", "epoch", "iter",
    "iteration", "iterations",
}  # fmt: skip
"""Last parts of names that profilers (thop), torch's AveragedModel and trainers give to tensors of no layer."""

RecognizedNetwork = tuple[str, tuple[str, ...], str]
"""Name of the architecture, the names of the network's tensors in the network's own order, and a title such as "rrdbnet x4"."""

Recognizer = Callable[[Mapping[str, tuple[int, ...]], Callable[[], Mapping[str, NDArray[Any]]]], RecognizedNetwork | None]
"""Tells which network tensors make: shapes by name and a function that reads them -> the network, None if it is not known."""


@dataclass(frozen=True)
class Selection:
    """The tensors of one network in a file.

    Attributes:
        names: Name in the entry -> canonical name.
        tensors: The entry's tensors, by name in the entry; more than `names` has.
        wrapper: The entry's path with dots; None where the file is a plain state dict.
        notes: One sentence for each thing that was left out, renamed or chosen.
        network: What the tensors are, by canonical names; None where no recognizer knows them.
    """

    names: dict[Any, Any]
    tensors: Mapping[Any, Any]
    wrapper: str | None
    notes: list[str] = field(default_factory=list)
    network: RecognizedNetwork | None = None


class _Entry(NamedTuple):
    path: str
    value: Mapping[Any, Any]
    tensors: dict[Any, Any]


class _Candidate(NamedTuple):
    """A set of tensors that a recognizer knows: those of an entry whose names begin with the prefix."""

    entry: _Entry
    prefix: str
    names: dict[Any, str]
    network: RecognizedNetwork

    @property
    def label(self) -> str:
        """As `--key` takes it."""
        return ".".join(filter(None, (self.entry.path, self.prefix.rstrip("."))))


class TensorSelector:
    """Selects one network's tensors from what a file holds.

    Attributes:
        where: The file, for messages.
        is_tensor: Whether a value is a tensor.
        read: Reads tensors of an entry, by name.
        recognizers: Tried in order; the first that knows a set of tensors decides.
    """

    def __init__(
        self,
        where: str,
        is_tensor: Callable[[Any], bool],
        read: Callable[[Mapping[Any, Any]], Mapping[Any, NDArray[Any]]],
        recognizers: Sequence[Recognizer] = (),
    ) -> None:
        """Keeps the arguments."""
        self.where, self.is_tensor, self.read, self.recognizers = where, is_tensor, read, recognizers
        # A pickle may refer to one dict from everywhere, even from inside itself: each is looked through once for each depth.
        self._has_tensors_cache: dict[tuple[int, int], bool] = {}

    def select(self, value: Any, key: str | None) -> Selection:
        """Selects the tensors.

        Args:
            value: What the file holds: nested dicts with tensors.
            key: The entry to read, dots for entries inside entries and for prefixes of names; None to find it.

        Raises:
            CheckpointError: There are no tensors under names, no such entry, or several networks.
        """
        if not isinstance(value, Mapping):
            kind = f"a {type(value).__name__}" if isinstance(value, (list, str, int)) else "an object"
            kind = "one tensor" if self.is_tensor(value) else kind
            raise CheckpointError(f"{self.where} holds {kind} instead of tensors under names; save net.state_dict().")
        path, value, prefix = ("", value, "") if key is None else self._resolve_key(value, key)
        if prefix:
            value = {name.removeprefix(prefix): item for name, item in value.items() if _has_prefix(name, prefix)}
        entries = list(self._iterate_entries(value, path, MAX_WRAPPER_DEPTH, set()))
        candidates = _remove_superseded(self._recognize(entries), lambda candidate: candidate.label)
        if len(candidates) > 1:
            labels = [candidate.label for candidate in candidates]
            raise CheckpointError(f"{self.where} holds {len(labels)} networks: {_quote_names(labels)}. {CHOICE_ADVICE}")
        if not candidates:
            return self._select_unrecognized(value, key, path)
        return self._make_selection(candidates[0], [entry.path for entry in entries])

    def _resolve_key(self, value: Mapping[Any, Any], key: str) -> tuple[str, Mapping[Any, Any], str]:
        """The path of the entry that a key names, the entry, and the prefix of its names that is left of the key."""
        if isinstance(value.get(key), Mapping):
            return key, value[key], ""
        parts, current = key.split("."), value
        for position, part in enumerate(parts):
            inner = current.get(part)
            if not isinstance(inner, Mapping):
                prefix = ".".join(parts[position:]) + "."
                if any(_has_prefix(name, prefix) and self.is_tensor(item) for name, item in current.items()):
                    return key, current, prefix
                raise CheckpointError(f"{self.where} has no entry {escape_name(key, 60)!r}; {self._describe_entries(value)}.")
            current = inner
        return key, current, ""

    def _iterate_entries(self, value: Mapping[Any, Any], path: str, depth: int, seen: set[int]) -> Iterator[_Entry]:
        """Yields each set of tensors once, outer ones first."""
        if id(value) in seen:
            return
        seen.add(id(value))
        tensors = {name: item for name, item in value.items() if self.is_tensor(item)}
        if tensors:
            yield _Entry(path, value, tensors)
        for name in self._find_holders(value, depth):
            yield from self._iterate_entries(value[name], f"{path}.{name}" if path else name, depth - 1, seen)

    def _find_holders(self, value: Mapping[Any, Any], depth: int = MAX_WRAPPER_DEPTH) -> list[str]:
        """Names of the entries that are, or hold within `depth` levels, dicts of tensors."""
        return [name for name, item in value.items() if isinstance(name, str) and self._has_tensors(item, depth)]

    def _has_tensors(self, item: Any, depth: int) -> bool:
        if not isinstance(item, Mapping) or depth <= 0:
            return False
        key = (id(item), depth)
        if key not in self._has_tensors_cache:
            self._has_tensors_cache[key] = any(
                isinstance(name, str) and (self.is_tensor(inner) or self._has_tensors(inner, depth - 1))
                for name, inner in item.items()
            )
        return self._has_tensors_cache[key]

    def _recognize(self, entries: list[_Entry]) -> list[_Candidate]:
        for stage, recognizer in enumerate(self.recognizers):
            found: list[_Candidate] = []
            for entry in entries:
                names = {name: name.replace("_orig_mod.", "") for name in entry.tensors if isinstance(name, str)}
                # Later recognizers are slow: they try only what may be most of a file.
                least = MIN_RECOGNIZED_TENSORS if stage == 0 else max(MIN_RECOGNIZED_TENSORS, len(names) // 4)
                if len(set(names.values())) == len(names):
                    found += self._find_networks(recognizer, entry, "", names, least)
            if found:
                return found
        return []

    def _find_networks(
        self, recognizer: Recognizer, entry: _Entry, prefix: str, names: dict[Any, str], least: int
    ) -> Iterator[_Candidate]:
        """Yields the networks under a prefix; nothing is looked for inside a network."""
        without_extras = {name: short for name, short in names.items() if not _is_extra(short, entry.tensors[name])}
        for chosen in (names, without_extras) if len(without_extras) < len(names) else (names,):
            network = self._call_recognizer(recognizer, entry, chosen)
            if network is not None:
                used = {*network[1]}
                kept = {name: short for name, short in chosen.items() if short in used or _is_batch_counter(short)}
                yield _Candidate(entry, prefix, kept, network)
                return
        groups: dict[str, dict[Any, str]] = defaultdict(dict)
        for name, short in names.items():
            first, dot, rest = short.partition(".")
            if dot and not first.isdigit():  # a number counts layers inside a network
                groups[f"{first}."][name] = rest
        if prefix.count(".") < MAX_PREFIX_DEPTH:
            for part, group in groups.items():
                if len(group) >= least:
                    yield from self._find_networks(recognizer, entry, prefix + part, group, least)

    def _call_recognizer(self, recognizer: Recognizer, entry: _Entry, names: dict[Any, str]) -> RecognizedNetwork | None:
        shapes = {short: tuple(getattr(entry.tensors[name], "shape", (-1,))) for name, short in names.items()}

        def read() -> dict[str, NDArray[Any]]:
            arrays = self.read({name: entry.tensors[name] for name in names})
            return {short: arrays[name] for name, short in names.items()}

        try:
            return recognizer(shapes, read)
        except CheckpointError:  # a tensor of a kind that is not read; if it is the network's, reading it says so
            return None

    def _make_selection(self, candidate: _Candidate, entry_paths: list[str]) -> Selection:
        entry, prefix, names, network = candidate
        notes = _note_choice(entry.path, [path for path in entry_paths if path != entry.path])
        notes += _note_other_values(entry.value, self.is_tensor)
        if prefix:
            notes.append(f"The prefix {escape_name(prefix, 60)!r} was removed from every name.")
        left_out = [name for name in entry.tensors if name not in names]
        if left_out:
            count = "1 tensor" if len(left_out) == 1 else f"{len(left_out):,} tensors"
            groups = list(dict.fromkeys(_find_group(str(name), prefix) for name in left_out))
            notes.append(f"Left out, because not of this network: {count}, {_quote_names(groups)}.")
        return Selection(names, entry.tensors, entry.path or None, notes, network)

    def _select_unrecognized(self, value: Mapping[Any, Any], key: str | None, path: str) -> Selection:
        parts, notes = [path] if path else [], []
        while not any(self.is_tensor(item) for item in value.values()):
            holders = self._find_holders(value)
            pool = _remove_superseded(holders, str)
            pool = [name for name in pool if not _is_side_network(name)] or pool
            pool = [name for name in pool if _is_averaged(name)] or pool
            preferred = [name for name in WRAPPER_KEYS if name in pool]
            if len(parts) > MAX_WRAPPER_DEPTH or (not preferred and len(pool) != 1):
                advice = f" {CHOICE_ADVICE}" if holders else ""
                if not holders and any("optim" in str(name).lower() for name in value):
                    advice = " It is the state of a training run; give the file with the network's weights."
                raise CheckpointError(f"{self.where} has no single set of tensors; {_format_names(holders)}.{advice}")
            wrapper = (preferred or pool)[0]
            notes += _note_choice(wrapper, [name for name in holders if name != wrapper])
            parts.append(wrapper)
            value = value[wrapper]
        notes += _note_other_values(value, self.is_tensor)
        tensors = {name: item for name, item in value.items() if self.is_tensor(item)}
        short = {name: name.replace("_orig_mod.", "") if isinstance(name, str) else name for name in tensors}
        if short and all(_has_prefix(name, "module.") for name in short.values()):
            notes.append("The prefix 'module.' was removed from every name.")
            while all(_has_prefix(name, "module.") for name in short.values()):
                short = {name: item.removeprefix("module.") for name, item in short.items()}
        return Selection(short, tensors, ".".join(parts) or None, notes)

    def _describe_entries(self, value: Mapping[Any, Any]) -> str:
        prefixes = {name.partition(".")[0] for name in value if isinstance(name, str) and "." in name}
        return _format_names(self._find_holders(value) or sorted(prefixes))


def _note_choice(chosen: str, others: list[str]) -> list[str]:
    others = [name for name in others if name]
    if not others or not chosen:
        return []
    reason = ", because averaged weights are meant for use" if _is_averaged(chosen) else ""
    return [f"{escape_name(chosen, 60)!r} was read{reason}; {_format_names(others)} as well."]


def _note_other_values(value: Mapping[Any, Any], is_tensor: Callable[[Any], bool]) -> list[str]:
    ignored = [escape_name(name, 40) for name, item in value.items() if not is_tensor(item)]
    return [f"Left out, because not tensors: {', '.join(ignored[:5])}."] if ignored else []


def _find_group(name: str, prefix: str) -> str:
    """The part of a name that tells what it belongs to: `discriminator` of `discriminator.0.weight`."""
    rest = name.replace("_orig_mod.", "")
    return rest if prefix and rest.startswith(prefix) else rest.partition(".")[0]


def _remove_superseded(items: Collection[Any], label_of: Callable[[Any], str]) -> list[Any]:
    """The items without those of which another one is the average."""
    averaged = [_split_words(label_of(item)) for item in items if _is_averaged(label_of(item))]

    def is_superseded(label: str) -> bool:
        words = _split_words(label)
        return not _is_averaged(label) and any(average == words or {*average} < {*words} for average in averaged)

    return [item for item in items if not is_superseded(label_of(item))]


def _is_averaged(label: str) -> bool:
    return not _AVERAGE_WORDS.isdisjoint(_find_words(label))


def _is_side_network(label: str) -> bool:
    return not _SIDE_NETWORK_WORDS.isdisjoint(_find_words(label))


def _split_words(label: str) -> list[str]:
    """The words of a name that tell networks apart: ["g"] for `netG_ema` and `net_g`."""
    return [word for word in _find_words(label) if word not in _AVERAGE_WORDS | _GENERIC_WORDS]


def _find_words(label: str) -> list[str]:
    return [word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+", label)]


def _is_extra(name: str, tensor: Any) -> bool:
    """Whether a tensor is a counter, a profiler's figure or of a network that only training needs."""
    if _is_side_network(name.partition(".")[0]):
        return True
    shape = tuple(getattr(tensor, "shape", (-1,)))
    is_integer = str(getattr(tensor, "dtype", "")).removeprefix("torch.").startswith(("int", "uint"))
    is_counter = name.rsplit(".", 1)[-1] in _BOOKKEEPING_NAMES or (is_integer and not _is_batch_counter(name))
    return is_counter and shape in ((), (1,))


def _is_batch_counter(name: str) -> bool:
    return name.rsplit(".", 1)[-1] == "num_batches_tracked"


def _has_prefix(name: Any, prefix: str) -> bool:
    return isinstance(name, str) and name.startswith(prefix)


def _format_names(names: list[str]) -> str:
    return f"it has {_quote_names(names)}" if names else "it has no tensors under names"


def _quote_names(names: list[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return f"{', '.join(repr(escape_name(name, 40)) for name in names[:5])}{more}"
