"""Writes the network at one alpha, for programs that cannot blend."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from dni_deploy.alpha.coefficients import Alpha, Coefficients
from dni_deploy.blending.calibration_table import blend_tensors
from dni_deploy.blending.control_settings import ControlSettings
from dni_deploy.blending.group_rules import AlphaRules, AppliedRule, Rule
from dni_deploy.blending.preset import Preset
from dni_deploy.blending.variance_guard import VarianceGuard, list_variance_names
from dni_deploy.blending.weight_groups import WeightGroups
from dni_deploy.bundle.bundle import Bundle
from dni_deploy.errors import CoefficientsError, LimitError, MismatchError, UsageError, escape_name
from dni_deploy.network_controls import ControlValues, drop_control_tensors
from dni_deploy.utils.address import as_local_path
from dni_deploy.utils.atomic_write import write_bytes, write_file_atomically
from dni_deploy.utils.log_duration import log_duration
from dni_deploy.utils.onnx_weights import fill_initializers
from dni_deploy.utils.optional_packages import import_optional
from engines.calibrated_network import read_network
from engines.lowering.calibration_nodes import (
    CorrectedLayer,
    Correction,
    fold_correction,
    insert_calibration_nodes,
    make_neutral_tensors,
    parameter_names,
)

log = logging.getLogger(__name__)

TENSORRT_SUFFIXES = (".plan", ".engine")
"""What other programs call a serialized TensorRT engine."""

MAX_PROTOBUF_BYTES = (1 << 31) - 1
"""Bytes in one ONNX file; protobuf's own limit."""


@dataclass(frozen=True)
class RefitReport:
    """What `refit` wrote, and how far it is from the first member.

    Attributes:
        output: The file.
        alpha: Alpha by member name.
        tensors: Number of float tensors that were written.
        tensors_changed: Number of tensors that differ from the first member's.
        numbers: Number of values in those tensors.
        numbers_changed: Number of values that differ.
        largest_change: Largest change of one value.
        largest_change_tensor: The tensor that it is in; None if nothing changed.
        seconds: Time for everything.
        sha256: SHA-256 of the file, in hex.
        size: Size of the file in bytes.
        rules: The rules for groups of weights, with the number of weights that each applies to.
    """

    output: str
    alpha: dict[str, float]
    tensors: int
    tensors_changed: int
    numbers: int
    numbers_changed: int
    largest_change: float
    largest_change_tensor: str | None
    seconds: float
    sha256: str
    size: int
    rules: tuple[AppliedRule, ...] = ()

    @property
    def coefficients(self) -> Coefficients:
        """The alpha as Coefficients."""
        return Coefficients(tuple(self.alpha), tuple(self.alpha.values()))

    def to_json(self) -> dict[str, Any]:
        """Returns the report as `--json` prints it."""
        return asdict(self)


