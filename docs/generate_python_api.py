"""Write docs/python-api.md from the docstrings of dni_deploy's public names; with --check, only say whether it is up to date."""

from __future__ import annotations

import inspect
import re
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

from write_page import write_or_check

import dni_deploy
from dni_deploy.cli.commands import COMMANDS

TARGET = Path(__file__).with_name("python-api.md")
WIDTH = 120
SECTIONS = ("Args", "Attributes", "Returns", "Yields", "Raises", "Example", "Examples")
INTRODUCTION = """\
# The Python API

Written by `make docs` from the docstrings of the public names.

```python
import dni_deploy as dni

bundle = dni.export({"psnr": "psnr.pth", "gan": "gan.pth"}, "sr.dni")
with dni.open_session(bundle, alpha=0.35) as session:
    output = session(frame)  # uint8 (H, W, 3) RGB
    session.alpha = {"psnr": 0.2, "gan": 0.8}  # from any thread; the next frame has it

dni.run("sr.dni", "photos/", "done/", 0.3, options=dni.SessionOptions(engine="onnxruntime"))
```

Each command of the [command line](cli.md) is a function of the same name. Errors are subclasses of `dni.DniError`
([errors and exit codes](errors.md))."""


def render_page() -> str:
    """Renders the whole page: the functions, then the classes, then the errors."""
    names = [name for name in dni_deploy.__all__ if name != "__version__"]
    values = {name: getattr(dni_deploy, name) for name in names}
    functions = [name for name in COMMANDS if name in values]
    functions += [name for name in names if inspect.isfunction(values[name]) and name not in functions]
    errors = [name for name in names if inspect.isclass(values[name]) and issubclass(values[name], dni_deploy.DniError)]
    classes = [name for name in names if name not in functions and name not in errors]
    lines = [INTRODUCTION]
    for title, members in (("Functions", functions), ("Classes", classes), ("Errors", errors)):
        lines += ["", f"## {title}"]
        for name in members:
            lines += ["", f"### {name}", "", *render_name(name, values[name], has_signature=title != "Errors")]
    return "\n".join(lines).rstrip() + "\n"


def render_name(name: str, value: object, *, has_signature: bool) -> Iterator[str]:
    """Renders a function or class: its signature, its docstring, and the members of a class."""
    if has_signature and callable(value) and not getattr(value, "_is_protocol", False):
        yield from ("```python", *format_signature(name, value), "```", "")
    yield from render_docstring(inspect.getdoc(value) or "")
    if not inspect.isclass(value) or not has_signature:
        return
    yield ""
    for member, attribute in vars(value).items():
        target = attribute.fget if isinstance(attribute, property) else getattr(attribute, "__func__", attribute)
        if member.startswith("_") or not inspect.isfunction(target) or not inspect.getdoc(target):
            continue
        call = "" if isinstance(attribute, property) else "()"
        summary = " ".join((inspect.getdoc(target) or "").split("\n\n")[0].split())
        yield from wrap_item(f"`{member}{call}`: {summary}")


def format_signature(name: str, value: Callable[..., object]) -> list[str]:
    """Formats a call, one parameter a line where it does not fit into one."""
    signature = inspect.signature(value)
    parameters = [parameter for parameter in signature.parameters.values() if parameter.name not in ("self", "cls")]
    texts = [format_parameter(parameter) for parameter in parameters]
    star = next((index for index, one in enumerate(parameters) if one.kind is inspect.Parameter.KEYWORD_ONLY), None)
    if star is not None:
        texts.insert(star, "*")
    result = "" if signature.return_annotation is inspect.Signature.empty else f" -> {signature.return_annotation}"
    line = f"{name}({', '.join(texts)}){result}"
    return [line] if len(line) <= WIDTH else [f"{name}(", *(f"    {text}," for text in texts), f"){result}"]


def format_parameter(parameter: inspect.Parameter) -> str:
    """Formats a parameter as it stands in the code."""
    prefix = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}.get(parameter.kind, "")
    annotation = "" if parameter.annotation is inspect.Parameter.empty else f": {parameter.annotation}"
    default = "" if parameter.default is inspect.Parameter.empty else f" = {parameter.default!r}"
    default = " = ..." if inspect.isfunction(parameter.default) else default  # its repr holds an address
    return f"{prefix}{parameter.name}{annotation}{default}"


def render_docstring(text: str) -> Iterator[str]:
    """Renders a Google-style docstring: sections become lists."""
    for block in re.split(r"\n\n+", text):
        title, _, rest = block.partition("\n")
        if title.rstrip(":") in SECTIONS and title.endswith(":"):
            yield from ("", f"{title}", "")
            body = textwrap.dedent(rest)
            if title.startswith("Example"):
                yield from ("```python", body, "```")
                continue
            for item in re.split(r"\n(?=\S)", body):
                yield from wrap_item(re.sub(r"^(\*{0,2}\w+(?:\.\w+)*):", r"`\1`:", " ".join(item.split())))
        elif block.startswith(" ") or ("\n    " in block and not rest.strip().startswith("-")):
            yield from ("", "```text", block, "```")
        else:
            yield from ("", *textwrap.wrap(" ".join(block.split()), WIDTH, break_on_hyphens=False, break_long_words=False))


def wrap_item(text: str) -> list[str]:
    """Wraps an item of a list."""
    return textwrap.wrap(
        text, WIDTH, initial_indent="- ", subsequent_indent="  ", break_on_hyphens=False, break_long_words=False
    )


if __name__ == "__main__":
    sys.exit(write_or_check(TARGET, re.sub(r"\n{3,}", "\n\n", render_page()), "docstrings"))
