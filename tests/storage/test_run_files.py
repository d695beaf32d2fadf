"""What a run writes is what its readers take."""

import pytest

from launcher.config import strict_json
from launcher.config.strict_json import Wrong
from launcher.storage.run_files import CheckpointState
from launcher.train.precision import LossScale
from launcher.train.training_run import Progress


@pytest.mark.parametrize("good", [0, 1, 1999])
@pytest.mark.parametrize("step", [0, 2000])
def test_the_state_of_every_progress_is_taken(step, good):
    """At a run's first step, and right after the loss scale has doubled, no step has been good yet."""
    kept = {**Progress(step=step, scale=LossScale(131072.0, good)).state(), "ranks": 2}
    assert strict_json.check(kept, CheckpointState).scale == [131072.0, good]


def test_a_negative_scale_is_not():
    with pytest.raises(Wrong, match="scale"):
        strict_json.check({**Progress().state(), "scale": [-1.0, 0]}, CheckpointState)