def refit(
    bundle_path: Bundle | str | os.PathLike[str],
    alpha: Alpha | None,
    output: str | os.PathLike[str],
    *,
    precision: str | None = None,
    force: bool = False,
    extrapolate: bool = False,
    rules: Sequence[str | Rule] | None = None,
    controls: ControlValues | None = None,
    save_preset: str | os.PathLike[str] | None = None,
) -> RefitReport:
    """Blends in float64, rounds once, and writes the result.

    Args:
        bundle_path: The bundle or its path.
        alpha: The alpha.
        output: NAME.onnx: one self-contained file with float32 weights. NAME.safetensors: a checkpoint with every tensor of
            the first member, floats blended and in its dtypes, integers as they are. Both name members, shares and the
            bundle's digest in their metadata. NAME.plan or NAME.engine: a plain TensorRT engine with the blend in it, for
            programs that load engines themselves; made from the bundle's plan, so it runs on this kind of GPU with this
            TensorRT alone.
        precision: "fp32", "tf32" or "fp16": which of the bundle's plans to use for a TensorRT engine; None: the newest.
        force: Replace an output that exists.
        extrapolate: Allow coefficients outside 0 to 1, as far as every variance stays positive.
        rules: For groups of weights that have an alpha of their own; the metadata names them, too. A tensor that the graph
            does not read has the alpha of all others, one that shares its values with another has that one's.
        controls: Values of what the network takes beside the image, constants of the file; others have their defaults. A
            checkpoint has no place for them.
        save_preset: A file to save alpha and rules to, as well.

    Returns:
        What was written.

    Raises:
        UsageError: Another suffix, an output that exists, or no alpha.
        CoefficientsError: The alpha does not suit the family, or makes a BatchNorm variance 0 or negative.
        LimitError: There is not enough disk space.
        UnavailableError: No TensorRT, no GPU, or no plan.
        EngineError: The refit of the TensorRT engine failed.
        DniError: As Bundle.open raises.
    """
    start = time.perf_counter()
    target = as_local_path(output, "the output")
    suffix = target.suffix
    if suffix not in (".onnx", ".safetensors", *TENSORRT_SUFFIXES):
        raise UsageError(
            f"{escape_name(target)}: refit writes NAME.onnx or NAME.safetensors, and NAME.plan or NAME.engine for TensorRT, "
            f"not {escape_name(suffix)!r}."
        )
    if precision is not None and suffix not in TENSORRT_SUFFIXES:
        raise UsageError(
            f"A precision is for TensorRT engines, NAME.plan or NAME.engine; {escape_name(target)} holds the blend as it is."
        )
    if alpha is None:
        raise UsageError(
            "Which alpha? Give one (--alpha), a position of the bundle's slider (--slider), or a preset that has one "
            "(--alpha-preset). Nothing was written."
        )
    bundle = Bundle.ensure_open(bundle_path)
    coefficients = Coefficients.parse(alpha, bundle.members, extrapolate=extrapolate)
    settings = ControlSettings.make_default(bundle.signature.controls, bundle.weight_names).change(controls or {})
    if controls and suffix == ".safetensors":
        raise UsageError("A checkpoint holds the network's weights and no control: write NAME.onnx. Nothing was written.")
    with write_file_atomically(target, force=force) as temporary:  # first of all, so that an existing output costs no blend
        members = [bundle.read_tensors(member) for member in bundle.members]
        keys = [name for name, tensor in members[0].items() if tensor.dtype.kind == "f"]
        alpha_rules = None
        if rules:
            groups = WeightGroups.from_graph(bundle.read_graph(), bundle.weight_names)
            alpha_rules = AlphaRules.parse(list(rules), groups, bundle.members, extrapolate=extrapolate)
        base = coefficients.to_array()
        engine_coefficients = settings.apply(base if alpha_rules is None else alpha_rules.compute_coefficients(base))
        coefficients_by_tensor = _tensor_coefficients(bundle, keys, base, engine_coefficients)
        guard = VarianceGuard(members, list_variance_names(keys, bundle.read_graph()))
        if alpha_rules is None:
            guard.check(coefficients)
        else:
            guard.check_per_tensor(dict(zip(keys, coefficients_by_tensor, strict=True)), coefficients)
        floats = [{name: tensors[name] for name in keys} for tensors in members]
        with log_duration(log, "blending"):
            values, corrections = _blend(bundle, floats, coefficients_by_tensor)
        if corrections and suffix == ".safetensors":
            raise MismatchError(
                "The calibration of this bundle corrects the network's output, which no weight of the network can do: write "
                "NAME.onnx, which gets a node for it, or calibrate with --calibration-method channels. Nothing was written."
            )
        metadata = {
            "members": list(coefficients.members),
            "shares": list(coefficients.values),
            "bundle_sha256": bundle.digest,
            "architecture": bundle.architecture,
        }
        if bundle.signature.controls:
            metadata["controls"] = settings.to_dict()
        if alpha_rules is not None:
            metadata["rules"] = [rule.to_json() for rule in alpha_rules.rules]
        if suffix != ".safetensors":
            rounded = {name: _round_to_dtype(name, values[name], np.dtype(np.float32)) for name in bundle.weight_names}
            data = (
                _make_onnx_file(bundle, rounded, corrections, metadata)
                if suffix == ".onnx"
                else _make_tensorrt_engine(bundle, engine_coefficients, precision)
            )
        else:
            kept = drop_control_tensors(members[0], bundle.signature.controls)
            rounded = {name: _round_to_dtype(name, values[name], kept[name].dtype) for name in keys if name in kept}
            data = save({**kept, **rounded}, {"dni_deploy": json.dumps(metadata)})
        changed = _measure_changes(rounded, members[0])
        write_bytes(temporary, data)
        if save_preset is not None:
            Preset(bundle.members, coefficients, () if alpha_rules is None else alpha_rules.rules).write(
                save_preset, force=force
            )
    return RefitReport(
        output=os.fspath(target),
        alpha=dict(zip(coefficients.members, coefficients.values, strict=True)),
        **changed,
        seconds=time.perf_counter() - start,
        sha256=sha256(data).hexdigest(),
        size=len(data),
        rules=() if alpha_rules is None else alpha_rules.describe_rules(),
    )


