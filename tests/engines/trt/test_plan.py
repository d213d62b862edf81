"""Plan: what comes back is what was written, and whatever else lies there is refused in a sentence."""

from __future__ import annotations

import json
import os
import re
import stat
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest

from dni_deploy.bundle.bundle import Bundle
from dni_deploy.bundle.writer import store_calibration
from dni_deploy.errors import BundleError, DniError, MismatchError, RefusedError, UsageError
from dni_deploy.utils.trusted_users import find_trusted_users
from engines.profile import Profile
from engines.trt.network import Network
from engines.trt.plan import (
    PLAN_MAGIC,
    OutputSample,
    Plan,
    PlanHeader,
    find_plan,
    plan_path,
    read_plan,
    search_plans,
    write_plan,
)
from engines.trt.plan_identity import BuildSettings, PlanIdentity
from tests.engines.conftest import write
from tests.engines.trt.conftest import bn, identity_of
from tests.fakes.gpu import FakeGpu

pytestmark = pytest.mark.usefixtures("gpu")
PROFILE = Profile((1, 3, 8, 8), (1, 3, 16, 16), (1, 3, 24, 24))


class InputsNetwork(Network):
    """Another kind of plan."""

    kind = "inputs"


def plan(bundle: Bundle, kind: str = "refit", precision: str = "fp32", engine: bytes = b"engine" * 1000) -> Plan:
    weights = (("conv.weight", "float32", 216), ("конв\n", "float16", 3))
    sample = OutputSample.from_values(bundle, np.arange(3, dtype=np.float32))
    return Plan(PlanHeader(here(bundle, kind, precision), "0" * 64, weights, sample), engine)


def here(bundle: Bundle, kind: str = "refit", precision: str = "fp32") -> PlanIdentity:
    """What such a plan must be for on this machine."""
    return replace(identity_of(bundle, precision=precision, shapes=PROFILE), kind=kind)


def test_round_trip(bundle: Bundle) -> None:
    made = plan(bundle)
    path = write_plan(bundle, made)
    assert path == plan_path(bundle, made.header)
    assert path.parent == bundle.path / "plans"
    assert path.name.startswith("tensorrt-refit-fp32-")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert read_plan(path, here(bundle)) == made
    assert find_plan(bundle) == path
    Bundle.open(bundle.path)  # plans are no part of what a bundle's manifest counts


def test_the_mode_does_not_depend_on_the_umask(bundle: Bundle) -> None:
    before = os.umask(0)
    try:
        assert stat.S_IMODE(write_plan(bundle, plan(bundle)).stat().st_mode) == 0o600
    finally:
        os.umask(before)


def test_the_header_is_pinned(bundle: Bundle) -> None:
    """Plans of an older version would otherwise be read as something else."""
    data = write_plan(bundle, plan(bundle)).read_bytes()
    assert data.startswith(b"dni-deploy plan for tensorrt, version 4\n")
    length = int.from_bytes(data[len(PLAN_MAGIC) : len(PLAN_MAGIC) + 8], "little")
    header = json.loads(data[len(PLAN_MAGIC) + 8 :][:length])
    assert set(header) == {"target", "lowered", "weights", "sample"}
    assert set(header["target"]) == {"kind", "graph", "settings", "members", "library", "version", "gpu", "capabilities"}
    assert set(header["target"]["settings"]) == {
        "precision", "profile", "strip", "fp16", "refit", "refit individual", "tf32", "strongly typed", "explicit batch",
        "native instancenorm", "tactic sources", "profiling verbosity", "preview features",
    }  # fmt: skip
    assert set(header["sample"]) == {"members", "values"}


def test_a_sample_is_for_these_statistics_alone(bundle: Bundle) -> None:
    sample = plan(bundle).header.sample
    assert sample is not None
    found = sample.values_for(bundle)
    assert found is not None
    np.testing.assert_array_equal(found, np.arange(3))
    changed = store_calibration(bundle, b"other statistics")
    assert sample.values_for(changed) is None
    assert sample.values_for(store_calibration(changed, None)) is not None
    assert plan_path(changed, plan(bundle).header) == plan_path(bundle, plan(bundle).header)  # the engine itself is the same


