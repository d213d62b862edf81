"""Blends the checkpoints of one network family inside a running engine, frame by frame.

Importing this package imports nothing else: each public name is imported from its module at first use (PEP 562), so that a
program that only asks for the version never waits for torch, onnx or onnxruntime.
"""

from __future__ import annotations

from dni_deploy._version import __version__ as __version__

TYPE_CHECKING = False
if TYPE_CHECKING:  # what a type checker sees; importing the standard library's `typing` would double the time of this import
    from dni_deploy.alpha.coefficients import Coefficients as Coefficients
    from dni_deploy.alpha.curves import AlphaCurve as AlphaCurve
    from dni_deploy.alpha.log import AlphaLog as AlphaLog
    from dni_deploy.alpha.plane import ControlPlane as ControlPlane
    from dni_deploy.alpha.plane_path import PlanePath as PlanePath
    from dni_deploy.alpha.source import open_alpha_source as open_alpha_source
    from dni_deploy.alpha.timeline import AlphaSource as AlphaSource
    from dni_deploy.alpha.timeline import AlphaTimeline as AlphaTimeline
    from dni_deploy.api.bench import bench as bench
    from dni_deploy.api.build import CalibrationOptions as CalibrationOptions
    from dni_deploy.api.build import build as build
    from dni_deploy.api.calibrate import calibrate as calibrate
    from dni_deploy.api.check import check as check
    from dni_deploy.api.demo import demo as demo
    from dni_deploy.api.doctor import doctor as doctor
    from dni_deploy.api.export import export as export
    from dni_deploy.api.filter import filter as filter
    from dni_deploy.api.inspect import inspect as inspect
    from dni_deploy.api.refit import refit as refit
    from dni_deploy.api.run import run as run
    from dni_deploy.api.serve import PreviewOptions as PreviewOptions
    from dni_deploy.api.serve import serve as serve
    from dni_deploy.api.slider import slider as slider
    from dni_deploy.api.status import status as status
    from dni_deploy.api.sweep import sweep as sweep
    from dni_deploy.api.sweep_images import SweepSettings as SweepSettings
    from dni_deploy.api.sweep_images import sweep_images as sweep_images
    from dni_deploy.api.triton import triton as triton
    from dni_deploy.api.tune import tune as tune
    from dni_deploy.api.video import video as video
    from dni_deploy.api.video_cluster import video_on_cluster as video_on_cluster
    from dni_deploy.api.video_shards import video_shard as video_shard
    from dni_deploy.api.videos import videos as videos
    from dni_deploy.api.web import web as web
    from dni_deploy.bundle.bundle import Bundle as Bundle
    from dni_deploy.checkpoints.checkpoint import Checkpoint as Checkpoint
    from dni_deploy.checkpoints.family import Family as Family
    from dni_deploy.control.open_listeners import ListenerOptions as ListenerOptions
    from dni_deploy.control.open_listeners import open_listeners as open_listeners
    from dni_deploy.control.shared_alpha import SharedAlpha as SharedAlpha
    from dni_deploy.errors import BundleError as BundleError
    from dni_deploy.errors import BusyError as BusyError
    from dni_deploy.errors import CheckpointError as CheckpointError
    from dni_deploy.errors import CoefficientsError as CoefficientsError
    from dni_deploy.errors import DniError as DniError
    from dni_deploy.errors import EngineError as EngineError
    from dni_deploy.errors import ImageFileError as ImageFileError
    from dni_deploy.errors import InputError as InputError
    from dni_deploy.errors import LimitError as LimitError
    from dni_deploy.errors import MismatchError as MismatchError
    from dni_deploy.errors import PartialResultError as PartialResultError
    from dni_deploy.errors import RefusedError as RefusedError
    from dni_deploy.errors import UnavailableError as UnavailableError
    from dni_deploy.errors import UsageError as UsageError
    from dni_deploy.imaging.image_tasks import ImageFileOptions as ImageFileOptions
    from dni_deploy.jobs.ray_options import RayOptions as RayOptions
    from dni_deploy.jobs.shard import JobOptions as JobOptions
    from dni_deploy.model_repository.model_config import ModelOptions as ModelOptions
    from dni_deploy.notebook import widget as widget
    from dni_deploy.session.options import SessionOptions as SessionOptions
    from dni_deploy.session.session import Session as Session
    from dni_deploy.session.session import open_session as open_session
    from dni_deploy.signature import Signature as Signature
    from dni_deploy.spatial.alpha_map import AlphaMap as AlphaMap
    from dni_deploy.spatial.alpha_map import AlphaMapOptions as AlphaMapOptions
    from dni_deploy.spatial.render import render_map as render_map
    from dni_deploy.video_io.encoder import EncoderOptions as EncoderOptions
    from dni_deploy.video_io.video_file import InputOptions as InputOptions

_NAMES_BY_MODULE = {
    "alpha.coefficients": "Coefficients",
    "alpha.curves": "AlphaCurve",
    "alpha.log": "AlphaLog",
    "alpha.plane": "ControlPlane",
    "alpha.plane_path": "PlanePath",
    "alpha.source": "open_alpha_source",
    "alpha.timeline": "AlphaSource AlphaTimeline",
    "api.build": "CalibrationOptions",
    "api.serve": "PreviewOptions",
    "api.sweep_images": "SweepSettings sweep_images",
    "api.video_cluster": "video_on_cluster",
    "api.video_shards": "video_shard",
    "api.videos": "videos",
    "bundle.bundle": "Bundle",
    "checkpoints.checkpoint": "Checkpoint",
    "checkpoints.family": "Family",
    "control.open_listeners": "ListenerOptions open_listeners",
    "control.shared_alpha": "SharedAlpha",
    "errors": "DniError UsageError CoefficientsError InputError CheckpointError BundleError ImageFileError MismatchError "
    "RefusedError LimitError UnavailableError PartialResultError BusyError EngineError",
    "imaging.image_tasks": "ImageFileOptions",
    "jobs.ray_options": "RayOptions",
    "jobs.shard": "JobOptions",
    "model_repository.model_config": "ModelOptions",
    "notebook": "widget",
    "session.options": "SessionOptions",
    "session.session": "Session open_session",
    "signature": "Signature",
    "spatial.alpha_map": "AlphaMap AlphaMapOptions",
    "spatial.render": "render_map",
    "video_io.encoder": "EncoderOptions",
    "video_io.video_file": "InputOptions",
}
_COMMAND_FUNCTIONS = (  # one per command
    "bench build check demo doctor export filter inspect calibrate refit run serve slider status sweep triton tune video web"
)
_MODULE_BY_NAME = {
    **{name: f"dni_deploy.{module}" for module, names in _NAMES_BY_MODULE.items() for name in names.split()},
    **{name: f"dni_deploy.api.{name}" for name in _COMMAND_FUNCTIONS.split()},
}

__all__ = ["__version__", *_MODULE_BY_NAME]


def __getattr__(name: str) -> object:
    """Imports a public name.

    Raises:
        UnavailableError: Its module needs a package that is not installed; the message names the extra that brings it.
    """
    if name not in _MODULE_BY_NAME:
        raise AttributeError(f"module 'dni_deploy' has no attribute {name!r}")
    from dni_deploy.utils.optional_packages import import_optional

    value: object = getattr(import_optional(_MODULE_BY_NAME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
