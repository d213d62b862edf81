"""A network of the user's own, made by a function that the user names."""

from __future__ import annotations

from torch import nn

from dni_deploy.errors import UsageError, escape_name
from dni_deploy.signature import Signature
from dni_deploy.utils.import_path import import_function
from exporters.architectures.adapt_network import adapt_network
from exporters.architectures.architecture import Architecture, Shapes


def load_custom_architecture(name: str) -> Architecture:
    """Loads the architecture behind "package.module:factory".

    This runs the user's code, as the user asked; no checkpoint's. The module is looked up in the current folder, too.

    Args:
        name: Of the factory, which returns the network and takes no arguments. Network or factory may have a Signature as the
            attribute `signature`; else it is measured, with values of 0..1 assumed.

    Raises:
        UsageError: The module or the factory does not exist, or the factory fails or gives no nn.Module.
    """
    factory = import_function(name, "a network", "factory")

    def infer_hyperparameters(shapes: Shapes) -> nn.Module:
        try:
            net = factory()
        except Exception as error:
            raise UsageError(
                f"The factory '{escape_name(name)}' failed: {type(error).__name__}: {escape_name(error)}"
            ) from error
        if not isinstance(net, nn.Module):
            raise UsageError(f"The factory '{escape_name(name)}' gave a {type(net).__name__} instead of a torch.nn.Module.")
        signature = getattr(factory, "signature", None)
        if isinstance(signature, Signature) and not isinstance(getattr(net, "signature", None), Signature):
            net.signature = signature  # type: ignore[assignment]  # Module's stub allows tensors and modules only
        return net

    return Architecture(
        name, "a network of your own", infer_hyperparameters, adapt_network=adapt_network, supports_meta_device=False
    )
