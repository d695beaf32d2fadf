"""Shipped recipes, cluster profiles and overrides, damaged at random, and what loading each comes to. Run as a script
it is the child process of test_fuzz: its memory is bounded, and what it opens, starts or imports is watched."""

import json
import os
import random
import re
import resource
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from launcher.config import kinds, load
from launcher.config.errors import UserError

MEMORY = 500 * 2**20
"""Bytes of address space that loading may take, above what the process has at its start."""
SECONDS = 60
"""Of a case, at the most: one that takes longer hangs."""
FAMILIES = ("data", "models", "sinks", "strategies", "tasks")
TOKENS = (
    "!!python/object/apply:os.system [touch made]", "!!python/name:os.system", "!x", "! 1", "!!binary aGk=",
    "!!set {a}", "&a", "*a", "&a [*a]", "&a {<<: *a}", "<<: *a", "<<: 3", "<<: {steps: 1}", "[", "]", "{", "}", "- ",
    ": ", ":", "? ", "? [a]\n: b", ",", "|", ">", "|9", "'", '"', '"\\0"', '"\\ud800"', '"\\U00110000"', '"a\\nb"',
    '"\\e[31m"', "#", "@", "`", "%", "---", "...", "--- a\n--- b", "%YAML 1.1\n---", "%TAG ! a", "\t", "\n", "  ",
    "\0", "\a", "\x85", "\u2028", "\ufeff", "\U0001f600", "null", "~", "true", "no", ".inf", "-.inf", ".nan", "1e308",
    "1e400", "5e-324", "-0.0", "0", "-1", "1", "2", "0.5", "1.0", "9" * 19, "9" * 30, "9" * 5000, "-" + "9" * 19,
    "0x" + "f" * 40, "0b_", "1_0", "012", "2024-13-01", "2024-01-01", "12:30:00", "''", "[]", "{}", "[[]]", "[1, 2]",
    "{a: 1}", "{kind: x}", "..", "../..", "/", "/dev/zero", "~x/y", "-x", "a b", "a" * 5000, "[" * 40 + "]" * 40,
    "{a: " * 40 + "}" * 40, "base: recipe.yaml", "base: .", "base: [a]", "kind: mlm", "{%s}", "{0}", "\\",
    "$(touch made)", "every 0", "every " + "9" * 5000, "10m", "9" * 30 + "m", "2:1000000000", "1-00", "none", "auto",
)  # fmt: skip
LAUGH = "".join(f"x{i}: &x{i} [{', '.join([f'*x{i - 1}'] * 9 if i else 'a' * 9)}]\n" for i in range(10))


class Case(NamedTuple):
    """One that is loaded: the reader's name, a file's content, and overrides."""

    reader: str
    content: bytes
    overrides: list[str]


def cases(number: int, seed: int) -> Iterator[Case]:
    """So many damaged files and overrides, the same for the same seed."""
    draw = random.Random(seed)
    sources = [("recipe", file) for file in load.shipped("recipes")] + [("cluster", f) for f in load.shipped("cluster")]
    for _ in range(number):
        reader, file = draw.choice(sources)
        text, overrides = file.read_text(encoding="utf-8"), list[str]()
        if draw.random() < 0.3:
            overrides = [_override(text, draw) for _ in range(draw.randint(1, 3))]
        else:
            for _ in range(draw.choice((1, 1, 1, 2, 4))):
                text = draw.choice(DAMAGES)(text, draw)
        content = text.encode("utf-8", "surrogatepass")
        yield Case(reader, _flipped(content, draw) if not overrides and draw.random() < 0.1 else content, overrides)


def _value(text: str, draw: random.Random) -> str:
    """Another value of one key."""
    places = list(re.finditer(r"(?<=: )[^,{}\[\]\n]+", text))
    return _put(text, draw.choice(places).span(), draw.choice(TOKENS)) if places else text


def _insert(text: str, draw: random.Random) -> str:
    at = draw.randrange(len(text) + 1)
    return _put(text, (at, at), draw.choice(TOKENS))


