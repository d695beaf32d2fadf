import io

import pytest
from rich.console import Console


@pytest.fixture
def printed():
    """What is printed on a console of this width, as lines; `styled`: with the escapes of a terminal."""

    def make(action, width=80, styled=False):
        out = io.StringIO()
        action(Console(file=out, width=width, force_terminal=styled, color_system="standard" if styled else None))
        return out.getvalue().splitlines()

    return make
