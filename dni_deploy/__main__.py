"""`python -m dni_deploy`: the same as the command dni-deploy."""

from __future__ import annotations

import sys

from dni_deploy.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