def _line(text: str, draw: random.Random) -> str:
    """A line left out, doubled, moved, indented, or one more."""
    lines = text.splitlines()
    at = draw.randrange(len(lines))
    line = lines.pop(at)
    more = [[], [line, line], [f"  {line}"], [line.lstrip()], [line, draw.choice(TOKENS)], [line[: len(line) // 2]]]
    lines[at:at] = draw.choice(more)
    if draw.random() < 0.2:
        lines.insert(draw.randrange(len(lines) + 1), line)
    return "\n".join(lines) + "\n"


def _cut(text: str, draw: random.Random) -> str:
    begin = draw.randrange(len(text) + 1)
    return _put(text, (begin, begin + draw.choice((1, 5, 1000))), "")


def _bomb(text: str, draw: random.Random) -> str:
    """Aliases of aliases, or what is very deep or long, before or after the rest."""
    more = draw.choice((LAUGH, f"x: {'[' * 300}\n", f"x: {'{a: ' * 300}\n", f"x: {'a' * 20_000}\n", "- " * 300))
    return draw.choice((more + text, f"{text}\n{more}"))


DAMAGES: tuple[Callable[[str, random.Random], str], ...] = (
    _value,
    _value,
    _value,
    _insert,
    _insert,
    _line,
    _cut,
    _bomb,
)


def _override(text: str, draw: random.Random) -> str:
    """A key of the file, or none, with a value or with none."""
    keys = re.findall(r"[a-z_]+(?=:)", text)
    path = ".".join(draw.choices(keys, k=draw.randint(1, 3)))
    token = draw.choice(TOKENS).replace("\0", "0")  # no argument of a command has it
    return draw.choice((f"{path}={token}", f"{path}={token}", f"{draw.choice(keys)}={token}", f"{token}={path}", token))


def _flipped(content: bytes, draw: random.Random) -> bytes:
    data = bytearray(content)
    for _ in range(draw.randint(1, 4)):
        data[draw.randrange(len(data))] = draw.randrange(256)
    return bytes(data)


def _put(text: str, span: tuple[int, int], what: str) -> str:
    return text[: span[0]] + what + text[span[1] :]


# The child process


def outcome(case: Case) -> str | None:
    """What is wrong with how a case is read; None: it loads, or is refused in lines of their own."""
    Path("recipe.yaml").write_bytes(case.content)
    reader: Callable[..., Any] = load.recipe if case.reader == "recipe" else load.cluster
    try:
        reader("recipe.yaml", case.overrides)
    except UserError as error:
        lines = [str(problem) for problem in error.problems]
        wrong = [line for line in lines if not line or not line.isprintable() or len(line) > 2000]
        return f"not a line: {wrong[0][:200]!r}" if wrong else None
    except BaseException as error:
        return f"{type(error).__name__}: {str(error)[:300]}"
    return None


def _watch(seen: list[str]) -> None:
    """Note whatever writes, starts or connects."""
    refused = ("os.system", "os.exec", "os.posix_spawn", "subprocess.Popen", "socket.connect", "pickle.find_class",
               "os.mkdir", "os.remove", "os.rename", "shutil.rmtree", "ctypes.dlopen")  # fmt: skip

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        writes = event == "open" and len(arguments) > 2 and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        if (writes and arguments[0] != "recipe.yaml") or event in refused:
            seen.append(f"{event} {arguments!r}"[:300])

    sys.addaudithook(hook)


def main(number: int, seed: int) -> None:
    """Read so many cases; print those that go wrong as JSON."""
    for folder in FAMILIES:
        for kind in kinds.available(folder):
            kinds.module(folder, kind)
    for reader, folder in ((load.recipe, "recipes"), (load.cluster, "cluster")):
        for file in load.shipped(folder):
            reader(file)
    wrong, seen, known = list[Any](), list[str](), set(sys.modules)
    os.chdir(tempfile.mkdtemp(dir=Path.cwd()))
    begun = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (begun + MEMORY, resource.RLIM_INFINITY))
    signal.signal(signal.SIGALRM, lambda *_: (_ for _ in ()).throw(TimeoutError(f"more than {SECONDS} s")))
    _watch(seen)
    for case in cases(number, seed):
        signal.alarm(SECONDS)
        what = outcome(case)
        signal.alarm(0)
        imported = [name for name in sys.modules.keys() - known if not name.startswith("launcher.")]
        if what or seen or imported or os.listdir() != ["recipe.yaml"]:  # noqa: PTH208
            wrong.append([what, list(seen), imported, repr(case)[:3000]])
        seen.clear()
        known |= set(imported)
    print(json.dumps(wrong))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
