from __future__ import annotations

import json
import struct

import numpy as np
import pytest
from camcore_tools.serving.messages import MAX_PIXELS, Request, packed, read_request
from hypothesis import given
from hypothesis import strategies as st
from live_server import asked, raw, told

from camcore.errors import InputError


def test_pixels() -> None:
    request = read_request(asked(bytes(18), id=7, classIndex=3, top=5, frame="rgb", width=3, height=2))
    assert request == Request(7, 3, 5, "rgb", width=3, height=2, payload=bytes(18))


def test_a_picture_of_the_folder() -> None:
    request = read_request(asked(id=0, frame="picture", picture="0a"))
    assert request == Request(0, None, 3, "picture", picture="0a")


@pytest.mark.parametrize(
    ("message", "text"),
    [
        (b"", "has no header"),
        (b"\x00\x00", "has no header"),
        (struct.pack("<I", 5) + b"{}", "has no header"),
        (struct.pack("<I", 5000) + b" " * 6000, "has no header"),
        (raw(b"{"), "not JSON"),
        (raw(b"\xff\xfe"), "not JSON"),
        (raw(b"[" * 4000), "not JSON"),
        (raw(b"[]"), "not a JSON object"),
        (asked(), "frame is None; expected one of rgb, picture"),
        (asked(frame="\x1b[31m<b>"), r"frame is '\x1b[31m<b>'; expected one of"),
        (asked(frame="rgb"), "width is None; expected a whole number from 1 to 4000000"),
        (asked(frame="rgb", width=0, height=1), "width is 0; expected a whole number"),
        (asked(frame="rgb", width=2, height=True), "height is True"),
        (asked(b"1234567", frame="rgb", width=2, height=2), "7 bytes of pixels came; 2 x 2 RGB pixels are 12"),
        (asked(frame="rgb", width=MAX_PIXELS, height=MAX_PIXELS), "0 bytes of pixels came"),
        (asked(frame="picture", picture=["a"]), "picture is ['a']; expected the id of a picture"),
        (asked(frame="picture", picture="a" * 65), "expected the id of a picture"),
        (asked(frame="picture", picture="a", id=-1), "id is -1"),
        (asked(frame="picture", picture="a", id="1"), "id is '1'"),
        (asked(frame="picture", picture="a", classIndex=1.5), "classIndex is 1.5"),
        (asked(frame="picture", picture="a", classIndex=-2), "classIndex is -2"),
        (asked(frame="picture", picture="a", top=101), "top is 101; expected a whole number from 0 to 100"),
    ],
)
def test_what_is_no_request(message: bytes, text: str) -> None:
    with pytest.raises(InputError) as error:
        read_request(message)
    assert text in str(error.value)
    assert len(str(error.value)) < 250
    assert str(error.value).isprintable()


values = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=80) | st.lists(st.integers())


@given(
    st.dictionaries(st.sampled_from(["id", "classIndex", "top", "width", "height", "picture"]), values),
    st.sampled_from(["rgb", "picture", None]),
    st.binary(max_size=50),
)
def test_any_header_is_a_request_or_an_answer(header: dict[str, object], kind: str, payload: bytes) -> None:
    try:
        request = read_request(raw(json.dumps({**header, "frame": kind}).encode()[:4096], payload))
    except InputError:
        return
    assert request.frame == kind
    assert request.frame != "rgb" or len(payload) == 3 * request.width * request.height


@given(st.binary(max_size=200))
def test_any_bytes_are_a_request_or_an_answer(message: bytes) -> None:
    with pytest.raises(InputError):
        read_request(message)


def test_answers_are_read_back_and_their_map_is_aligned() -> None:
    values = np.arange(6, dtype=np.float32).reshape(2, 3) - 2.5
    for name in ("", "é", "ab", "abc"):
        message = packed({"name": name, "shape": [2, 3]}, values)
        assert struct.unpack_from("<I", message)[0] % 4 == 0
        header, found = told(message)
        assert header == {"name": name, "shape": [2, 3]}
        assert np.array_equal(found, values)
