import json

import pytest
import support
from support import ranks

from launcher.config.strict_json import DamagedFile
from launcher.storage import roll_backs
from launcher.storage.run_dir import RunDir
from launcher.storage.run_files import RollBack


def spike(first, step):
    return RollBack(step=step, first=first, loss=1.5, grad_norm=2.0)


@pytest.fixture
def folder(workspace):
    return RunDir(ranks.ready(support.write(support.small("x"))))


def test_steps_left_out_are_those_of_all_spikes(folder):
    assert roll_backs.left_out(folder) == []
    roll_backs.add(folder, spike(3, 5))
    roll_backs.add(folder, spike(5, 7))
    assert roll_backs.read(folder) == [spike(3, 5), spike(5, 7)]
    assert roll_backs.left_out(folder) == [3, 4, 5, 6, 7]
    folder.roll_backs.write_text("{")
    with pytest.raises(DamagedFile, match=r"roll_backs.json: damaged"):
        roll_backs.left_out(folder)


def test_spikes_in_a_row_follow_one_another_without_a_step_between_them():
    assert roll_backs.in_a_row([]) == 0
    assert roll_backs.in_a_row([spike(1, 5), spike(9, 12)]) == 1
    assert roll_backs.in_a_row([spike(1, 2), spike(8, 10), spike(9, 11), spike(12, 15)]) == 3


def test_a_checkpoint_with_a_damaged_state_does_not_keep_the_others_from_going(folder):
    """The start that verifies it sets it aside."""
    for step, text in [(2, "{"), (4, json.dumps({"step": 4})), (6, json.dumps({"step": 6, "left_out": [3]}))]:
        saved = folder.checkpoints / f"step-{step:08}"
        saved.mkdir(parents=True)
        (saved / "COMPLETE").touch()
        (saved / "state.json").write_text(text)
    roll_backs.add(folder, spike(3, 3))
    roll_backs.remove_abandoned(folder)
    assert [saved.step for saved in folder.whole()] == [2, 6]
