"""Measures how often `check` is right about pairs of members that are known to blend, or known not to.

    python -m benchmarks.features.check_pairs -o benchmarks/results/check.json

Twelve pairs are used by the test (tests/dni_deploy/compatibility/test_known_pairs.py); the others are held out. The pairs that
blend come from families trained here, whose members are fine-tuned from the family's first member; docs/paper.md shows that they
blend. The thresholds are the paper's, except for one rule that was chosen after looking at the families: see docs/check.md.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks.families import LEVEL_MEMBERS, ROOT, TRAINED_FAMILIES, weights
from benchmarks.result_file import describe_commit
from dni_deploy.api.check import check
from exporters.architectures.registry import find_architecture
from exporters.architectures.srcnn import SRCNN

State = dict[str, NDArray[Any]]
BLENDS_ANSWER, DOES_NOT_BLEND_ANSWER = "blends", "does not"
TRAINED_MEMBERS = {name: row.tuned_members for name, row in TRAINED_FAMILIES.items()}
TRAINED_TEST_PAIRS = {
    "three_layer": ("n20", "n50"), "demo": ("n20", "n60"), "sr": ("mse", "gan"),
    "style": ("mosaic_small", "fire_small"), "scenes": ("identity", "night"), "digits": ("thin", "bold"),
}  # fmt: skip
"""The trained pairs among the twelve of the test."""


@dataclass(frozen=True)
class KnownPair:
    """A pair: its name, the expected answer (BLENDS_ANSWER or DOES_NOT_BLEND_ANSWER), its kind, and a function that makes its members."""

    name: str
    answer: str
    kind: str
    members: Callable[[], tuple[State, State]]


def member(family: str, name: str) -> State:
    """One trained member in float32."""
    return dict(weights(family, name))


def list_test_pairs() -> list[KnownPair]:
    """Returns the pairs of the test: six that blend and six that do not."""
    scratch = KnownPair(
        "three_layer n20 - scratch",
        DOES_NOT_BLEND_ANSWER,
        "from scratch",
        lambda: (member("three_layer", "n20"), member("three_layer", "scratch")),
    )
    return [
        *(_make_trained_pair(family, *pair) for family, pair in TRAINED_TEST_PAIRS.items()),
        scratch,
        _make_changed_pair("demo", "n60", "permuted channels", permute_channels, 1, beside="n20"),
        KnownPair(
            "small net, denoise - negative",
            DOES_NOT_BLEND_ANSWER,
            "other task",
            lambda: (train_small_net("denoise", 0), train_small_net("negative", 1)),
        ),
        KnownPair(
            "three_layer n20 - half as wide",
            DOES_NOT_BLEND_ANSWER,
            "other width",
            lambda: (member("three_layer", "n20"), _make_untrained_half()),
        ),
        _make_changed_pair("demo", "n20", "sign-flipped", flip_signs, 1),
        _make_changed_pair("three_layer", "n20", "noise", replace_with_noise, 1),
    ]


def list_held_out_pairs() -> Iterator[KnownPair]:
    """Yields the held-out pairs: every other pair of the families, and more ways to fail, seeds and networks."""
    for family, names in TRAINED_MEMBERS.items():
        yield from (
            _make_trained_pair(family, *pair)
            for pair in combinations(names, 2)
            if set(pair) != set(TRAINED_TEST_PAIRS.get(family, ()))
        )
    for family, name in (
        *(("three_layer", level) for level in LEVEL_MEMBERS[1:]),
        *(("dncnn", level) for level in LEVEL_MEMBERS),
    ):
        yield KnownPair(
            f"{family} {name} - scratch", DOES_NOT_BLEND_ANSWER, "from scratch",
            lambda family=family, name=name: (member(family, name), member(family, "scratch")),  # type: ignore[misc]
        )  # fmt: skip
    firsts = {"demo": "n20", "three_layer": "n20", "style": "content", "scenes": "identity", "digits": "thin"}
    for seed in (2, 3):
        for family in ("demo", "three_layer", "style", "digits"):
            yield _make_changed_pair(family, firsts[family], "permuted channels", permute_channels, seed)
        for family in ("demo", "style", "scenes", "digits"):
            yield _make_changed_pair(family, firsts[family], "sign-flipped", flip_signs, seed)
        for family in firsts:
            yield _make_changed_pair(family, firsts[family], "noise", replace_with_noise, seed)
        tasks = (("denoise", "swap"), ("swap", "negative"), ("denoise", "denoise"))
        for first_task, second_task in tasks:
            yield KnownPair(
                f"small net, {first_task} - {second_task}, seeds {seed} and {seed + 10}", DOES_NOT_BLEND_ANSWER,
                "other task" if first_task != second_task else "from scratch",
                lambda first=first_task, second=second_task, seed=seed: (train_small_net(first, seed), train_small_net(second, seed + 10)),  # type: ignore[misc]
            )  # fmt: skip
    for seed in (2, 3):
        for family in ("style", "scenes"):
            yield _make_changed_pair(family, firsts[family], "sign-flipped, a fifth", flip_fifth_of_signs, seed)


def list_undecided_pairs() -> Iterator[KnownPair]:
    """Yields pairs whose answer is not known in advance; their verdicts are shown but not counted."""
    for task in ("swap", "negative"):
        yield KnownPair(
            f"small net, denoise, then trained on to {task}", "unknown", "other task, one ancestor",
            lambda task=task: (train_small_net("denoise", 0), train_small_net(task, 0, ancestor=train_small_net("denoise", 0))),  # type: ignore[misc]
        )  # fmt: skip
    for family, name in (("demo", "n20"), ("three_layer", "n20"), ("style", "content")):
        for strength in (0.1, 0.5, 1.0):
            yield KnownPair(
                f"{family} {name} + {strength:g} noise", "unknown", "noise on top",
                lambda family=family, name=name, strength=strength: _add_noise(member(family, name), strength),  # type: ignore[misc]
            )  # fmt: skip


def permute_channels(state: State, seed: int) -> State:
    """Permutes the inner channels, with the next layer's inputs to match, so that the network computes the same function."""
    random = np.random.default_rng(seed)
    permuted = dict(state)
    for filters, followers in _list_inner_layers(state):
        axis = _filter_axis(filters, state)
        order = random.permutation(state[filters].shape[axis])
        permuted[filters] = np.take(permuted[filters], order, axis)
        for name in _list_channel_vectors(filters, state):
            permuted[name] = permuted[name][order]
        for name in followers:
            permuted[name] = np.take(permuted[name], order, 1 - _filter_axis(name, state))
    return permuted


