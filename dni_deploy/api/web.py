"""Writes a static site whose page runs a bundle's network in the visitor's browser."""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dni_deploy.alpha.coefficients import Alpha, Coefficients
from dni_deploy.bundle.bundle import Bundle
from dni_deploy.errors import UsageError, escape_name
from dni_deploy.imaging.frame_encoding import encode_png
from dni_deploy.imaging.frames import Frame, check_signature
from dni_deploy.imaging.image_file import read_image
from dni_deploy.session.options import SessionOptions
from dni_deploy.session.session import Session, open_session
from dni_deploy.utils.address import as_local_path
from dni_deploy.utils.progress import OptionalProgress, report_progress
from dni_deploy.website.network import make_web_network
from dni_deploy.website.runtime import RUNTIME_VERSION, read_runtime
from dni_deploy.website.site import (
    RUNTIME_FOLDER,
    check_site_folder,
    list_sizes,
    make_data_files,
    make_page_files,
    write_site,
)
from dni_deploy.webui.sources import open_frame_source, open_noisy_photograph

log = logging.getLogger(__name__)

FIRST_FRAME_OPERATIONS = 4e9
"""Multiplications for the sample that comes with dni-deploy: about a second of WebAssembly on one thread. The sample's side follows."""

MIN_SAMPLE_SIDE_PX, MAX_SAMPLE_SIDE_PX = 64, 256

CHECK_SIDE_PX = 16
CHECK_COUNT = 64
"""Side of the input, and number of output values, by which the page compares the browser's network with this one."""

MAX_TITLE_LENGTH = 200


@dataclass(frozen=True)
class WebReport:
    """What was written.

    Attributes:
        output: The folder.
        title: The page's heading.
        members: Names of the members.
        alpha: The alpha with which the page opens, by member name.
        sample: Name of the sample picture.
        runtime: Version of ONNX Runtime Web.
        runtime_origin: Where its files came from.
        sizes: Bytes of the runtime, the network and the page.
        size: Bytes of all files.
        files: Number of files.
        engine: Name of the engine that computed what the page checks itself by.
        seconds: Time for everything.
    """

    output: str
    title: str
    members: tuple[str, ...]
    alpha: Mapping[str, float]
    sample: str
    runtime: str
    runtime_origin: str
    sizes: Mapping[str, int]
    size: int
    files: int
    engine: str
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """Returns the report as `--json` prints it."""
        return asdict(self)


