"""A process collects garbage as usual after its imports, and releases the memory of models."""

import subprocess
import sys

import pytest

USUAL = "import gc; from launcher.distributed import garbage_collection as collection; usual = gc.get_threshold(); "


def run(code):
    subprocess.run([sys.executable, "-c", USUAL + code], check=True, timeout=60)


@pytest.mark.parametrize("before", ["seldom", "pause"])
def test_collection_is_as_usual_after_the_start(before):
    run(
        f"collection.{before}(); assert not gc.isenabled() or gc.get_threshold() > usual; "
        "collection.resume(); assert gc.isenabled() and gc.get_threshold() == usual"
    )


def test_imports_are_not_searched_and_a_model_is_released():
    """A model that is in a cycle, as with a replaced forward, is released by a collection."""
    run(
        "collection.pause(); collection.resume(); assert gc.get_freeze_count() > 1000\n"
        "import weakref\n"
        "class Model: pass\n"
        "model = Model(); model.forward = model.__init__; model.itself = model; seen = weakref.ref(model)\n"
        "del model; gc.collect(); assert seen() is None"
    )
