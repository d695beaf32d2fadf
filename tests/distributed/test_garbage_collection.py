"""A process collects garbage as usual once its model is built."""

import subprocess
import sys

import pytest

USUAL = "import gc; from launcher.distributed import garbage_collection as collection; usual = gc.get_threshold(); "


@pytest.mark.parametrize("before", ["seldom", "pause"])
def test_collection_is_as_usual_after_the_start(before):
    code = (
        f"{USUAL} collection.{before}(); assert not gc.isenabled() or gc.get_threshold() > usual; "
        "collection.resume(); assert gc.isenabled() and gc.get_threshold() == usual and gc.get_freeze_count() > 1000"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_a_later_model_does_not_keep_the_garbage_of_the_one_before():
    """Frozen garbage would never be collected."""
    code = f"{USUAL} collection.pause(); collection.resume(); count = gc.get_freeze_count(); [[]]; collection.resume()"
    subprocess.run([sys.executable, "-c", f"{code}; assert gc.get_freeze_count() == count"], check=True, timeout=60)