def web(
    bundle_path: Bundle | str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    runtime: str | os.PathLike[str] | None = None,
    sample: str | os.PathLike[str] | None = None,
    title: str | None = None,
    alpha: Alpha | None = None,
    options: SessionOptions | None = None,
    force: bool = False,
    progress: OptionalProgress = None,
) -> WebReport:
    """Writes a static site whose page runs the network in the visitor's browser, with a slider for alpha.

    Any web server can publish the folder, at any path. Nothing that a visitor opens leaves the browser. The members' weights are part
    of the site: whoever can open it can download them.

    Args:
        bundle_path: The bundle or its path, calibrated or not.
        output: The folder to write.
        runtime: A folder of `npm install onnxruntime-web`, or the archive of `npm pack`; None: npm downloads it.
        sample: The picture that the page opens with; None: a photograph that comes with dni-deploy, with noise for a network that
            removes noise, in a size that a browser renders within seconds.
        title: The page's heading; None: the bundle's name.
        alpha: The alpha that the page opens with; None: equal shares.
        options: Engine, and the controls' values with which the page opens; groups of weights can have no alpha of their own.
        force: Replace a site in `output`.
        progress: Called with the steps done.

    Returns:
        What was written.

    Raises:
        UsageError: `output` exists, or an option is not usable. Nothing was written.
        MismatchError: The network does not turn frames into frames, or the runtime is another version.
        UnavailableError: The runtime is missing and npm cannot get it, or no engine can run here.
        DniError: As read_image, open_session and Bundle.open raise.
    """
    started = time.perf_counter()
    folder, options = as_local_path(output, "the output"), options or SessionOptions()
    bundle = Bundle.ensure_open(bundle_path)
    check_signature(bundle.signature)
    check_site_folder(folder, force=force)
    if options.rules or options.extrapolate:
        raise UsageError(
            "The page has one alpha for all weights, from 0 to 1: no rules for groups of weights, and no extrapolation."
        )
    heading = title if title is not None else bundle.path.resolve().stem
    if not heading.strip() or len(heading) > MAX_TITLE_LENGTH:
        raise UsageError(f"A title has 1 to {MAX_TITLE_LENGTH} characters.")
    members = bundle.members
    shares = Coefficients.parse([1 / len(members)] * len(members) if alpha is None else alpha, members)
    picture = None if sample is None else read_image(sample, scale=bundle.signature.scale).to_frame()
    report_progress(progress, 0, 3, "reading ONNX Runtime Web")
    runtime_files, origin = read_runtime(None if runtime is None else Path(runtime))
    log.info("the runtime is %s", origin)
    report_progress(progress, 1, 3, "preparing the network")
    network = make_web_network(bundle)
    with open_session(bundle, options, alpha=shares) as session:
        report_progress(progress, 2, 3, "rendering the check")
        if picture is None or sample is None:
            picture, sample_name = choose_sample(session, network.members.shape[1])
        else:
            sample_name = Path(sample).name
        facts = {
            "members": list(members),
            "alpha": list(shares.values),
            "slider": None if bundle.slider is None else [list(point) for point in bundle.slider.points],
            "controls": [{**each, "default": session.controls[each["name"]]} for each in network.facts["controls"]],
            "check": make_check(session),
            "sample": {"name": sample_name},
        }
        engine = session.engine.name
    site_files = {
        **{f"{RUNTIME_FOLDER}/{name}": content for name, content in runtime_files.items()},
        **make_page_files(heading, members),
        **make_data_files(network, encode_png(picture, optimize=True), facts),
    }
    write_site(folder, site_files, force=force)
    sizes = dict(list_sizes(site_files))
    report_progress(progress, 3, 3, "done")
    return WebReport(
        os.fspath(folder),
        heading,
        members,
        dict(zip(members, shares.values, strict=True)),
        escape_name(sample_name),
        RUNTIME_VERSION,
        origin,
        sizes,
        sum(sizes.values()),
        len(site_files),
        engine,
        time.perf_counter() - started,
    )


def choose_sample(session: Session, weight_count: int) -> tuple[Frame, str]:
    """Chooses the picture for a page that was given none.

    Args:
        session: A session of the network.
        weight_count: Number of its weights, each of which is a multiplication for every pixel.

    Returns:
        uint8 (H, W, 3), as large as a browser can render within about a second without a GPU, and its name.
    """
    side = round(math.sqrt(FIRST_FRAME_OPERATIONS / weight_count)) // 8 * 8
    side = min(MAX_SAMPLE_SIDE_PX, max(MIN_SAMPLE_SIDE_PX, side))
    noisy = open_noisy_photograph((side, side), session)
    source = noisy or open_frame_source(None, (side, side))
    try:
        return source.get_frame(0.0).frame, source.name
    finally:
        source.close()


def make_check(session: Session) -> dict[str, Any]:
    """Computes what the page compares its own network with: output values for an input that both can make.

    Args:
        session: A session with the page's first alpha and values of the controls.

    Returns:
        The input's side, alpha, controls, and every `step`-th value of the output.
    """
    signature = session.signature
    side = signature.round_up_side(CHECK_SIDE_PX)
    shape = (signature.frame_batch, signature.input_channels, side, side)
    output: NDArray[np.float32] = session.infer(make_check_input(3 * side * side).reshape(shape)).reshape(-1)
    step = max(1, output.size // CHECK_COUNT)
    return {
        "side": side,
        "shares": list(session.alpha.values),
        "controls": dict(session.controls),
        "step": step,
        "expected": [float(value) for value in output[::step]],
    }


def make_check_input(count: int) -> NDArray[np.float32]:
    """Makes the numbers of the check's input, float32 (count,) in 0..1: the same as page/network.js makes."""
    hashed = np.arange(count, dtype=np.uint64) * np.uint64(2654435761) % np.uint64(1 << 32)
    return np.asarray((hashed >> np.uint64(8)) / 2**24, np.float32)
