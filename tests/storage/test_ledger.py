import pytest

from launcher.config.strict_json import DamagedFile
from launcher.storage import ledger
from launcher.storage.ledger import LedgerLine
from launcher.storage.run_dir import RunDir

LINE = LedgerLine(process="1-a", writer="rank", time=5.0, step=3, saves=1, seconds={"start": 1.5, "compute": 2.0})


@pytest.fixture
def folder(tmp_path):
    return RunDir(tmp_path)


def test_lines_are_read_as_they_were_written(folder):
    assert ledger.read(folder) == []
    command = LedgerLine(process="1-b", writer="command", time=6.0, seconds={})
    ledger.append(folder, LINE)
    ledger.append(folder, command)
    assert ledger.read(folder) == [LINE, command]
    assert (LINE.age, LINE.begun) == (3.5, 1.5)


@pytest.mark.parametrize("cut", range(1, 60, 7))
def test_a_line_of_a_killed_writer_is_passed_over_and_spoils_none_after_it(folder, cut):
    ledger.append(folder, LINE)
    whole = folder.ledger.read_bytes()
    folder.ledger.write_bytes(whole + whole[:cut])
    assert ledger.read(folder) == [LINE]
    ledger.append(folder, LINE)
    assert ledger.read(folder) == [LINE, LINE]


@pytest.mark.parametrize("change", [("2.0", "-2.0"), ('"rank"', '"crank"'), ("compute", "bliss"), ("3,", "null,")])
def test_a_line_with_wrong_values_is_named(folder, change):
    ledger.append(folder, LINE)
    text = folder.ledger.read_text()
    folder.ledger.write_text(text + text.replace(*change))
    if change[1] == "null,":
        assert ledger.read(folder)[1].step is None
        return
    with pytest.raises(DamagedFile, match=r"ledger.jsonl:2: damaged: "):
        ledger.read(folder)
