"""SRCNN: three convolutions on an already enlarged image (Dong et al., TPAMI 2016).

The DNI paper studies filters on it with kernels 9-5-9 and 9-1-9; the original has 9-1-5 and 9-5-5. Keys are
`conv1.weight`, ..., or those of a Sequential with activations between, `model.0.weight`, `model.2.weight`, `model.4.weight`.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional

from dni_deploy.errors import MismatchError
from dni_deploy.signature import Signature
from exporters.architectures.architecture import Architecture, Shapes, add_nested_module, require_shape

DEFAULT_LAYER_NAMES = ("conv1", "conv2", "conv3")


class SRCNN(nn.Module):
    """x (N, C, H, W) -> (N, C', H, W), zero padding that keeps the size, ReLU between the convolutions."""

    def __init__(
        self,
        channels: int = 3,
        widths: tuple[int, int] = (64, 32),
        kernels: tuple[int, int, int] = (9, 5, 9),
        *,
        output_channels: int | None = None,
        names: Sequence[str] = DEFAULT_LAYER_NAMES,
    ) -> None:
        super().__init__()
        outputs = channels if output_channels is None else output_channels
        ends = (channels, *widths, outputs)
        self.names = tuple(names)
        for name, inward, outward, kernel in zip(names, ends, ends[1:], kernels, strict=False):
            add_nested_module(self, name, nn.Conv2d(inward, outward, kernel, padding=kernel // 2))
        self.signature = Signature(channels, outputs, radius=sum(kernel // 2 for kernel in kernels))

    def forward(self, x: Tensor) -> Tensor:
        """Computes the output for float32 (N, C, H, W)."""
        first, second, third = (self.get_submodule(name) for name in self.names)
        y: Tensor = third(functional.relu(second(functional.relu(first(x)))))
        return y


def infer_hyperparameters(shapes: Shapes) -> SRCNN:
    """Infers the network from names and shapes; raises MismatchError where none has them."""
    keys = [key[: -len(".weight")] for key in shapes if key.endswith(".weight")]
    sequential = len(keys) == 3 and [key.rpartition(".")[2] for key in keys] == ["0", "2", "4"]
    names = tuple(keys) if sequential else DEFAULT_LAYER_NAMES
    first, second, third = (require_shape(shapes, f"{name}.weight", 4) for name in names)
    kernels = (first[2], second[2], third[2])
    if any(kernel % 2 == 0 for kernel in kernels) or kernels[0] < 5:
        # From 3 x 3 kernels alone it could be any three-layer network, a DnCNN of depth 3 among them.
        raise MismatchError(f"kernels {kernels} are not odd with a first one of 5 or more")
    return SRCNN(first[1], (first[0], second[0]), kernels, output_channels=third[0], names=names)


ARCHITECTURE = Architecture("srcnn", "SRCNN, three convolutions", infer_hyperparameters)