def flip_signs(state: State, seed: int, fraction: float = 0.5) -> State:
    """Flips the sign of some filters and of the norm after them, so that the network computes the same function."""
    random = np.random.default_rng(seed)
    flipped = dict(state)
    for filters, _ in _list_inner_layers(state):
        _, norm = _find_layer_and_norm(filters, state)
        if norm is None:
            continue
        axis = _filter_axis(filters, state)
        sign = np.where(random.random(state[filters].shape[axis]) < fraction, -1, 1).astype(np.float32)
        flipped[filters] = flipped[filters] * (sign[:, None, None, None] if axis == 0 else sign[None, :, None, None])
        for name in (f"{filters.removesuffix('weight')}bias", f"{norm}.running_mean", f"{norm}.weight"):
            if name in flipped:
                flipped[name] = flipped[name] * sign
    return flipped


def flip_fifth_of_signs(state: State, seed: int) -> State:
    return flip_signs(state, seed, 0.2)


def replace_with_noise(state: State, seed: int) -> State:
    """Replaces every filter by noise of the same root mean square and keeps everything else."""
    random = np.random.default_rng(seed)
    return {
        name: (_root_mean_square(values) * random.standard_normal(values.shape)).astype(np.float32)
        if values.ndim == 4
        else values
        for name, values in state.items()
    }


