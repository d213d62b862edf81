"""The page's modules in Node.js, against the Python that they are written after."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dni_deploy.alpha.coefficients import Coefficients
from dni_deploy.alpha.simplex import with_coefficient
from dni_deploy.api.web import make_check_input
from dni_deploy.blending.calibration_table import CalibrationTable, enumerate_calibration_points
from dni_deploy.imaging.frames import from_network, to_network
from dni_deploy.imaging.tiling import run_tiled
from dni_deploy.signature import Signature
from tests.support.page_in_node import run_in_node

SIGNATURES = {
    "plain": Signature(radius=3),
    "residual": Signature(radius=3, residual=True, low=-1.0),
    "scaled": Signature(radius=9, scale=2, multiple=4, minimum=16, low=-1.0),
}
SIZES = ((5, 7), (1, 1), (40, 90), (97, 33))
TILES = {"side": 32, "overlap": 10}
IMPORTS = """
import { toNetwork, toPixels } from "./pixels.js";
import { planTiles } from "./tiling.js";
import { interpolationWeights, listGridPoints } from "./blend.js";
import { formatAlpha, parseAlpha, setShare } from "./alpha.js";
"""
SCRIPT = """
// The network of these tests enlarges its input by repeating pixels, and darkens it.
function render({ rgba, height, width, signature, tiles }) {
  const picture = { data: rgba, height, width }, { scale } = signature;
  const out = new Array(4 * scale * height * scale * width).fill(-1);
  const plan = planTiles(height, width, signature, tiles);
  for (const tile of plan) {
    const x = toNetwork(picture, signature, tile.top, tile.left, tile.height, tile.width);
    const y = new Float32Array(3 * tile.height * scale * tile.width * scale);
    y.forEach((_, index) => {
      const size = tile.height * scale * tile.width * scale, plane = Math.floor(index / size), rest = index % size;
      const row = Math.floor(rest / (tile.width * scale)), column = rest % (tile.width * scale);
      y[index] = 0.75 * x[plane * tile.height * tile.width + Math.floor(row / scale) * tile.width + Math.floor(column / scale)];
    });
    const { keep } = tile;
    const part = { top: scale * (keep.top - tile.top), left: scale * (keep.left - tile.left) };
    Object.assign(part, { height: scale * keep.height, width: scale * keep.width });
    const data = toPixels(y, scale * tile.height, scale * tile.width, part, signature, picture, tile);
    for (let row = 0; row < part.height; row += 1) for (let place = 0; place < 4 * part.width; place += 1) {
      const to = 4 * ((scale * keep.top + row) * scale * width + scale * keep.left) + place;
      if (out[to] !== -1) throw new Error("a pixel comes from two tiles");
      out[to] = data[4 * row * part.width + place];
    }
  }
  return { out, count: plan.length };
}
answer({
  frames: request.frames.map(render),
  weights: request.points.map(({ shares, steps }) => interpolationWeights(shares, steps, listGridPoints(shares.length, steps))),
  grids: request.grids.map(({ members, steps }) => listGridPoints(members, steps)),
  parsed: request.texts.map(([text, members]) => parseAlpha(text, members)),
  formatted: request.shares.map(([members, shares]) => formatAlpha(members, shares)),
  moved: request.moves.map(([shares, member, value]) => setShare(shares, member, value)),
  check: Array.from({ length: 1000 }, (_, index) => (Math.imul(index, 2654435761) >>> 8) / 2 ** 24),
});
"""
TEXTS: list[tuple[str, list[str], list[float] | None]] = [
    ("0.35", ["a", "b"], [0.35, 0.65]),
    ("a=0.2,b=0.8", ["a", "b"], [0.2, 0.8]),
    ("b=1", ["a", "b"], [0.0, 1.0]),
    ("0.2,0.3,0.5", ["a", "b", "c"], [0.2, 0.3, 0.5]),
    ("a=0.3333,b=0.3333,c=0.3333", ["a", "b", "c"], [1 / 3] * 3),
    *[(text, ["a", "b"], None) for text in ("", "x", "1.5", "-0.1", "a=0.5", "a=1,a=0", "c=1", "a=,b=1", "0.2,0.3,0.5", "NaN")],
    ("0.5", ["a", "b", "c"], None),
]
POINTS = [
    ([0.5, 0.5], 10),
    ([0.3, 0.7], 10),
    ([1.0, 0.0], 4),
    ([0.2, 0.3, 0.5], 4),
    ([0.61, 0.27, 0.12], 5),
    ([0.1] * 4 + [0.6], 3),
]
GRIDS = [(2, 10), (3, 4), (5, 2)]
MOVES = [([0.2, 0.3, 0.5], 0, 0.6), ([1.0, 0.0, 0.0], 0, 0.4), ([0.25] * 4, 2, 1.0)]


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> Any:
    request = {
        "frames": [make_frame_request(name, size) for name in SIGNATURES for size in SIZES],
        "points": [{"shares": shares, "steps": steps} for shares, steps in POINTS],
        "grids": [{"members": members, "steps": steps} for members, steps in GRIDS],
        "texts": [[text, members] for text, members, _ in TEXTS],
        "shares": [[["a", "b"], [0.123456, 0.876544]], [["x=y", "b"], [1, 0]]],
        "moves": MOVES,
    }
    return run_in_node(tmp_path_factory.mktemp("node"), IMPORTS, SCRIPT, request)


def make_frame(size: tuple[int, int]) -> np.ndarray:
    return np.random.default_rng(size[0]).integers(0, 256, (*size, 3), np.uint8)


def make_frame_request(name: str, size: tuple[int, int]) -> dict[str, Any]:
    signature = SIGNATURES[name]
    rgba = np.concatenate([make_frame(size), np.full((*size, 1), 255, np.uint8)], axis=2)
    facts = {key: getattr(signature, key) for key in ("scale", "multiple", "minimum", "low", "high", "residual")}
    return {
        "rgba": rgba.reshape(-1).tolist(),
        "height": size[0],
        "width": size[1],
        "signature": {**facts, "channels": 3},
        "tiles": TILES,
    }


@pytest.mark.parametrize(
    ("name", "size", "number"),
    [(name, size, number) for number, (name, size) in enumerate((name, size) for name in SIGNATURES for size in SIZES)],
)
def test_pictures_become_arrays_and_tiles_as_in_python(name: str, size: tuple[int, int], number: int, answers: Any) -> None:
    signature, tile_counts = SIGNATURES[name], []

    def render_tiles(tiles: Any) -> Any:
        tile_counts.append(0)
        for tile in tiles:
            tile_counts[0] += 1
            y = np.float32(0.75) * to_network(tile, signature).repeat(signature.scale, axis=2).repeat(signature.scale, axis=3)
            yield from_network(y, tile, signature)

    expected = run_tiled(render_tiles, make_frame(size), signature, TILES["side"], TILES["overlap"])
    answer = answers["frames"][number]
    output = np.array(answer["out"], np.uint8).reshape(*expected.shape[:2], 4)
    assert np.array_equal(output[..., :3], expected)
    assert (output[..., 3] == 255).all()
    assert answer["count"] <= tile_counts[0]  # of tiles that would hold padding alone none is rendered


def test_calibration_points_and_their_weights_are_those_of_the_table(answers: Any) -> None:
    for (members, steps), grid in zip(GRIDS, answers["grids"], strict=True):
        assert grid == enumerate_calibration_points(members, steps).tolist()
    for (shares, steps), weights in zip(POINTS, answers["weights"], strict=True):
        expected = CalibrationTable(len(shares), steps, {}, {}).interpolation_weights(np.array(shares))
        assert weights == pytest.approx(expected.tolist(), abs=1e-15)


@pytest.mark.parametrize(("text", "members", "expected", "number"), [(*each, number) for number, each in enumerate(TEXTS)])
def test_alpha_in_the_address(text: str, members: list[str], expected: list[float] | None, number: int, answers: Any) -> None:
    parsed = answers["parsed"][number]
    assert parsed == (None if expected is None else pytest.approx(expected))


def test_alpha_is_written_as_the_command_line_takes_it(answers: Any) -> None:
    assert answers["formatted"] == ["a=0.1235,b=0.8765", "x=y=1,b=0"]
    assert Coefficients.parse(answers["formatted"][0], ("a", "b")).values == (0.1235, 0.8765)


def test_a_member_s_slider_moves_the_others_as_the_server_does(answers: Any) -> None:
    for (shares, member, value), moved in zip(MOVES, answers["moved"], strict=True):
        names = tuple("abcd"[: len(shares)])
        expected = with_coefficient(Coefficients(names, tuple(shares)), names[member], value)
        assert moved == pytest.approx(expected.values)


def test_the_check_s_input_is_the_same_in_both_languages(answers: Any) -> None:
    assert np.array_equal(np.array(answers["check"], np.float32), make_check_input(1000))
    assert (Path(__file__).parents[3] / "dni_deploy/website/page/network.js").read_text().count("2654435761") == 1
