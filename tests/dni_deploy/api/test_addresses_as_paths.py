"""Where a function takes a path alone, an address is refused as it was written, before anything is read or written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from dni_deploy.alpha.source import as_alpha_source
from dni_deploy.api.demo import demo
from dni_deploy.api.export import export
from dni_deploy.api.refit import refit
from dni_deploy.api.web import web
from dni_deploy.blending.preset import Preset
from dni_deploy.bundle.bundle import Bundle
from dni_deploy.errors import UsageError
from dni_deploy.imaging.image_file import read_image
from dni_deploy.imaging.image_paths import list_images
from dni_deploy.spatial.alpha_map import AlphaMap
from dni_deploy.utils.atomic_write import check_outputs, write_bytes_atomically
from dni_deploy.webui.sources import open_frame_source
from tests.support import pico_bundle as pico

ADDRESS = "s3://bucket/a.png"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return pico.write(tmp_path_factory.mktemp("whole") / "x.dni")


@pytest.mark.parametrize(
    "call",
    [
        lambda bundle: read_image(ADDRESS),
        lambda bundle: list_images([ADDRESS]),
        lambda bundle: AlphaMap.read(ADDRESS),
        lambda bundle: as_alpha_source("s3://bucket/a.json", bundle.members),
        lambda bundle: Preset.read(ADDRESS),
        lambda bundle: open_frame_source(ADDRESS, (64, 64)),
        lambda bundle: write_bytes_atomically(ADDRESS, b""),
        lambda bundle: check_outputs([ADDRESS], False),
        lambda bundle: refit(bundle, 0.5, ADDRESS),
        lambda bundle: web(bundle, ADDRESS),
        lambda bundle: demo(ADDRESS),
        lambda bundle: export({"a": "a.pth", "b": "b.pth"}, ADDRESS),
    ],
)
def test_an_address_keeps_its_slashes(call: Callable[[Bundle], object], bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"s3://bucket/a\.\w+ is an address, and .* has to be a path on this machine"):
        call(bundle)
