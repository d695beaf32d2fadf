"""Mistakes of the user: collected, told all at once, never as a traceback."""

from collections.abc import Sequence


class UserError(Exception):
    """The user's input is wrong. `problems` holds one line for each mistake; commands exit with 2."""

    def __init__(self, problems: str | Sequence[str]):
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        super().__init__("\n".join(self.problems))

    def __reduce__(self) -> tuple[type["UserError"], tuple[list[str]]]:
        return type(self), (self.problems,)