def test_an_existing_one_is_kept(bundle: Bundle) -> None:
    path = write_plan(bundle, plan(bundle))
    with pytest.raises(UsageError, match="exists"):
        write_plan(bundle, plan(bundle, engine=b"another"))
    assert read_plan(path, here(bundle)).engine == plan(bundle).engine
    assert write_plan(bundle, plan(bundle, engine=b"another"), force=True) == path
    assert read_plan(path, here(bundle)).engine == b"another"


def test_every_changed_byte_is_seen(bundle: Bundle) -> None:
    path = write_plan(bundle, plan(bundle, engine=b"tiny"))
    whole, target = path.read_bytes(), here(bundle)
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x20]) + whole[at + 1 :])
        with pytest.raises(BundleError):
            read_plan(path, target)
    for end in range(len(whole)):
        path.write_bytes(whole[:end])
        with pytest.raises(BundleError):
            read_plan(path, target)


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_a_plan_that_others_can_write_is_refused(bundle: Bundle, mode: int) -> None:
    path = write_plan(bundle, plan(bundle))
    path.chmod(mode)
    with pytest.raises(RefusedError, match="written by others"):
        read_plan(path, here(bundle))


def test_a_plan_of_another_user_is_refused(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_plan(bundle, plan(bundle))
    target = here(bundle)
    owner = path.stat().st_uid
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    if owner == 0:  # what root wrote is anybody's
        assert read_plan(path, target)
        os.chown(path, 12345, 12345)
    with pytest.raises(RefusedError, match="belongs to user"):
        read_plan(path, target)


def test_a_link_and_a_pipe(bundle: Bundle) -> None:
    path = write_plan(bundle, plan(bundle))
    target = here(bundle)
    link = path.with_name("tensorrt-refit-fp32-link.plan")
    link.symlink_to(path)
    with pytest.raises(RefusedError, match="link"):
        read_plan(link, target)
    pipe = path.with_name("tensorrt-refit-fp32-pipe.plan")
    os.mkfifo(pipe)
    with pytest.raises(RefusedError, match="plain file"):
        read_plan(pipe, target)
    assert find_plan(bundle) == path


@pytest.mark.parametrize("content", [b"", b"hello", b"\x00" * 4096, b"ftrt" + bytes(range(64))])
def test_foreign_files(bundle: Bundle, content: bytes) -> None:
    path = bundle.path / "plans" / "tensorrt-refit-fp32-0.plan"
    path.parent.mkdir()
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(BundleError, match="not a plan"):
        read_plan(path, here(bundle))
    assert find_plan(bundle) is None


def test_a_bundle_without_plans(bundle: Bundle) -> None:
    assert find_plan(bundle) is None
    with pytest.raises(BundleError, match="does not exist"):
        read_plan(bundle.path / "plans" / "tensorrt-refit-fp32-0.plan", here(bundle))


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("gpu", "NVIDIA T4", "for NVIDIA T4"),
        ("capabilities", ((7, 5),), "7.5"),
        ("library", "tensorrt-rtx", "by TensorRT for RTX"),
        ("version", "9.9.9", "by TensorRT 9.9.9"),
        ("kind", "inputs", "of kind inputs"),
        ("graph", "1" * 64, "another bundle or another lowering: its graph is 1111111111111111, and this is "),
        ("members", ("1" * 64,), "another bundle: the members"),
        ("tf32", True, "with tf32 True, and here it is False"),
        ("strongly_typed", False, "with strongly typed False, and here it is True"),
        ("profiling_verbosity", "DETAILED", "with profiling verbosity DETAILED, and here it is LAYER_NAMES_ONLY"),
        ("tactic_sources", ("CUDNN",), r"with tactic sources \['CUDNN'\], and here it is "),
    ],
)
def test_a_plan_for_something_else_names_the_field(bundle: Bundle, field: str, value: object, words: str) -> None:
    """The message names the field that differs, in an error as in what a search tells."""
    made = plan(bundle)
    target = made.header.identity
    if hasattr(target, field):
        target = replace(target, **{field: value})  # type: ignore[arg-type]
    else:
        target = replace(target, settings=replace(target.settings, **{field: value}))  # type: ignore[arg-type]
    path = write_plan(bundle, Plan(replace(made.header, identity=target), made.engine))
    with pytest.raises(MismatchError, match=words) as refusal:
        read_plan(path, here(bundle))
    assert "build it again" in str(refusal.value)
    assert find_plan(bundle) is None
    if field not in ("kind", "library"):  # the file's name tells them, so that a search for another one does not look at it
        found, rejected = search_plans(bundle)
        assert found is None
        assert rejected is not None
        assert rejected.startswith(f"{path.name} was built ")
        assert re.search(words, rejected)


