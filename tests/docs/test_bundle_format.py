"""docs/bundle-format.md and docs/errors.md: their Python blocks run, and the listed fields are those of a manifest."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from dni_deploy.bundle.manifest import ATTACHMENT_FIELDS, Manifest
from dni_deploy.bundle.writer import write_bundle
from dni_deploy.checkpoints.checkpoint import Checkpoint
from dni_deploy.checkpoints.family import Family
from tests.support import pico_bundle as pico

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize("page", ["bundle-format.md", "errors.md"])
def test_documented_python_block_runs(page: str, tmp_path: Path) -> None:
    members = {name: Checkpoint.from_state_dict(pico.tensors(seed)) for seed, name in enumerate(("psnr", "gan"))}
    family = Family.from_checkpoints(members)
    write_bundle(tmp_path / "sr.dni", pico.graph(), family, pico.SIGNATURE, architecture="pico", graph_facts={})
    [block] = re.findall(r"^```python\n(.*?)^```", (DOCS / page).read_text(encoding="utf-8"), re.M | re.S)
    process = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(DOCS.parent)!r})\n{block}"],
        cwd=tmp_path, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert process.returncode == 0, process.stderr


def test_every_field_of_a_manifest_is_listed() -> None:
    text = (DOCS / "bundle-format.md").read_text(encoding="utf-8")
    table = text.partition("## manifest.json")[2].partition("\nThe bundle's identity")[0]
    listed = {name for row in re.findall(r"^\| (`.*?) \|", table, re.M) for name in re.findall(r"`(\w+)`", row)}
    assert listed == {"format", "version", "manifest_sha256", *Manifest.__dataclass_fields__}
    assert {name for name in ATTACHMENT_FIELDS if f"| `{name}` | optional" not in table} == set()


def test_documented_error_object_equals_the_command_output() -> None:
    [line] = re.findall(r'^    (\{"schema".*\})$', (DOCS / "errors.md").read_text(encoding="utf-8"), re.M)
    assert set(json.loads(line)["error"]) == {"kind", "message", "exit_code"}
