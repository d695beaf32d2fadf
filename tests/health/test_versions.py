"""Versions that belong together: what is installed here, and what is broken in a child process."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from launcher.health import versions
from launcher.health.versions import Imported, Installed

PROJECT = ("torch>=2.9", "deepspeed>=0.19,<0.20 ; extra == 'deepspeed'", "numpy>=2")
SOUND = {"torch": Installed("2.13.0+cpu", ("sympy>=1.13", "nvidia-nccl-cu13==2.28 ; platform_system == 'Nowhere'")),
         "numpy": Installed("2.1"), "sympy": Installed("1.14")}  # fmt: skip


def test_what_is_installed_here_fits_together():
    (found,) = versions.findings(versions.installed(), versions.project())
    assert (found.level, found.found[:6]) == ("ok", "torch ")


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({}, None),
        ({"deepspeed": Installed("0.14.0")}, "this launcher requires deepspeed<0.20,>=0.19, and 0.14.0 is installed"),
        ({"sympy": Installed("1.2")}, "torch 2.13.0+cpu requires sympy>=1.13, and 1.2 is installed"),
        ({"numpy": Installed("")}, "numpy has no version that can be read (empty)"),
        ({"transformers": Installed("5.1", ("tokenizers<0.24",))},
         "transformers 5.1 requires tokenizers<0.24, which is not installed"),
    ],
)  # fmt: skip
def test_a_requirement_that_is_not_fulfilled_is_a_sentence(changes, sentence):
    assert versions.conflicts(SOUND | changes, PROJECT) == ([sentence] if sentence else [])


def test_an_installed_package_of_an_old_nccl_is_seen():
    assert versions.nccl_findings("", "2.28.9") == []
    assert [versions.nccl_findings("2.28.9", one)[0].level for one in ("2.28.9", "2.20.5", "")] == [
        "ok",
        "warning",
        "ok",
    ]


CHILD = """
import json
from launcher.health import versions
found = versions.installed()
print(json.dumps([[one.level, one.found] for one in (*versions.findings(found, versions.project()),
      *versions.deepspeed_findings(found["deepspeed"].version, versions.import_deepspeed()))]))
"""


@pytest.mark.parametrize(
    ("version", "module", "packages", "imported"),
    [
        ("0.14.0", "__version__ = '0.14.0'",
         "this launcher requires deepspeed<0.20,>=0.19, and 0.14.0 is installed", ""),
        ("0.19.9", "import missing_op", "",
         "deepspeed 0.19.9 cannot be imported: ModuleNotFoundError: No module named 'missing_op'"),
        ("0.19.9", "__version__ = '0.19.1'", "", "the module is 0.19.1, its package says 0.19.9"),
    ],
)  # fmt: skip
def test_a_deepspeed_that_does_not_fit_is_found_in_a_process_that_has_it(version, module, packages, imported, tmp_path):
    (tmp_path / "deepspeed").mkdir()
    (tmp_path / "deepspeed" / "__init__.py").write_text(module)
    info = tmp_path / f"deepspeed-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: deepspeed\nVersion: {version}\n")
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n{CHILD}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=True,
                          cwd=Path(__file__).parents[2])  # fmt: skip
    of_packages, of_import = json.loads(done.stdout)
    assert of_packages == ["failure", packages] if packages else of_packages[0] == "ok"
    assert (of_import[0], of_import[1][: len(imported)]) == ("failure" if imported else "ok", imported)


def test_an_import_that_is_sound():
    assert versions.deepspeed_findings("0.19.8", Imported("0.19.8+cu13"))[0].level == "ok"
