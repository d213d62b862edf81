"""Configures Sphinx for the documentation site: `make site` (docs/build_site.py) starts it.

The source folder is the repository's root, so that a link between pages is the same file on GitHub and on the site.
"""

from __future__ import annotations

import inspect
import re
import sys
from pathlib import Path

from pygments.lexers.special import TextLexer
from sphinx.application import Sphinx

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

import dni_deploy  # noqa: E402

SECTION = re.compile(r"(Args|Attributes|Returns|Yields|Raises|Examples?):$")
ASTERISK = re.compile(r"(?<![`\\])\*(?![*`\w]+:)(?=(?:[^`]*`[^`]*`)*[^`]*$)")
"""One outside of backticks; napoleon knows those of `*args:`."""

project = "dni-deploy"
author = copyright = "the dni-deploy authors"
version = release = dni_deploy.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
root_doc = "docs/index"
include_patterns = ["docs/**.md", "README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "examples/README.md"]
exclude_patterns = [entry.name for entry in ROOT.iterdir() if entry.is_dir() and entry.name not in ("docs", "examples")]
myst_heading_anchors = 4
highlight_language = "none"
default_role = "code"
autodoc_typehints = "description"
html_theme = "furo"
html_copy_source = False
html_title = f"dni-deploy {version}"


LIVE_LINK = (
    '**<a href="../live/index.html">Move the slider yourself</a>**: the demo\'s network, in your browser. It loads about 20 MB.'
)


def adapt_source(app: Sphinx, docname: str, source: list[str]) -> None:
    """Makes MyST's anchors of the anchors that GitHub knows, and autodoc's reference of the generated one."""
    if docname == root_doc:
        source[0] = source[0].replace("<!-- live -->", LIVE_LINK if app.tags.has("live") else "")
    source[0] = re.sub(r'^<a id="(\w+)"></a>$', r"(\1)=", source[0], flags=re.M)
    if docname != "docs/python-api":
        return
    intro, *sections = source[0].split("\n## ")
    for number, section in enumerate(sections):
        title, *names = section.split("\n### ")
        lines = [title]
        for name in (text.partition("\n")[0] for text in names):
            directive = "autoclass" if inspect.isclass(getattr(dni_deploy, name)) else "autofunction"
            members = "   :members:\n" if directive == "autoclass" else ""
            lines.append(f"\n### {name}\n\n```{{eval-rst}}\n.. {directive}:: dni_deploy.{name}\n{members}```\n")
        sections[number] = "\n".join(lines)
    source[0] = "\n## ".join([intro, *sections])


def adapt_docstring(app: Sphinx, what: str, name: str, value: object, options: object, lines: list[str]) -> None:
    """Makes reStructuredText of our docstrings: an indented block is verbatim, and an asterisk is an asterisk."""
    section = next((number for number, line in enumerate(lines) if SECTION.match(line)), len(lines))
    adapted: list[str] = []
    verbatim = False
    for number, line in enumerate(lines):
        if number < section and line.startswith("    "):
            adapted += [] if verbatim else ["::", ""]
            verbatim = True
        elif line:
            verbatim = False
        adapted.append(line if verbatim else ASTERISK.sub(r"\\*", line))
    lines[:] = adapted


def setup(app: Sphinx) -> None:
    """Adds what no option of Sphinx does."""
    for language in ("alpha", "lines", "rules", "csv", "jsonl"):
        app.add_lexer(language, TextLexer)
    app.connect("source-read", adapt_source)
    app.connect("autodoc-process-docstring", adapt_docstring, priority=400)  # before napoleon
