"""Self-contained HTML pages: a template with the one style sheet, images as data URIs, and nothing loaded from outside."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from html import escape
from importlib.resources import files
from typing import Any

from dni_deploy.errors import UsageError, escape_name

CONTENT_SECURITY_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
"""A page may load nothing at all, wherever it is put; one with a script of ours may run that besides."""

MAX_TEXT_LENGTH = 1000
"""Characters of a single value on a page; longer ones are cut."""

_TAG_PATTERN = re.compile(r"\{\{([#^])(\w+)\}\}(.*?)\{\{/\2\}\}|\{\{\{(\w+)\}\}\}|\{\{(\w+|\.)\}\}", re.DOTALL)


def fill_template(template: str, values: Mapping[str, Any]) -> str:
    """Fills a template in a subset of Mustache, in one pass: text that is put in is never read as a tag.

    Args:
        template: Markup with `{{name}}` for a value as escaped text and `{{{name}}}` for markup that is put in as it is.
            `{{#name}}...{{/name}}` stands once for each item of a list, once for a mapping or another true value, and not for
            a false one; the names of an item, `{{.}}` for one that is no mapping, are visible inside. `{{^name}}...{{/name}}`
            stands for a false value. A section may not contain one of its own name.
        values: The values by name.

    Returns:
        The markup.

    Raises:
        KeyError: The template names a value that is not there.

    Source: mustache(5), https://mustache.github.io/mustache.5.html.
    """

    def substitute(match: re.Match[str]) -> str:
        kind, section, body, markup, name = match.groups()
        if markup is not None:
            return str(values[markup])
        if name is not None:
            return escape(escape_name(values[name], MAX_TEXT_LENGTH))
        value = values[section]
        if kind == "^":
            return "" if value else fill_template(body, values)
        items = value if isinstance(value, (list, tuple)) else [value] if value else []
        scopes = (item if isinstance(item, Mapping) else {".": item} for item in items)
        return "".join(fill_template(body, {**values, **scope}) for scope in scopes)

    return _TAG_PATTERN.sub(substitute, template)


def render_page(package: str, name: str, values: Mapping[str, Any], data: object = None) -> str:
    """Puts a whole page together.

    Args:
        package: The package that holds the page's template, such as "dni_deploy.tuning".
        name: The template is NAME.html; the script of a page with data is NAME.js.
        values: What the template names, and the page's `title`, its `command`, and a `footnote`.
        data: What the script reads, as JSON; None for a page without a script.

    Returns:
        The HTML text. The same values give the same text.
    """
    script = "" if data is None else _read_text(package, f"{name}.js")
    page = {
        "policy": CONTENT_SECURITY_POLICY + ("; script-src 'unsafe-inline'" if script else ""),
        "style": _read_text("dni_deploy.reports", "page.css"),
        "content": fill_template(_read_text(package, f"{name}.html"), values),
        "script": script,
        # JSON that cannot end the script element around it.
        "data": json.dumps(data, allow_nan=False).replace("<", "\\u003c").replace("&", "\\u0026"),
    }
    return fill_template(_read_text("dni_deploy.reports", "page.html"), {**values, **page})


def _read_text(package: str, name: str) -> str:
    return (files(package) / name).read_text(encoding="utf-8").strip()


def check_page_name(path: object) -> None:
    """Checks that a file name is one that a browser takes for a page.

    Raises:
        UsageError: It ends neither in .html nor in .htm.
    """
    if not str(path).lower().endswith((".html", ".htm")):
        raise UsageError(f"A page is written as .html; got {escape_name(path)}. Nothing was written.")