def train_small_net(task: str, seed: int, *, ancestor: State | None = None, steps: int = 250) -> State:
    """Trains a three-layer net of 16 and 8 channels on random patches for one task; takes a second or two."""
    generator = torch.Generator().manual_seed(seed)
    net = SRCNN(3, (16, 8), (5, 3, 5))
    with torch.no_grad():
        for weight in net.parameters():
            fan = max(weight[0].numel(), 1) if weight.ndim == 4 else 1
            weight.copy_(torch.randn(weight.shape, generator=generator) * (2 / fan) ** 0.5 if weight.ndim == 4 else weight * 0)
    if ancestor is not None:
        net.load_state_dict({name: torch.from_numpy(values) for name, values in ancestor.items()})
    optimizer = torch.optim.Adam(net.parameters(), 2e-3)
    for _ in range(steps):
        coarse = torch.rand(8, 3, 6, 6, generator=generator)
        clean = nn.functional.interpolate(coarse, size=32, mode="bicubic").clamp(0, 1)
        inputs, targets = _make_task_batch(task, clean, generator)
        loss = nn.functional.mse_loss(net(inputs), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return {name: values.detach().numpy().copy() for name, values in net.state_dict().items()}


def _make_task_batch(task: str, clean: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    if task == "denoise":
        return (clean + torch.randn(clean.shape, generator=generator) * 0.15).clamp(0, 1), clean
    return clean, 1 - clean if task == "negative" else clean.roll(1, dims=1)


def _make_trained_pair(family: str, first: str, second: str) -> KnownPair:
    return KnownPair(
        f"{family} {first} - {second}", BLENDS_ANSWER, family, lambda: (member(family, first), member(family, second))
    )


def _make_changed_pair(
    family: str, name: str, kind: str, change: Callable[[State, int], State], seed: int, *, beside: str | None = None
) -> KnownPair:
    return KnownPair(
        f"{family} {beside or name} - {name}, {kind} (seed {seed})", DOES_NOT_BLEND_ANSWER, kind,
        lambda: (member(family, beside or name), change(member(family, name), seed)),
    )  # fmt: skip


def _make_untrained_half() -> State:
    torch.manual_seed(0)
    return {name: values.numpy() for name, values in SRCNN(3, (32, 16), (9, 5, 9)).state_dict().items()}


def _add_noise(state: State, strength: float) -> tuple[State, State]:
    random = np.random.default_rng(0)
    other = {
        name: (values + strength * _root_mean_square(values) * random.standard_normal(values.shape)).astype(np.float32)
        if values.ndim == 4
        else values
        for name, values in state.items()
    }
    return state, other


def _root_mean_square(values: NDArray[Any]) -> float:
    return float(np.sqrt(np.mean(np.square(values, dtype=np.float64))))


def _list_inner_layers(state: Mapping[str, NDArray[Any]]) -> list[tuple[str, Sequence[str]]]:
    """Lists the layers whose channels only the next layers read: (name of the filters, names of the next layers' filters)."""
    architecture = find_architecture("auto", state).name
    convolutions = [name for name, values in state.items() if values.ndim == 4]
    if architecture == "transformer_net":
        blocks = sorted({name.split(".")[0] for name in convolutions if name.startswith("res")})
        pairs = [(f"{block}.conv1.conv2d.weight", [f"{block}.conv2.conv2d.weight"]) for block in blocks]
        ends = [("conv1", "conv2"), ("conv2", "conv3"), ("deconv1", "deconv2"), ("deconv2", "deconv3")]
        return [*pairs, *((f"{one}.conv2d.weight", [f"{other}.conv2d.weight"]) for one, other in ends)]
    if architecture == "cyclegan":
        inner = [name for name in convolutions if name.endswith("conv_block.1.weight")]
        return [(name, [name.replace("conv_block.1", "conv_block.5")]) for name in inner]
    ordered = sorted(convolutions, key=lambda name: [int(part) if part.isdigit() else part for part in name.split(".")])
    return [(one, [other]) for one, other in pairwise(ordered)]


def _find_layer_and_norm(filters: str, state: Mapping[str, NDArray[Any]]) -> tuple[str, str | None]:
    """Returns the name of the layer and of the norm after it, or None if there is no norm."""
    layer = filters.removesuffix(".weight")
    if layer.endswith(".conv2d"):
        prefix, _, number = layer.removesuffix(".conv2d").rpartition("conv")
        norm = prefix + "in" + number if not prefix.endswith("de") else f"in{int(number) + 3}"
    else:
        head, _, number = layer.rpartition(".")
        norm = f"{head}.{int(number) + 1}" if number.isdigit() else ""
    return layer, norm if f"{norm}.weight" in state and state[f"{norm}.weight"].ndim == 1 else None


def _list_channel_vectors(filters: str, state: Mapping[str, NDArray[Any]]) -> list[str]:
    layer, norm = _find_layer_and_norm(filters, state)
    names = [f"{layer}.bias"]
    if norm is not None:
        names += [f"{norm}.{part}" for part in ("weight", "bias", "running_mean", "running_var")]
    return [name for name in names if name in state]


def _filter_axis(name: str, state: Mapping[str, NDArray[Any]]) -> int:
    return int(name.startswith("main."))  # DCGAN's convolutions are transposed


def _check_pair(pair: KnownPair) -> dict[str, Any]:
    first, second = pair.members()
    report = check({"first": first, "second": second})
    [outcome] = report.pairs
    is_right = None if pair.answer == "unknown" else (outcome.verdict != "will not blend") == (pair.answer == BLENDS_ANSWER)
    row: dict[str, Any] = {
        "pair": pair.name,
        "kind": pair.kind,
        "answer": pair.answer,
        "verdict": outcome.verdict,
        "right": is_right,
    }
    row.update(causes=list(outcome.causes), median=outcome.median, distance=outcome.distance)
    print(
        f"{pair.name:64} {pair.answer:9} {outcome.verdict:17} {', '.join(outcome.causes):24} {'' if is_right in (True, None) else 'WRONG'}"
    )
    return row


def main() -> None:
    """Checks all pairs and writes the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, required=True)
    output = parser.parse_args().output
    parts = {"twelve": list_test_pairs(), "held_out": list(list_held_out_pairs()), "observed": list(list_undecided_pairs())}
    result: dict[str, Any] = {"schema": 1, "commit": describe_commit(ROOT), "torch": torch.__version__}
    for part, pairs in parts.items():
        result[part] = [_check_pair(pair) for pair in pairs]
    for part in ("twelve", "held_out"):
        rows = result[part]
        result[f"{part}_right"] = sum(row["right"] for row in rows)
        print(f"{part}: {result[f'{part}_right']} of {len(rows)}")
    output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
