"""Libraries that wait until something uses them. Each test is a process of its own, which has imported neither."""

import subprocess
import sys

import pytest

TOKENIZER = """
import sys
import pyarrow as pa
from launcher.config import waiting_imports
waiting_imports.install()
from transformers import AutoTokenizer, modeling_rope_utils
pa.array(["a", None])
assert "pandas" not in sys.modules and "torch" not in sys.modules
"""


def run(code):
    done = subprocess.run([sys.executable, "-c", TOKENIZER + code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "code",
    [
        # pyarrow knows a series, whose gaps are nulls, and pandas keeps its own loader
        "import pandas as pd; assert pa.array(pd.Series([1.0, None])).null_count == 1\n"
        "assert type(pd.__spec__.loader) is type(pd.__loader__) is type(pa.__loader__)",
        "assert pa.array([1, 2]).to_pandas().sum() == 3",
        "assert pa.table({'a': [1]}).to_pandas().shape == (1, 1)",
        # the functions of positions have the real torch, whoever imports it first
        "import torch; assert modeling_rope_utils.torch is torch",
        "assert modeling_rope_utils.torch.max is not None; import torch; assert modeling_rope_utils.torch is torch",
    ],
)
def test_what_waited_is_there_for_whoever_uses_it(code):
    run(code)


def test_a_library_that_was_there_before_stays():
    code = (
        "import pandas as pd, pyarrow as pa\nfrom launcher.config import waiting_imports\nwaiting_imports.install()\n"
    )
    code += "assert pa.array(pd.Series([1.0, None])).null_count == 1"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