def _blend(
    bundle: Bundle, members: Sequence[Mapping[str, NDArray[Any]]], coefficients: NDArray[np.float64]
) -> tuple[dict[str, NDArray[np.float64]], dict[CorrectedLayer, Correction]]:
    """Blends the members' floats and writes the bundle's calibration into them; returns the corrections that no weight can do."""
    network = read_network(bundle)
    table = network.make_table(network.complete_members(members))
    values = blend_tensors(members, coefficients, table)
    if table is None:
        return values, {}
    log.info("the calibration of %s is in use", bundle.path)
    statistics = table.interpolate(coefficients)
    remaining = {}
    for layer in network.layers:
        correction = Correction(*(statistics[name] for name in parameter_names(layer.value)[:2]))
        if layer.weight:
            fold_correction(layer, correction, values)
        else:
            remaining[layer] = correction
    folded = {name for layer in network.layers for name in (layer.weight, layer.bias)}
    for name, other in bundle.manifest.tied.items():  # the same tensor under another name
        if name in values and other in table.statistics.keys() | folded:
            values[name] = values[other]
    return values, remaining


def _tensor_coefficients(
    bundle: Bundle, keys: Sequence[str], base: NDArray[np.float64], coefficients: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Of each of the checkpoint's floats, as blend_float64 takes them: float64 (N,), or a row for each of the keys."""
    if coefficients.ndim == 1:
        return base
    own = dict(zip(bundle.weight_names, coefficients, strict=True))
    return np.stack([own.get(key, own.get(bundle.manifest.tied.get(key, key), base)) for key in keys])


def _round_to_dtype(name: str, values: NDArray[np.float64], dtype: np.dtype[Any]) -> NDArray[Any]:
    with np.errstate(over="ignore"):
        rounded = values.astype(dtype)
    if not np.isfinite(rounded).all():
        count = int(np.count_nonzero(~np.isfinite(rounded)))
        raise CoefficientsError(
            f"At this alpha {count} numbers of {escape_name(name)!r} are beyond the range of {dtype}; bring the shares closer to 0 to 1."
        )
    return rounded


def _make_onnx_file(
    bundle: Bundle,
    weights: Mapping[str, NDArray[np.float32]],
    corrections: Mapping[CorrectedLayer, Correction],
    about: Mapping[str, Any],
) -> bytes:
    size = sum(values.nbytes for values in weights.values())
    if size > MAX_PROTOBUF_BYTES - (16 << 20):
        raise LimitError(f"The network has {size} bytes of weights, more than one ONNX file holds; write NAME.safetensors.")
    model = insert_calibration_nodes(bundle.read_graph_with_weights(weights), corrections)
    numbers = make_neutral_tensors(corrections)
    for layer, correction in corrections.items():
        scale, shift = parameter_names(layer.value)[:2]
        numbers |= {scale: correction.scale.astype(np.float32), shift: correction.shift.astype(np.float32)}
    fill_initializers(model, numbers, numbers.__getitem__)
    for key, value in about.items():
        entry = model.metadata_props.add()
        entry.key, entry.value = f"dni_deploy.{key}", value if isinstance(value, str) else json.dumps(value)
    data: bytes = model.SerializeToString(deterministic=True)
    return data


def _make_tensorrt_engine(bundle: Bundle, coefficients: NDArray[np.float64], precision: str | None) -> bytes:
    """The bundle's TensorRT plan with this blend in it, as TensorRT serializes it."""
    registry = import_optional("engines.registry")
    names = ("tensorrt", "tensorrt-rtx")
    name = next((name for name in names if registry.ENGINES[name].unavailable_reason(bundle) is None), names[0])
    registry.choose_engine(name, bundle)
    serialize = registry.import_backend_function(name, "engines.trt.load:serialize_refitted")
    data: bytes = serialize(bundle, coefficients, precision, name)
    return data


def _measure_changes(written: Mapping[str, NDArray[Any]], first: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
    """Compared in the dtype that is written, so that rounding float16 up to float32 is no change."""
    tensors = numbers = 0
    largest, where = 0.0, None
    for name, values in written.items():
        before = first[name].astype(values.dtype)
        count = int(np.count_nonzero(values != before))
        tensors += count > 0
        numbers += count
        change = float(np.abs(values.astype(np.float64) - before).max(initial=0.0))
        if change > largest:
            largest, where = change, name
    return {
        "tensors": len(written),
        "tensors_changed": tensors,
        "numbers": sum(values.size for values in written.values()),
        "numbers_changed": numbers,
        "largest_change": largest,
        "largest_change_tensor": where,
    }
