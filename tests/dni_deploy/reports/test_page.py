"""Pages are self-contained: templates are filled in one pass, and page files are part of the wheel."""

from __future__ import annotations

import ast
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

import dni_deploy
from dni_deploy.errors import UsageError
from dni_deploy.reports.page import check_page_name, fill_template, render_page

PACKAGE = Path(dni_deploy.__file__).parent
TEMPLATES = sorted(path for folder in ("reports", "compatibility", "tuning") for path in (PACKAGE / folder).glob("*.html"))


@pytest.mark.parametrize(
    ("template", "values", "text"),
    [
        ("{{x}}", {"x": "<b>&'"}, "&lt;b&gt;&amp;&#x27;"),
        ("{{{x}}}", {"x": "<b>"}, "<b>"),
        ("{{x}}", {"x": 0}, "0"),
        ("{{#x}}[{{name}}]{{/x}}", {"x": [{"name": 1}, {"name": 2}]}, "[1][2]"),
        ("{{#x}}[{{.}}{{y}}]{{/x}}", {"x": ("a", "b"), "y": "!"}, "[a!][b!]"),
        ("{{#x}}{{y}}{{/x}}", {"x": {"y": "inner"}, "y": "outer"}, "inner"),
        ("{{#x}}yes{{/x}}{{^x}}no{{/x}}", {"x": True}, "yes"),
        ("{{#x}}yes{{/x}}{{^x}}no{{/x}}", {"x": None}, "no"),
        ("{{#x}}yes{{/x}}{{^x}}no{{/x}}", {"x": []}, "no"),
        ("{{#x}}{{#y}}{{.}}{{/y}};{{/x}}", {"x": [{"y": [1, 2]}, {"y": [3]}]}, "12;3;"),
        ("{{x}} {{{x}}}", {"x": "{{y}}{{#y}}"}, "{{y}}{{#y}} {{y}}{{#y}}"),  # a value is never read as a tag
        ("{{x}}", {"x": "a\x1b[2J"}, "a\\x1b[2J"),  # control characters are escaped
    ],
)
def test_fill_template(template: str, values: dict[str, Any], text: str) -> None:
    assert fill_template(template, values) == text


def test_a_template_value_that_is_missing_is_an_error() -> None:
    with pytest.raises(KeyError, match="title"):
        fill_template("{{title}}", {})


def test_a_page_without_a_script_forbids_scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dni_deploy.reports.page._read_text", lambda package, name: (PACKAGE / "reports" / name).read_text()
                        if name in ("page.html", "page.css") else {"x.html": "<p>{{text}}</p>", "x.js": "run();"}[name])  # fmt: skip
    values = {"title": "<t>", "command": "check", "footnote": "", "text": "&"}
    still = render_page("any", "x", values)
    assert "<p>&amp;</p>" in still
    assert "<title>&lt;t&gt;</title>" in still
    assert "<script" not in still
    assert "script-src" not in still
    moving = render_page("any", "x", values, {"end": "</script>"})
    assert "script-src 'unsafe-inline'" in moving.replace("&#x27;", "'")
    assert "run();" in moving
    assert moving.count("</script>") == 2


VOID_ELEMENTS = ("meta", "link", "img", "input", "br")


class BalanceChecker(HTMLParser):
    """Tracks open elements; fails where an element is closed that is not the innermost."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID_ELEMENTS:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """An element that closes itself."""

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, self.getpos()


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_templates_close_what_they_open(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    stack: list[str] = []
    for kind, name in re.findall(r"\{\{([#^/])(\w+)\}\}", text):
        if kind == "/":
            assert stack.pop() == name
        else:
            assert name not in stack, "a section may not contain one of its own name"
            stack.append(name)
    assert stack == []
    checker = BalanceChecker()
    checker.feed(re.sub(r"\{\{[^}]*\}*\}\}", "", text))
    assert checker.open == []
    assert not re.search(r"https?://|\son\w+=", text)


def test_page_files_are_part_of_the_wheel() -> None:
    declared = re.search(r"^dni_deploy = (\[.*\])$", (PACKAGE.parent / "pyproject.toml").read_text(), re.MULTILINE)
    assert declared is not None
    shipped = {path for pattern in ast.literal_eval(declared[1]) for path in PACKAGE.glob(pattern)}
    assert {path for suffix in ("html", "css", "js") for path in PACKAGE.rglob(f"*.{suffix}")} <= shipped


def test_a_page_path_must_end_in_html() -> None:
    check_page_name("Report.HTML")
    check_page_name(Path("a.htm"))
    with pytest.raises(UsageError, match=r"A page is written as \.html; got a\.txt"):
        check_page_name("a.txt")
