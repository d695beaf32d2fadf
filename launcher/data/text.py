"""Plain text files: a document is a blank-line paragraph, a line, or a file."""

from collections.abc import Iterator, Sequence
from typing import Any, Literal

from launcher.config.errors import Problem, UserError
from launcher.data._source import FilesConfig, files, fingerprint_files, limited, lines


class Config(FilesConfig):
    kind: Literal["text"] = "text"
    document: Literal["paragraph", "line", "file"] = "paragraph"


def fingerprint(config: Config, key: str) -> str:
    return fingerprint_files(config, key)


def rows(config: Config, columns: Sequence[str], key: str) -> Iterator[dict[str, Any]]:
    if "label" in columns:
        raise UserError(Problem(f"{key}.kind", "plain text has no labels (use jsonl, hub, ...)"))
    documents = (text for path in files(config, key) for text in _documents(config, path))
    return limited(({"text": text} for text in documents if text.strip()), config)


def _documents(config: Config, path: Any) -> Iterator[str]:
    if config.document == "line":
        yield from (line for _, line in lines(path))
        return
    block: list[str] = []
    for _, line in lines(path):
        if config.document == "paragraph" and not line.strip():
            yield "\n".join(block)
            block = []
        else:
            block.append(line)
    yield "\n".join(block)
