"""Parses ONNX bytes into a network, or reports an error."""

from __future__ import annotations

from typing import Any

from tests.fakes import gpu as machine
from tests.fakes.trt.model import NotParsed, parse
from tests.fakes.trt.values import error, logger_of, trt


class ParserError:
    def __init__(self, sentence: str) -> None:
        self._sentence = sentence

    def code(self) -> int:
        return 2

    def desc(self) -> str:
        return self._sentence

    def node(self) -> int:
        return -1

    def __str__(self) -> str:
        return self._sentence


class OnnxParser:
    def __init__(self, network: Any, logger: Any) -> None:
        if not isinstance(network, trt().INetworkDefinition):
            raise TypeError("__init__(): incompatible constructor arguments")
        self._network, self._logger = network, logger_of(logger, "OnnxParser")
        self._errors: list[Any] = []
        self._flags = 0 if machine.current().trt.version == "8.6" else 1

    def parse(self, model: bytes, path: str | None = None) -> bool:
        version = machine.current().trt.version
        try:
            if version == "8.6" and not self._network._flags & 1:
                raise NotParsed("the network has an implicit batch dimension, which the parser does not support")
            self._network._model = parse(bytes(memoryview(model)), version, bool(self._flags & 1))
        except NotParsed as wrong:
            self._errors.append(trt().ParserError(str(wrong)))
            error(self._logger, str(wrong))
            return False
        return True

    @property
    def num_errors(self) -> int:
        return len(self._errors)

    def get_error(self, index: int) -> Any:
        return self._errors[index]

    def clear_errors(self) -> None:
        self._errors.clear()

    @property
    def flags(self) -> int:
        return self._flags

    @flags.setter
    def flags(self, value: int) -> None:
        self._flags = int(value)

    def set_flag(self, flag: Any) -> None:
        self._flags |= 1 << int(flag)

    def clear_flag(self, flag: Any) -> None:
        self._flags &= ~(1 << int(flag))

    def get_flag(self, flag: Any) -> bool:
        return bool(self._flags >> int(flag) & 1)
