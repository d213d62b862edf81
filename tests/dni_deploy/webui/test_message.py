"""Messages: packed frames are unpacked unchanged, and invalid requests are a one-line error."""

from __future__ import annotations

import pytest

from dni_deploy.errors import UsageError
from dni_deploy.webui.message import (
    FLAG_MOVING,
    FLAG_SET_BY_PAGE,
    MESSAGE_HEADER,
    FrameMetadata,
    pack_message,
    parse_client_request,
)
from tests.dni_deploy.webui.frame_message import unpack_message

STAMP = FrameMetadata(7, 3, 42, 9, (0.25, 0.5, 0.25), True, 12.5, 0.5, 2.0, 0.0)


def test_frame_message_round_trip() -> None:
    data = pack_message(STAMP, {"blend": b"abc", "pixels": b"", "before": b"xy"}, request_id=11, set_by_page=True, age_ms=20.0)
    fields, jpegs = unpack_message(data)
    assert jpegs == {"blend": b"abc", "pixels": b"", "before": b"xy"}
    assert fields["shares"] == STAMP.coefficients
    assert (fields["sequence"], fields["generation"], fields["frame"], fields["alpha_sequence"], fields["request_id"]) == (
        7,
        3,
        42,
        9,
        11,
    )
    assert (fields["network"], fields["change"], fields["encode"], fields["age"]) == (12.5, 0.5, 2.0, 20.0)
    assert fields["flags"] == FLAG_SET_BY_PAGE | FLAG_MOVING
    assert data.startswith(b"DNI1\x01\x03\x03")  # the fields that the page's script reads
    assert MESSAGE_HEADER.size == 44
    for broken in (b"", data[:10], b"XXXX" + data[4:], data[:4] + b"\x02" + data[5:]):
        with pytest.raises(UsageError):
            unpack_message(broken)


@pytest.mark.parametrize(
    "text",
    [
        "", "next", "[]", "{}", "1", "null", '"next"', '{"alpha": 1', '{"nobody": 1}', '{"next": 1}', '{"request_id": -1, "alpha": 1}',
        '{"request_id": 1.5, "alpha": 1}', '{"request_id": true, "alpha": 1}', '{"request_id": 4294967296, "alpha": 1}',
        '{"views": "before"}',
        '{"views": ["nothing"]}', '{"views": [1]}', '{"point": 1}', '{"point": [1]}', '{"point": [1, "2"]}', '{"point": [true, 1]}',
        '{"share": 1}', '{"share": {"member": "a"}}', '{"share": {"member": "a", "value": "1"}}', '{"alpha": 1, "point": [0, 0]}',
        '{"pause": "yes"}', '{"alpha": 1, "alpha": 0}', "[" * 30_000, '{"alpha":' * 10_000,
    ],
)  # fmt: skip
def test_a_malformed_request_is_refused(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_client_request(text)
    assert len(str(caught.value)) < 300


def test_a_valid_request_is_parsed() -> None:
    for text in (
        '{"next": true}',
        '{"views": ["before", "pixels"]}',
        '{"alpha": 0.5, "request_id": 1}',
        '{"point": [0, 1]}',
        '{"alpha": NaN}',
    ):
        assert parse_client_request(text)  # the shared alpha validates alpha itself
