"""Lines of the launcher's log, on the console and in the log file of a rank."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

PROCESS = """
import logging, sys
from pathlib import Path
from launcher.distributed import logs, output_streams
output_streams.set_up(lasting=True)
logs.set_up()
log = logging.getLogger("launcher.somewhere")
{set_up}
log.info("note: 100% of it")
log.debug("in detail")
logging.getLogger("another.library").info("not the launcher's")
print("printed", file=sys.stderr)
"""


OLD_NAME = "TORCH_NCCL_DEBUG_INFO_TEMP_FILE"


def run(set_up="", **environment):
    command = [sys.executable, "-c", PROCESS.format(set_up=set_up)]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=60, check=True, env={**os.environ, **environment}
    )


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def without_times(text):
    return re.sub(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}", "TIME", text, flags=re.M).splitlines()


def test_a_line_on_the_console_is_the_message_alone():
    assert run().stderr == "note: 100% of it\nprinted\n"


@pytest.mark.parametrize(("set_up", "level"), [("logs.set_verbose()", ""), ("", "DEBUG")])
def test_verbose_logs_debug_messages_also_of_processes_that_are_started(set_up, level):
    assert run(set_up, LAUNCHER_LOG_LEVEL=level).stderr == "note: 100% of it\nin detail\nprinted\n"


ELASTIC = 'logging.getLogger("torch.distributed.elastic.agent").info("of the agent")'


@pytest.mark.parametrize(
    ("set_up", "level", "times"),
    [
        ("logs.set_verbose()", "DEBUG", 1), ("logs.set_verbose()", "", 1), ("logs.set_up()", "DEBUG", 1),
        ("logs.set_up()", "", 0),
    ],
)  # fmt: skip
def test_a_line_of_the_elastic_agent_is_shown_once_where_verbose(set_up, level, times):
    assert run(f"{set_up}\n{ELASTIC}", LAUNCHER_LOG_LEVEL=level).stderr.count("of the agent") == times


def test_a_node_logs_the_elastic_agent_beside_the_console():
    set_up = f'logs.set_verbose()\nlogs.set_up_node(Path("run"), "a")\n{ELASTIC}'
    assert run(set_up).stderr.count("of the agent") == 1
    assert Path("run/node-a.log").read_text().count("of the agent") == 1


def test_the_log_of_a_redirected_rank_has_time_and_rank():
    assert run('logs.redirect_rank(Path("run"), 3)').stderr == ""
    log = Path("run/logs/rank3.log").read_text()
    assert without_times(log) == ["TIME rank 3 INFO note: 100% of it", "printed"]


LIBRARY = """
import ctypes, os
from launcher.distributed import logs
logs.redirect_rank(Path("run"), {rank})
print("of Python")
ctypes.CDLL(None).printf(b"of a library\\n")
os._exit(0)
"""


@pytest.mark.parametrize(("rank", "shown"), [(0, "of Python\n"), (1, "")])
def test_what_a_library_prints_goes_to_the_log_of_the_rank_even_if_the_process_is_killed_then(rank, shown):
    assert run(LIBRARY.format(rank=rank), PYTHONUNBUFFERED="").stdout == shown
    assert Path(f"run/logs/rank{rank}.log").read_text() == "of Python\nof a library\n"


@pytest.mark.parametrize(("given", "expected"), [({}, "run/logs/nccl_trace_rank_"), ({OLD_NAME: "mine"}, None)])
def test_the_flight_recorder_writes_beside_the_logs_unless_it_has_a_file(given, expected):
    printed = "import os; print(os.environ.get('TORCH_FR_DUMP_TEMP_FILE'))"
    said = run(f'logs.copy_rank(Path("run"), 0)\n{printed}', **given).stdout.strip()
    assert said == (str(Path(expected).absolute()) if expected else "None")


def test_a_rank_that_is_copied_shows_the_message_and_logs_it_with_time_and_rank():
    assert run('logs.copy_rank(Path("run"), 0)').stderr == "note: 100% of it\nprinted\n"
    log = Path("run/logs/rank0.log").read_text()
    assert without_times(log) == ["TIME rank 0 INFO note: 100% of it", "printed"]


def test_a_console_that_is_gone_ends_nothing():
    assert run("import os; os.close(2)").returncode == 0