@pytest.mark.parametrize(("version", "words"), [(1, "an older version"), (5, "a newer version"), (10, "a newer version")])
def test_a_plan_of_another_version_says_so(bundle: Bundle, version: int, words: str) -> None:
    """Its header may hold anything; it is said what to do, and a search for a plan of another precision does not tell of it."""
    path = bundle.path / "plans" / "tensorrt-refit-fp32-0123456789abcdef.plan"
    path.parent.mkdir()
    path.write_bytes(f"dni-deploy plan for tensorrt, version {version}\n".encode() + b"\x02\0\0\0\0\0\0\0{}" + bytes(64))
    path.chmod(0o600)
    with pytest.raises(BundleError, match=f"was built by {words} of dni-deploy; build it again"):
        read_plan(path, here(bundle))
    assert find_plan(bundle) is None
    assert search_plans(bundle) == (None, f"{path.name} was built by {words} of dni-deploy")
    assert search_plans(bundle, precision="fp16") == (None, None)


def test_a_plan_of_another_account_is_passed_over(bundle: Bundle, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Whole, owned by this user and with the right mode, as in a bundle that came as an archive; but under another key."""
    with monkeypatch.context() as patch:
        patch.setenv("DNI_CONFIG", str(tmp_path / "of somebody else"))
        path = write_plan(bundle, plan(bundle))
        assert find_plan(bundle) == path
    assert search_plans(bundle) == (None, f"{path.name} is damaged, or was not written by this account")
    with pytest.raises(BundleError, match="not written by this account; build it again with dni-deploy build --force"):
        read_plan(path, here(bundle))


def test_every_setting_makes_another_plan(bundle: Bundle) -> None:
    """A field that a build depends on and that were left out of the JSON would let a plan be taken for another one."""
    made = plan(bundle)
    settings = made.header.identity.settings
    paths = {plan_path(bundle, made.header)}
    for each in fields(settings):
        value = getattr(settings, each.name)
        other: object = not value if isinstance(value, bool) else f"not {value}"
        if each.name == "profile":
            other = Profile((1, 3, 8, 8), (1, 3, 16, 16), (1, 3, 32, 32))
        elif each.name == "tactic_sources":
            other = ("CUBLAS",)
        elif each.name == "preview_features":
            other = ("ANOTHER",)
        elif each.name == "precision":
            other = "fp16"
        changed = replace(settings, **{each.name: other})  # type: ignore[arg-type]
        assert BuildSettings.from_json(json.loads(json.dumps(changed.to_json()))) == changed
        paths.add(plan_path(bundle, replace(made.header, identity=replace(made.header.identity, settings=changed))))
    assert len(paths) == 1 + len(fields(settings))


def test_a_sample_is_the_familys(bundle: Bundle, tmp_path: Path) -> None:
    sample = plan(bundle).header.sample
    assert sample is not None
    kept = sample.values_for(bundle)
    assert kept is not None
    assert kept.dtype == np.float32
    assert kept.tolist() == [0, 1, 2]
    assert sample.values_for(write(bn(), tmp_path / "two.dni", members=2)) is None


def test_the_newest_fitting_plan_is_found(bundle: Bundle) -> None:
    single, half = write_plan(bundle, plan(bundle)), write_plan(bundle, plan(bundle, precision="fp16"))
    wider = plan(bundle)
    other_profile = Profile((1, 3, 8, 8), (1, 3, 8, 8), (1, 3, 99, 99))
    target = replace(wider.header.identity, settings=replace(wider.header.identity.settings, profile=other_profile))
    wide = write_plan(bundle, Plan(replace(wider.header, identity=target), b""))
    foreign = plan(bundle)
    other = write_plan(bundle, Plan(replace(foreign.header, identity=replace(foreign.header.identity, gpu="other")), b""))
    assert len({single, half, wide, other}) == 4
    for age, path in enumerate((other, half, wide, single)):
        os.utime(path, ns=(10**18 - age, 10**18 - age))
    assert find_plan(bundle) == half
    assert find_plan(bundle, precision="fp32") == wide
    assert find_plan(bundle, precision="fp16") == half
    assert find_plan(bundle, InputsNetwork) is None


def test_the_plan_that_a_job_names_is_found(bundle: Bundle) -> None:
    made, half = plan(bundle), plan(bundle, precision="fp16", engine=b"other" * 100)
    older, newer = write_plan(bundle, made), write_plan(bundle, half)
    os.utime(older, (1, 1))
    for wanted, path in ((made, older), (half, newer)):
        match, _ = search_plans(bundle, digest=wanted.digest)
        assert match is not None
        assert match.path == path
    match, rejected = search_plans(bundle, digest="f" * 64)
    assert match is None
    assert rejected == f"{newer.name} is the plan {half.digest[:16]}, and wanted is ffffffffffffffff"


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root gives a file to another account")
def test_a_plan_of_another_account_needs_trust_and_its_key(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The owner alone is not enough, since what an account unpacks belongs to it; nor is the key, whoever has the file."""
    monkeypatch.setenv("DNI_CONFIG", str(tmp_path / "theirs"))
    path = write_plan(bundle, plan(bundle))
    path.chmod(0o644)
    os.chown(path, 12345, -1)
    monkeypatch.setenv("DNI_CONFIG", str(tmp_path / "ours"))
    users = find_trusted_users(["12345", "23456"])
    match, rejected = search_plans(bundle)
    assert match is None
    assert rejected == f"{path.name} belongs to user 12345, and a plan is a program: refused"
    match, rejected = search_plans(bundle, users=users)
    assert match is None
    assert rejected == f"{path.name} is damaged, or was not written by user 12345, whose key is wanted"
    key = users[0].key_path
    assert key == tmp_path / "ours" / "trusted-keys" / "12345.key"
    key.parent.mkdir(parents=True)
    key.write_bytes((tmp_path / "theirs" / "derived-files.key").read_bytes())
    key.chmod(0o600)
    match, _ = search_plans(bundle, users=users)
    assert match is not None
    assert read_plan(match.path, match.identity, users) == plan(bundle)
    assert find_plan(bundle) is None
    with pytest.raises(RefusedError, match="belongs to user 12345"):
        read_plan(path, here(bundle))
    key.chmod(0o666)
    assert search_plans(bundle, users=users)[0] is None
    key.chmod(0o600)
    for owner in (0, 23456, 34567):
        os.chown(path, owner, -1)
        assert search_plans(bundle, users=users)[0] is None
    os.chown(path, 12345, -1)
    path.chmod(0o664)
    assert search_plans(bundle, users=users)[0] is None
    path.chmod(0o644)
    assert search_plans(bundle, users=users)[0] is not None


@pytest.mark.parametrize("gpu", ["10.16"], indirect=True)
def test_no_such_gpu(bundle: Bundle, gpu: FakeGpu) -> None:
    with pytest.raises(DniError, match="no GPU number 3"):
        identity_of(bundle, device=3)


def test_a_full_disk_leaves_nothing(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*given: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DniError, match="no room"):
        write_plan(bundle, plan(bundle))
    assert not (bundle.path / "plans").exists()


def test_paths_are_shown_safely(tmp_path: Path, bundle: Bundle) -> None:
    path = tmp_path / "evil\n\x1b[31m.plan"
    path.write_bytes(b"x")
    path.chmod(0o600)
    with pytest.raises(BundleError) as refusal:
        read_plan(path, here(bundle))
    assert "\n" not in str(refusal.value)
    assert "\x1b" not in str(refusal.value)
