"""Arguments beside the image and planes behind it, exported as controls."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import dni_deploy as dni
from dni_deploy.api.inspect import inspect
from dni_deploy.errors import MismatchError, UsageError
from dni_deploy.network_controls import parse_declarations
from exporters.architectures.add_controls import add_controls


class SigmaNet(nn.Module):
    """FFDNet in small: the picture in half size, and a plane with the noise level, (N, 1, 1, 1)."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.tail = nn.Conv2d(13, 8, 3, padding=1), nn.Conv2d(8, 12, 3, padding=1)

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        x = functional.pixel_unshuffle(x, 2)
        level = sigma.repeat(1, 1, x.size(2), x.size(3))
        return functional.pixel_shuffle(self.tail(torch.relu(self.head(torch.cat([x, level], 1)))), 2)


class EveryKindNet(nn.Module):
    """Planes as DRUNet and SRMD have them, a label of three numbers as StarGAN has, and the integer of a time step."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.steps = nn.Conv2d(8, 3, 3, padding=1), nn.Embedding(10, 3)

    def forward(self, x: Tensor, c: Tensor, t: Tensor) -> Tensor:
        label = c.view(c.size(0), c.size(1), 1, 1).repeat(1, 1, x.size(2), x.size(3))
        return self.head(torch.cat([x, label], 1)) + self.steps(t)[:, :, None, None]


class IdleNet(nn.Module):
    """Takes an argument and does not read it."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        return self.head(x)


CONTROL_NAMES = ("noise", "c.0", "c.1", "c.2", "t", "blur")
EVERY_KIND = ["noise=0..0.3@0", "c:3=0..1@0", "c.1=0..1@1", "t=0..9@4", "blur=-1..1@0.5"]


def run_every_kind(net: nn.Module, x: Tensor, values: dict[str, float]) -> Tensor:
    planes = [torch.full_like(x[:, :1], values[name]) for name in ("noise", "blur")]
    label = torch.tensor([[values["c.0"], values["c.1"], values["c.2"]]])
    return net(torch.cat([x, *planes], 1), label.expand(len(x), -1), torch.tensor([int(values["t"])]))


def make_states(net_class: type[nn.Module]) -> list[dict[str, np.ndarray]]:
    torch.manual_seed(0)
    return [{key: value.numpy() for key, value in net_class().state_dict().items()} for _ in range(2)]


@pytest.mark.usefixtures("export_in_this_process")
def test_controls_move_live_beside_alpha(tmp_path):
    states = make_states(EveryKindNet)
    bundle = dni.export(
        {"a": states[0], "b": states[1]}, tmp_path / "n.dni", arch=f"{__name__}:EveryKindNet", controls=EVERY_KIND
    )
    roles = {row.name: row.role for row in inspect(bundle.path).weights}
    assert {name for name, role in roles.items() if role == "control"} == {f"controls.{name}" for name in CONTROL_NAMES}
    assert (bundle.signature.input_channels, bundle.signature.takes_frames) == (3, True)
    defaults = dict(zip(CONTROL_NAMES, (0.0, 0.0, 1.0, 0.0, 4.0, 0.5), strict=True))
    x = np.random.default_rng(0).random((1, 3, 20, 24), np.float32)
    with dni.open_session(bundle, engine="onnxruntime", controls={"t": 9}) as session:
        assert session.controls == {**defaults, "t": 9.0}
        settings = dict(session.controls)
        for alpha, values in ((1.0, {}), (0.35, {"c.0": 0.25, "noise": 0.1}), (0.35, defaults), (0.0, {"blur": -1, "t": 0})):
            session.alpha, session.controls = alpha, values
            settings |= values
            net = EveryKindNet()
            net.load_state_dict({key: torch.tensor(alpha * states[0][key] + (1 - alpha) * states[1][key]) for key in states[0]})
            with torch.no_grad():
                expected = run_every_kind(net, torch.from_numpy(x), settings).numpy()
            # As any network of this size in float32: rounding of sums of some 100 products.
            assert np.abs(session.infer(x) - expected).max() <= 2e-6 * np.abs(expected).max()


def test_noise_level_of_ffdnet():
    net = SigmaNet()
    x = torch.rand(2, 3, 8, 12)
    expected = net(x, torch.full((2, 1, 1, 1), 0.2))
    add_controls(net, parse_declarations(["sigma=0..0.3@0.2"]))
    assert torch.equal(net(x), expected)
    assert list(net.state_dict())[-1] == "controls.sigma"


@pytest.mark.usefixtures("export_in_this_process")
def test_control_without_effect_is_refused(tmp_path):
    states = make_states(IdleNet)
    with pytest.raises(MismatchError, match="does not depend on the control sigma"):
        dni.export({"a": states[0], "b": states[1]}, tmp_path / "n.dni", arch=f"{__name__}:IdleNet", controls=["sigma=0..1"])
    assert not (tmp_path / "n.dni").exists()


def test_argument_without_control_is_named():
    with pytest.raises(MismatchError, match=r"SigmaNet.forward\(\) takes sigma beside the image: .* --control sigma=0..1@0.5"):
        add_controls(SigmaNet(), ())


def test_control_that_network_has_no_place_for_is_refused():
    with pytest.raises(MismatchError, match="does not run with the controls noise"):
        add_controls(nn.Conv2d(3, 3, 3), parse_declarations(["noise=0..1"]))


def test_network_with_a_part_named_controls_is_refused():
    net = SigmaNet()
    net.controls = nn.Conv2d(1, 1, 1)
    with pytest.raises(MismatchError, match="a part named 'controls'"):
        add_controls(net, parse_declarations(["sigma=0..1"]))


def test_member_and_control_of_one_name_are_refused(tmp_path):
    states = make_states(SigmaNet)
    with pytest.raises(UsageError, match="'sigma' is a member and a control"):
        dni.export({"sigma": states[0], "b": states[1]}, tmp_path / "n.dni", controls=["sigma=0..1"])
