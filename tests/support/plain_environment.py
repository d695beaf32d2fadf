"""A virtual environment with the distributions that `pip install .` brings, and none of an extra or of the tests."""

import re
import subprocess
import sys
import sysconfig
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).parents[2]


def required(distribution: str) -> set[str]:
    """The distribution and all that it requires here without extras, by normalized names."""
    found, todo = set[str](), [distribution]
    while todo:
        name = re.sub(r"[-_.]+", "-", todo.pop()).lower()
        if name in found:
            continue
        try:
            requires = metadata.requires(name) or []
        except metadata.PackageNotFoundError:  # of another platform
            continue
        found.add(name)
        plain = (one.partition(";") for one in requires)
        todo += [re.match(r"[\w.-]+", one)[0] for one, _, marker in plain if "extra" not in marker]  # type: ignore[index]
    return found


def create(folder: Path, distribution: str = "launcher") -> Path:
    """Create the environment, whose packages are links to those of this one. Returns its interpreter."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    here = Path(sysconfig.get_path("purelib"))
    there = next(folder.glob("lib/python*/site-packages"))
    for name in required(distribution):
        for top in {file.parts[0] for file in metadata.files(name) or [] if file.parts[0] not in ("..", "__pycache__")}:
            if not (there / top).exists() and not top.endswith(".pth"):
                (there / top).symlink_to(here / top)
    (there / "launcher.pth").write_text(f"{ROOT}\n")
    return folder / "bin" / "python"
