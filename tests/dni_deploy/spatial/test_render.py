"""render_map against a per-pixel reference: one frame per alpha of the map, each pixel from the frame of its alpha."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from dni_deploy.alpha.coefficients import Coefficients
from dni_deploy.errors import CoefficientsError, EngineError, MismatchError, UsageError
from dni_deploy.session.session import Session, open_session
from dni_deploy.signature import Signature
from dni_deploy.spatial.alpha_map import AlphaMap
from dni_deploy.spatial.plan import plan_map
from dni_deploy.spatial.render import AlphaMapRange, render_map, render_plan
from tests.support.frame_session import Dimmer

AB = ("a", "b")


class Bend(Dimmer):
    """A box filter of known radius whose output is a curve over alpha, in integers of 1/255 where alpha is 0 or 1.

    Missing context shows: the remainder makes a missing neighbor visible. It depends on the position in the piece, so a
    piece off the grid of `multiple` shows as well.
    """

    def __init__(
        self, signature: Signature, curve: Callable[[float], float] = lambda coefficient: coefficient * coefficient
    ) -> None:
        super().__init__((1.0, 0.0), signature.scale)
        self.signature, self.curve, self.shapes = signature, curve, []

    def infer(self, slot: int, x: NDArray[np.float32]) -> NDArray[np.float32]:
        self.shapes.append(x.shape[2:])
        radius = self.signature.radius or 0
        whole = np.rint(x * 255).astype(np.int64)
        padded = np.pad(whole, ((0, 0), (0, 0), (radius, radius), (radius, radius)))
        window = np.lib.stride_tricks.sliding_window_view(padded, (2 * radius + 1,) * 2, axis=(2, 3)).sum(axis=(4, 5)) % 200
        window += np.add.outer(np.arange(x.shape[2]) % self.signature.multiple, np.arange(x.shape[3]) % self.signature.multiple)
        y = window * np.float32(self.curve(self.set[slot]) / 255)
        return y.astype(np.float32).repeat(self.scale, axis=2).repeat(self.scale, axis=3)


def bent(curve: Callable[[float], float] = lambda coefficient: coefficient * coefficient, **fields: object) -> Session:
    signature = Signature(**{"radius": 5, **fields})  # type: ignore[arg-type]
    return Session(Bend(signature, curve), AB, signature, Coefficients.one_hot("a", AB))  # type: ignore[arg-type]


def frame(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def pick_pixels(session: Session, image: NDArray[np.uint8], alpha_map: AlphaMap) -> NDArray[np.uint8]:
    """Computes the reference: one plain frame per value of the map, each pixel from the frame of its value."""
    scale = session.signature.scale
    out = np.zeros((scale * image.shape[0], scale * image.shape[1], 3), np.uint8)
    values = alpha_map.values[alpha_map.codes]
    if values.shape != out.shape[:2]:
        values = values.repeat(scale, axis=0).repeat(scale, axis=1)
    for value in np.unique(values):
        session.alpha = float(value)
        out[values == value] = session(image)[values == value]
    return out


def masks(height: int, width: int, seed: int = 0) -> dict[str, NDArray[np.uint8]]:
    half = np.zeros((height, width), np.uint8)
    half[:, : width // 2] = 255
    down, across = np.mgrid[:height, :width]
    disc = np.where((down - height / 3) ** 2 + (across - width / 2) ** 2 < (height / 4) ** 2, 200, 30)
    five = (
        np.random.default_rng(seed).integers(0, 5, (-(-height // 9), -(-width // 9))).repeat(9, axis=0).repeat(9, axis=1) * 63
    )
    return {"half": half, "disc": disc.astype(np.uint8), "five": five[:height, :width].astype(np.uint8)}


@pytest.mark.parametrize("tile", [None, 0, 40])
@pytest.mark.parametrize(
    ("fields", "size"),
    [
        ({}, (97, 61)),
        ({"multiple": 4}, (81, 110)),
        ({"scale": 2, "multiple": 2}, (45, 71)),
        ({"scale": 4}, (33, 64)),
        ({"residual": True}, (64, 90)),
        ({"input_channels": 1, "output_channels": 1, "low": -1.0}, (50, 70)),
    ],
)
def test_rendering_with_every_value_a_level_equals_the_reference(
    fields: dict[str, object], size: tuple[int, int], tile: int | None
) -> None:
    with bent(**fields) as session:
        image = frame(*size)
        for mask in masks(*size).values():
            alpha_map = AlphaMap.of(mask)
            result = render_map(session, image, alpha_map, tile=tile)
            assert np.array_equal(result.output, pick_pixels(session, image, alpha_map))
            assert result.plan.exact
            assert len(result.levels) == np.unique(mask).size


def test_maps_of_the_output_size_are_accepted() -> None:
    with bent(scale=4) as session:
        image = frame(40, 50)
        for mask in masks(160, 200).values():
            alpha_map = AlphaMap.of(mask)
            assert np.array_equal(render_map(session, image, alpha_map).output, pick_pixels(session, image, alpha_map))


def test_too_little_context_changes_the_frame() -> None:
    with bent() as session:
        image, alpha_map = frame(97, 61), AlphaMap.of(masks(97, 61)["half"])
        result = render_map(session, image, alpha_map, tile=0, overlap=4)
        assert not np.array_equal(result.output, pick_pixels(session, image, alpha_map))


def test_a_network_with_unbounded_receptive_field_runs_on_the_whole_frame() -> None:
    with bent(radius=None) as session:
        image, alpha_map = frame(50, 40), AlphaMap.of(masks(50, 40)["half"])
        engine = session.engine
        result = render_map(session, image, alpha_map)
        assert result.plan.relative_cost == 2
        assert set(engine.shapes) == {(50, 40)}  # type: ignore[attr-defined]
        assert np.array_equal(result.output, pick_pixels(session, image, alpha_map))
        with pytest.raises(UsageError, match="tiles would show"):
            render_map(session, frame(500, 300), np.zeros((500, 300)), tile=64)


def test_tiles_of_one_shape_and_only_those_that_are_needed() -> None:
    with bent() as session:
        mask = np.zeros((100, 130))
        mask[:30, :20] = 1.0
        render_map(session, frame(100, 130), mask, tile=40)
        shapes = session.engine.shapes  # type: ignore[attr-defined]
        assert set(shapes) == {(40, 40)}
        plain = bent()
        with plain:
            from dni_deploy.imaging.tiling import count_tiles

            everywhere = count_tiles(100, 130, plain.signature, 40)
        assert len(shapes) < 2 * everywhere
        assert len(shapes) == everywhere + 1  # white lies only in the first tile


def test_a_large_frame_is_rendered_in_tiles() -> None:
    with bent() as session:
        image = frame(530, 700)
        alpha_map = AlphaMap.of(masks(530, 700)["disc"])
        result = render_map(session, image, alpha_map)
        assert max(max(shape) for shape in session.engine.shapes) <= 512  # type: ignore[attr-defined]
        assert np.array_equal(result.output, pick_pixels(session, image, alpha_map))


def test_the_error_falls_with_the_square_of_the_level_distance() -> None:
    """For alpha ** 2 the error of linear interpolation is at most step ** 2 / 4 of the output, 199 levels of 255 here."""
    gradient = np.broadcast_to(np.linspace(0, 1, 200), (40, 200)).copy()
    with bent() as session:
        image = frame(40, 200)
        ends = AlphaMapRange.from_options(session)
        alpha_map = AlphaMap.of(gradient)
        true = render_plan(session, image, plan_map(alpha_map, 40, 200, session.signature, levels=256), ends)
        errors = []
        for levels in (3, 5, 9, 17):
            plan = plan_map(alpha_map, 40, 200, session.signature, levels=levels)
            errors.append(np.abs(render_plan(session, image, plan, ends) - true).max())
            # 0.01: a value within LEVEL_TOLERANCE of a level is that level; 2e-5 of alpha is at most 398 times that of the output
            assert errors[-1] <= 199 * (1 / (levels - 1)) ** 2 / 4 + 0.01
        ratios = np.array(errors[:-1]) / errors[1:]
        assert ((ratios > 3) & (ratios < 5)).all()  # 4, except for where the gradient's pixels happen to lie


def test_levels_that_no_pixel_needs_are_left_out() -> None:
    gradient = np.broadcast_to(np.linspace(0.3, 0.45, 64), (32, 64)).copy()
    with bent() as session:
        result = render_map(session, frame(32, 64), gradient)
        assert [alpha.values[0] for alpha in result.levels] == [0.25, 0.375, 0.5]
        assert not result.plan.exact
        before = session.engine.refits  # type: ignore[attr-defined]
        render_map(session, frame(32, 64), gradient)
        assert session.engine.refits - before == 3  # type: ignore[attr-defined]


def test_consecutive_frames_of_a_map_save_a_refit_each() -> None:
    with bent() as session:
        plan = plan_map(AlphaMap.of(masks(40, 40)["half"]), 40, 40, session.signature)
        ends, engine = AlphaMapRange.from_options(session), session.engine
        session.alpha = 0.25  # of no level
        session.wait_until_applied()
        outputs = [render_plan(session, frame(40, 40), plan, ends, descending=True)]
        before = engine.refits  # type: ignore[attr-defined]
        outputs += [render_plan(session, frame(40, 40), plan, ends, descending=bool(index % 2)) for index in range(4)]
        assert engine.refits - before == 4  # type: ignore[attr-defined]
        assert all(np.array_equal(outputs[0], other) for other in outputs[1:])


def test_map_ends_may_be_any_alphas_of_three_members() -> None:
    names = ("a", "b", "c")
    signature = Signature(radius=0)
    session = Session(Dimmer((1.0, 0.5, 0.0)), names, signature, Coefficients.one_hot("a", names))
    image, mask = frame(8, 8), np.full((8, 8), 0.5)
    mask[0] = 0.0
    with session:
        result = render_map(session, image, mask, black="b=1", white={"a": 0.5, "c": 0.5})
        assert result.levels == (Coefficients(names, (0.0, 1.0, 0.0)), Coefficients(names, (0.25, 0.5, 0.25)))
        assert np.array_equal(result.output, np.rint(image * np.float32(0.5)).astype(np.uint8))
        with pytest.raises(CoefficientsError, match="3 members: give the alpha of the map's black"):
            render_map(session, image, mask)
        with pytest.raises(CoefficientsError, match="outside 0 to 1"):  # although no pixel needs it
            render_map(session, image, mask, black="a=2,b=-1")
        assert session.alpha == Coefficients.one_hot("a", names)


def test_mixing_stays_on_the_simplex() -> None:
    names = ("a", "b", "c")
    ends = AlphaMapRange(Coefficients(names, (0.1, 0.7, 0.2)), Coefficients(names, (0.1, 0.0, 0.9)))
    for coefficient in np.linspace(0, 1, 1001):
        mixed = ends.interpolate(float(coefficient))
        assert mixed.values[0] == 0.1
        assert Coefficients.parse(mixed, names) == mixed
    assert ends.interpolate(0.0) is ends.black
    assert ends.interpolate(1.0) is ends.white


def test_sizes_and_arrays_that_do_not_fit() -> None:
    with bent(scale=2) as session:
        with pytest.raises(MismatchError, match=r"5x4 pixels and the image 8x8 \(its output 16x16\)"):
            render_map(session, frame(8, 8), np.zeros((4, 5)))
        with pytest.raises(UsageError, match="levels"):
            render_map(session, frame(8, 8), np.zeros((8, 8)), levels=1)
        with pytest.raises(UsageError, match="frame"):
            render_map(session, np.zeros((8, 8), np.uint8), np.zeros((8, 8)))
        assert session.engine.shapes == []  # type: ignore[attr-defined]


def test_a_refit_that_fails_within_a_map_leaves_alpha_unchanged() -> None:
    with bent() as session:
        image, engine = frame(40, 40), session.engine
        session.alpha = 0.25
        before = session(image)
        whole, engine_refit = render_map(session, image, masks(40, 40)["half"]).output, engine.refit

        def failing(slot: int, coefficients: NDArray[np.float64]) -> None:
            if coefficients[0] == 1.0:
                raise EngineError("no more")
            engine_refit(slot, coefficients)

        engine.refit = failing  # type: ignore[method-assign]
        with pytest.raises(EngineError, match="no more"):
            render_map(session, image, masks(40, 40)["half"])
        assert session.alpha.values == (0.25, 0.75)
        assert np.array_equal(session(image), before)
        engine.refit = engine_refit  # type: ignore[method-assign]
        assert np.array_equal(render_map(session, image, masks(40, 40)["half"]).output, whole)


def test_an_alpha_set_by_another_thread_within_a_map_changes_nothing_of_it() -> None:
    with bent() as session:
        image, mask = frame(80, 80), masks(80, 80)["five"]
        expected = render_map(session, image, mask, tile=40).output
        engine = session.engine
        infer = engine.infer

        def disturbed(slot: int, x: NDArray[np.float32]) -> NDArray[np.float32]:
            session.alpha = 0.5  # as a slider in another thread does
            return infer(slot, x)

        engine.infer = disturbed  # type: ignore[method-assign]
        assert np.array_equal(render_map(session, image, mask, tile=40).output, expected)
        assert session.alpha.values == (0.5, 0.5)


def test_a_session_with_async_refit_gives_the_same_frames() -> None:
    signature = Signature(radius=5)
    with bent() as plain:
        expected = render_map(plain, frame(60, 60), masks(60, 60)["five"]).output
    with Session(Bend(signature), AB, signature, Coefficients.one_hot("a", AB), async_refit=True) as session:  # type: ignore[arg-type]
        assert np.array_equal(render_map(session, frame(60, 60), masks(60, 60)["five"]).output, expected)


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("transformer_net", "rrdbnet")]


@pytest.fixture(scope="module", params=["dncnn_bn_kair", "compact", *SLOW])
def real(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    """Opens a session on the CPU engine for each kind of pico family."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("onnxruntime")
    from dni_deploy.api.export import export
    from tests.support.pico_architectures import pico_family

    folder: Path = tmp_path_factory.mktemp(request.param)
    files = {}
    for name, state in zip(AB, pico_family(request.param, 2), strict=True):
        files[name] = folder / f"{name}.pth"
        torch.save({key: torch.from_numpy(np.array(value)) for key, value in state.items()}, files[name])
    with open_session(export(files, folder / "x.dni"), engine="onnxruntime", threads=1) as session:
        yield session


def test_real_networks_equal_the_per_pixel_reference(real: Session) -> None:
    """Where a piece holds the whole receptive field, only the order of float32 sums may differ, which rounding can turn into one
    level of 255; RRDBNet's pieces hold 48 pixels of its receptive field, and tiling.py guarantees one level as well."""
    image = frame(120, 150)
    for mask in masks(120, 150).values():
        alpha_map = AlphaMap.of(mask)
        result, expected = render_map(real, image, alpha_map), pick_pixels(real, image, alpha_map)
        difference = np.abs(result.output.astype(int) - expected)
        assert difference.max() <= 1
        assert np.count_nonzero(difference) <= 1e-3 * difference.size
        if real.signature.radius is None:
            assert np.array_equal(result.output, expected)
