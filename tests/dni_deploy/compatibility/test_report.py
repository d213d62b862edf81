"""The report as JSON holds the figures computed from its rows, and no number that JSON cannot represent."""

from __future__ import annotations

import json

from dni_deploy.compatibility.report import CheckReport
from tests.dni_deploy.compatibility.test_page import REPORT


def test_json_has_the_computed_figures() -> None:
    fields = json.loads(json.dumps(REPORT.to_json(), allow_nan=False))
    assert fields["layers"][0]["median"] == 0.6
    assert (fields["barriers"][0]["barrier"], fields["barriers"][0]["decibels"]) == (0.01, REPORT.barriers[0].decibels)
    assert set(fields) == set(CheckReport.__dataclass_fields__)
