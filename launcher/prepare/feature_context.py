"""The arguments of `launcher.tasks.Task.features` besides the rows."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from launcher.prepare.encode import Encoder


class FeatureContext:
    """The arguments of `Task.features` besides the rows.

    survey: the result of `Task.survey`. max_length: maximum number of tokens of a sample. key: key of the source in the
    recipe, such as data.train, for messages.
    """

    def __init__(self, survey: dict[str, Any], max_length: int, key: str, encoder: "Encoder | None"):
        self.survey, self.max_length, self.key, self._encoder = survey, max_length, key, encoder

    @property
    def encoder(self) -> "Encoder":
        """The tokenizer. Raises TypeError if the task is not tokenized."""
        if self._encoder is None:
            raise TypeError("a task that is not tokenized has no encoder")
        return self._encoder
