"""A bundle as a running network whose weights can be replaced: registry.py lists the engines, interface.py says what one is."""

DISTRIBUTION = "dni-deploy"
"""Whose package this is: `engines` is a common name, and dni_deploy/utils/optional_packages.py checks that it found ours."""
