"""Builds the documentation site: Sphinx's pages without a warning, and the demo as a live page where npm is at hand.

python docs/build_site.py [FOLDER] [--no-live]

FOLDER is build/site by default. Needs Python 3.11 or newer and the extras of `make site`: autodoc imports every public name. The
live page needs npm.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

from sphinx.cmd.build import build_main

import dni_deploy as dni

ROOT = Path(__file__).parents[1]
FRONT_PAGE = """\
<!doctype html>
<meta charset="utf-8">
<title>dni-deploy</title>
<meta http-equiv="refresh" content="0; url=docs/index.html">
<a href="docs/index.html">dni-deploy</a>
"""


def build_live_page(target: Path) -> bool:
    """Makes the demo's bundle, and the page that runs it in the visitor's browser.

    Returns:
        Whether there is one; a line says why not.
    """
    if shutil.which("npm") is None:
        print("there is no npm here, which downloads ONNX Runtime Web: the site has no live page")
        return False
    try:
        with tempfile.TemporaryDirectory() as folder:
            dni.demo(folder)
            dni.web(Path(folder) / "demo.dni", target, title="dni-deploy, live", force=True)
    except dni.UnavailableError as error:
        print(f"the site has no live page: {error}")
        return False
    return True


def build_site(target: Path, *, live: bool = True) -> int:
    """Builds all pages.

    Returns:
        The exit code of Sphinx, where a warning counts as an error.
    """
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    tags = ["-t", "live"] if live and build_live_page(target / "live") else []
    with tempfile.TemporaryDirectory() as doctrees:
        options = ["-b", "html", "-W", "--keep-going", "-q", "-c", str(ROOT / "docs"), "-d", doctrees, *tags]
        code = build_main([*options, str(ROOT), str(target)])
    (target / "index.html").write_text(FRONT_PAGE, encoding="utf-8")
    print(f"{target / 'index.html'}: look at it by  python -m http.server -d {target}")
    return code


if __name__ == "__main__":
    arguments = [argument for argument in sys.argv[1:] if argument != "--no-live"]
    sys.exit(build_site(Path(arguments[0] if arguments else "build/site").resolve(), live="--no-live" not in sys.argv))
