"""Files that hold other files: the index of a sharded checkpoint, and a .zip with a checkpoint in it."""

from __future__ import annotations

import io
import re
import zipfile

from dni_deploy.checkpoints.file_type import CheckpointFile, check_head
from dni_deploy.checkpoints.other_formats import describe_json
from dni_deploy.errors import CheckpointError, LimitError, RefusedError, UsageError, escape_name
from dni_deploy.utils.text_file import load_json

MAX_INDEX_BYTES = 50_000_000
MAX_COMPRESSION = 100
"""How many times larger than the .zip its content may be; weights compress to half at best."""
CHECKPOINT_SUFFIXES = (".pth", ".pt", ".ckpt", ".bin", ".safetensors", ".th", ".pt2")

_CONTAINER_RECORD_PATTERN = re.compile(r"(.*/)?(data\.pkl|archive_format|serialized_exported_program\.json)")
"""Records of torch's own zip containers."""


def read_shard_names(checkpoint_file: CheckpointFile) -> dict[str, str] | None:
    """Reads the index of a sharded checkpoint (`*.index.json`), as Hugging Face's libraries write it.

    Returns:
        The name of the file in the same folder that holds a tensor, by the tensor's name; None where the file is no JSON.

    Raises:
        CheckpointError: It is JSON, but no such index, or names a file outside of its folder.
    """
    name = checkpoint_file.name
    if not checkpoint_file.head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{"):
        return None
    if checkpoint_file.size > MAX_INDEX_BYTES:
        raise LimitError(f"{name} is a JSON file of {checkpoint_file.size:,} bytes; the limit is {MAX_INDEX_BYTES:,}.")
    try:
        value = load_json(checkpoint_file.read().decode("utf-8-sig"))
    except UsageError as error:
        raise CheckpointError(f"{name} is not a checkpoint, and begins like JSON: {error}") from None
    shards = value.get("weight_map")
    if not isinstance(shards, dict) or not shards:
        raise CheckpointError(f"{name} is not a checkpoint: it is {describe_json(value)}.")
    for shard in shards.values():
        if not isinstance(shard, str) or not re.fullmatch(r"[^/\\:\0]+", shard) or shard in (".", ".."):
            raise CheckpointError(f"{name} names {escape_name(shard, 60)!r}, which is no file in its folder.")
    return shards


def open_zipped_checkpoint(checkpoint_file: CheckpointFile) -> CheckpointFile | None:
    """Opens the one checkpoint in a .zip, in memory.

    Returns:
        The checkpoint; None where the file is none, or a zip container of torch or NumPy.

    Raises:
        CheckpointError: It holds several checkpoints, or is damaged.
        RefusedError: It is encrypted, or would fill the memory.
    """
    name = checkpoint_file.name
    if not checkpoint_file.head.startswith(b"PK"):
        return None
    try:
        archive = zipfile.ZipFile(checkpoint_file.file)
    except zipfile.BadZipFile:
        return None
    names = archive.namelist()
    if any(_CONTAINER_RECORD_PATTERN.fullmatch(inner) for inner in names) or all(inner.endswith(".npy") for inner in names):
        return None
    inner_names = [
        inner for inner in names if inner.lower().endswith(CHECKPOINT_SUFFIXES) and not inner.startswith("__MACOSX/")
    ]
    if len(inner_names) != 1:
        listed = ", ".join(repr(escape_name(inner, 40)) for inner in (inner_names or names)[:5])
        kind = (
            f"{len(inner_names)} checkpoints, {listed}; unpack it and give one of them"
            if inner_names
            else f"no checkpoint, but {listed}"
        )
        raise CheckpointError(f"{name} is a .zip with {kind}.")
    record = archive.getinfo(inner_names[0])
    if record.flag_bits & 1:
        raise RefusedError(f"{name} is an encrypted archive; unpack it first.")
    if record.file_size > MAX_COMPRESSION * checkpoint_file.size:
        raise RefusedError(
            f"{name} unpacks to {record.file_size:,} bytes; refused, because a small file would fill the memory."
        )
    try:
        data = archive.read(record)
    except (zipfile.BadZipFile, EOFError, NotImplementedError):
        raise CheckpointError(f"{name} is damaged or compressed in an unusual way; unpack it first.") from None
    opened = CheckpointFile(io.BytesIO(data), f"{name} ({escape_name(inner_names[0], 60)})", len(data), checkpoint_file.budget)
    check_head(opened)
    return opened
