from __future__ import annotations

import pytest
from camcore_tools.inspection.words import count, percent, short, size, times
from hypothesis import given
from hypothesis import strategies as st


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0"), (999, "999"), (1000, "1 k"), (999_499, "999 k"), (999_999, "1 M"), (4.09e9, "4.09 G"), (2e15, "2000 T")],
)
def test_counts(number: float, text: str) -> None:
    assert count(number) == text
    assert size(number) == f"{text}B" if " " in text else f"{text} B"


@given(st.integers(1, 10**14))
def test_counts_are_near(number: int) -> None:
    figure, _, prefix = count(number).partition(" ")
    assert float(figure) * {"": 1, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}[prefix] == pytest.approx(number, rel=5.1e-3)


@given(st.text(max_size=60), st.integers(4, 50))
def test_short_names_fit(name: str, room: int) -> None:
    text = short(name, room)
    assert len(text) <= room
    assert text.isprintable() or not any(c < " " or c == "\x7f" for c in text)


def test_both_ends_of_a_name_are_left() -> None:
    assert short("/layer4/layer4.1/relu_1/Relu_output_0", 24, "…") == "/laye…lu_1/Relu_output_0"


def test_shares_and_factors() -> None:
    assert [percent(x) for x in (0, 1e-6, 0.0009, 0.5, 0.9996, 1)] == [
        "0 %",
        "< 0.1 %",
        "< 0.1 %",
        "50.0 %",
        "100.0 %",
        "100 %",
    ]
    assert [times(x) for x in (1, 1.004, 9.99, 10, 512.4)] == ["1.00", "1.00", "9.99", "10", "512"]
