"""Engines: a bundle as a running network whose weights can be replaced; registry.py lists them, interface.py says what one is."""

from __future__ import annotations

DISTRIBUTION = "dni-deploy"
"""Whose package this is: `engines` is a common name, and dni_deploy/utils/optional_packages.py checks that it found ours."""
