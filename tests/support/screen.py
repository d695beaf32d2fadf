"""A terminal of a given size, as far as the launcher's displays use one, and a process that runs in it."""

import os
import re

import pexpect

TOKEN = re.compile(r"\x1b\[(\?)?([0-9;]*)([A-Za-z])|[\r\n]|[^\x1b\r\n]+", re.DOTALL)


class Screen:
    """What a terminal shows. `history`: the lines above it. `modes`: of the terminal that were switched."""

    def __init__(self, columns=80, rows=24):
        self.columns, self.rows = columns, rows
        self.lines, self.history, self.modes = [""] * rows, [], []
        self.row = self.column = 0

    def feed(self, text):
        for token in TOKEN.finditer(text):
            if token[0] == "\r":
                self.column = 0
            elif token[0] == "\n":
                self._down()
            elif token[0].startswith("\x1b"):
                self._control(*token.groups())
            else:
                for character in token[0]:
                    self._put(character)
        return self

    def _control(self, mode, number, letter):
        if mode:
            self.modes.append(f"{number}{letter}")
        elif letter == "A":
            self.row = max(0, self.row - int(number or 1))
        elif letter == "J":
            self.lines[self.row :] = [self.lines[self.row][: self.column], *[""] * (self.rows - self.row - 1)]
        elif letter != "m":
            raise AssertionError(f"a control sequence that no display of the launcher needs: {number}{letter}")

    def _down(self):
        self.row += 1
        if self.row == self.rows:
            self.history.append(self.lines.pop(0))
            self.lines.append("")
            self.row -= 1

    def _put(self, character):
        if self.column == self.columns:
            self.column = 0
            self._down()
        line = self.lines[self.row].ljust(self.column)
        self.lines[self.row] = line[: self.column] + character + line[self.column + 1 :]
        self.column += 1

    @property
    def text(self):
        """Everything that can be read now, without empty lines at the end."""
        return "\n".join(line.rstrip() for line in [*self.history, *self.lines]).rstrip()


def spawn(words, columns=80, rows=24, **environment):
    """Start a process in a terminal."""
    clean = {name: value for name, value in os.environ.items() if name not in ("CI", "COLUMNS", "LINES", "NO_COLOR")}
    return pexpect.spawn(
        words[0], list(words[1:]), dimensions=(rows, columns), encoding="utf-8", timeout=240, echo=False,
        env={**clean, "TERM": "xterm", **environment},
    )  # fmt: skip
