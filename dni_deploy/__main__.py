"""Runs the command dni-deploy as `python -m dni_deploy`."""

from __future__ import annotations

import sys

from dni_deploy.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
