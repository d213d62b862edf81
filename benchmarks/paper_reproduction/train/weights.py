"""Reads and writes trained nets as float16, which halves the file size."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor, nn


def write(net: nn.Module, path: Path, facts: Mapping[str, str]) -> None:
    """Writes the state dict rounded to float16, without the integer batch counters that inference never reads."""
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {key: value.cpu().half().contiguous() for key, value in net.state_dict().items() if value.is_floating_point()}
    save_file(state, path, {"format": "pt", **facts})
    print(f"{path.name}: {path.stat().st_size / 1e6:.2f} MB", flush=True)


def load(path: Path) -> dict[str, Tensor]:
    """Reads what `write` wrote, as float32: members are fine-tuned from the stored ancestor, rounding included."""
    return {key: value.float() for key, value in load_file(path).items()}
