"""Recognise secrets, such as keys and passwords, in what a user writes, before they are copied to a run folder.

Patterns are those that the services publish for their keys. A name alone is no proof: `TOKENIZERS_PARALLELISM: false`
is no secret, and neither are numbers, paths and addresses.
"""

import math
import re
from collections import Counter
from collections.abc import Iterator

ADVICE = "looks like a secret (set it in your environment, and name it in env_from of the cluster profile)"
"""Message for a value that is refused. It does not repeat the value."""

_KEYS = re.compile(
    r"""(?<![A-Za-z0-9])(?:
    hf_[A-Za-z0-9]{30}                               # Hugging Face
    | wandb_v\d_[A-Za-z0-9_]{20} | local-[0-9a-f]{40}  # Weights & Biases
    | sk-(?:[A-Za-z0-9]{32} | (?:ant|proj|svcacct|admin|or)-[\w-]{20})  # OpenAI, Anthropic, OpenRouter
    | gh[pousr]_[A-Za-z0-9]{36} | github_pat_\w{22} | glpat-[\w-]{20}
    | (?:AKIA|ASIA)[0-9A-Z]{16}(?![A-Za-z0-9])        # AWS
    | xox[abeprs]-[A-Za-z0-9-]{10}                    # Slack
    | AIza[\w-]{35}                                   # Google
    | eyJ[\w-]{10,999}\.eyJ[\w-]{10}                  # a JSON web token
    )
    | -----BEGIN\ [A-Z\ ]{0,40}PRIVATE\ KEY-----
    | [A-Za-z][A-Za-z0-9+.-]{0,20}://[^\s/:@]{0,99}:[^\s/@]{1,999}@   # an address with a password
    """,
    re.VERBOSE,
)
"""Repetitions have an upper bound, so that the search takes a time that is proportional to the text."""
_NAME = re.compile(r"SECRET|PASSW|PASSPHRASE|CREDENTIAL|(?:KEY|TOKEN)S?(?:_|$)", re.IGNORECASE)
_HARMLESS = re.compile(
    r"""|true|false|yes|no|on|off|none|null|auto|default
    | [-+]?(?:0x[0-9a-f]+|[0-9][0-9.,:e+-]*)          # numbers
    | [~.]?/.* | [a-z][a-z0-9+.-]*://.*               # paths and addresses
    """,
    re.VERBOSE | re.IGNORECASE,
)
_OF_HASHES = re.compile(r"REV|COMMIT|SHA|HASH|DIGEST|VERSION", re.IGNORECASE)
_HEX = re.compile(r"[0-9a-fA-F]{32}|[0-9a-fA-F]{40}|[0-9a-fA-F]{64}")
_RANDOM = re.compile(r"[A-Za-z0-9+=]{32,}|[A-Za-z0-9+][A-Za-z0-9/+]{39}")
_BITS = 4.2
"""Minimum entropy of a random text, in bits per character. That of words is lower."""


def without_password(text: str) -> str:
    """Return a text without the users and passwords of the addresses in it."""
    return re.sub(r"(?<=://)[^\s/@]{1,999}@", "", text)


def is_known_key(text: str) -> bool:
    """Return whether a text holds a key in the form of a known service, a private key, or an address with a
    password."""
    return _KEYS.search(text) is not None


def is_secret(name: str, value: str) -> bool:
    """Return whether a variable's value looks like a secret: by its form, or because its name says so."""
    if is_known_key(value):
        return True
    if _HARMLESS.fullmatch(value):
        return False
    return _NAME.search(name) is not None or _is_random(name, value)


def _is_random(name: str, value: str) -> bool:
    """Return whether a value is one long random word. Hashes are random too, so that their names are left out."""
    if _HEX.fullmatch(value):
        return _OF_HASHES.search(name) is None
    mixed = all(re.search(letters, value) for letters in ("[a-z]", "[A-Z]", "[0-9]"))
    return mixed and _RANDOM.fullmatch(value) is not None and _entropy(value) >= _BITS


def _entropy(text: str) -> float:
    """Return the Shannon entropy of the characters of a text, in bits per character."""
    return -sum(count / len(text) * math.log2(count / len(text)) for count in Counter(text).values())


def paths(value: object, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Yield the paths of texts that hold a known kind of secret, which would be copied to the run folder."""
    if isinstance(value, str) and is_known_key(value):
        yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from paths(item, (*path, key))
