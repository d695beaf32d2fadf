import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture
def start():
    """Starts scripts, each with its own file of errors; whoever still lives at the end of a test is killed."""
    started = []

    def begin(script, *arguments):
        errors = Path(f"stderr-{len(started)}").open("w")  # noqa: SIM115
        with errors:
            command = [sys.executable, "-c", script, *map(str, arguments)]
            started.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True))
        return started[-1]

    yield begin
    for process in started:
        process.kill()
        process.communicate()
