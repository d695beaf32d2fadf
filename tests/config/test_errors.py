"""Mistakes of the user in one line each."""

import pytest

from launcher.config.errors import first_line


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("one\ntwo", "one"),
        ("\nThe library is missing\n", "The library is missing"),
        ("", "ValueError"),
        (" \n", "ValueError"),
    ],
)
def test_the_first_line_of_an_error_is_never_blank(text, expected):
    assert first_line(ValueError(text)) == expected
