"""YAML text as a tree of plain values, each with its line.

The tree is built from the parser's events, within limits of depth and size, so that a short text cannot take much
memory or time: values behind an alias count each time it is used. Values have the types of JSON; tags are refused.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import (
    AliasEvent,
    CollectionStartEvent,
    DocumentStartEvent,
    Event,
    MappingEndEvent,
    MappingStartEvent,
    NodeEvent,
    ScalarEvent,
    SequenceEndEvent,
)
from ruamel.yaml.nodes import ScalarNode
from ruamel.yaml.reader import ReaderError

DEPTH = 32
"""Maximum nesting of lists and maps."""
NODES = 20_000
"""Maximum number of values and keys of a document. Values behind an alias count each time it is used."""
_BITS = 64
"""Maximum size of an integer."""
_MERGE = "<<"
_VERSION = (1, 2)
_STANDARD = "tag:yaml.org,2002:"

Scalar = None | bool | int | float | str


class YamlMistake(Exception):
    """Error: a text holds something that is not allowed, or is no YAML (NotYaml). `line`: line number, from 1."""

    def __init__(self, line: int, what: str):
        super().__init__(f"{line}: {what}")
        self.line, self.what = line, what


class NotYaml(YamlMistake):
    """Error: a text is not valid YAML."""


class Item(NamedTuple):
    """A value, with the line of its entry in a list or of its key in a map."""

    line: int
    node: "Node"


@dataclass(frozen=True)
class Node:
    """A value. `nodes`: number of values in it, itself included; `depth`: nesting of lists and maps, itself
    included."""

    value: Scalar | list[Item] | dict[str, Item]
    nodes: int = 1
    depth: int = 0


def parse(text: str, limit: int = NODES) -> Node:
    """Parse a text with one document of at most `limit` values. An empty text is null. Raises YamlMistake."""
    try:
        return _Builder(text, limit).document()
    except ReaderError as error:
        line, what = text.count("\n", 0, error.position) + 1, f"character U+{error.character:04X} is not allowed"
        raise NotYaml(line, f"not valid YAML: {what}") from None
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise NotYaml(mark.line + 1 if mark else 1, f"not valid YAML: {error.problem}{_advice(error)}") from None


class _Builder:
    """Builder of a tree from the events of a text.

    `nodes`: number of values so far. `anchors`: nodes by anchor; None while a node is incomplete.
    """

    def __init__(self, text: str, limit: int):
        self.limit = limit
        self.yaml = YAML(typ="safe", pure=True)
        self.events = self.parsed(text)
        self.nodes = 0
        self.anchors = dict[str, Node | None]()

    def parsed(self, text: str) -> Iterator[Event]:
        """Yield the parser's events. Raises NotYaml, also for a ValueError or an OverflowError of the scanner."""
        line = 1
        try:
            for event in self.yaml.parse(text):
                line = _line(event)
                yield event
        except (ValueError, OverflowError) as error:  # an escape beyond Unicode
            raise NotYaml(line, f"not valid YAML: {error}") from None

    def document(self) -> Node:
        root = Node(None)
        documents = 0
        for event in self.events:
            if isinstance(event, DocumentStartEvent):
                documents += 1
                if documents > 1:
                    raise NotYaml(_line(event), "not valid YAML: a second document (a file holds one)")
                if event.version not in (None, _VERSION):
                    raise NotYaml(_line(event), "not valid YAML: of another version (values are read by YAML 1.2)")
            elif isinstance(event, NodeEvent):
                root = self.node(event, 1)
        return root

    def node(self, event: Event, level: int) -> Node:
        """Build the node of an event. `level`: its depth, from 1."""
        if isinstance(event, AliasEvent):
            return self.alias(event, level)
        assert isinstance(event, ScalarEvent | CollectionStartEvent)
        if event.tag is not None:
            tag = str(event.tag).replace(_STANDARD, "!!")
            raise YamlMistake(_line(event), f"the tag {tag} is not allowed (values are plain; quote a text)")
        before = self.nodes
        self.count(1, event)
        if event.anchor is not None:
            self.anchors[event.anchor] = None
        if isinstance(event, ScalarEvent):
            node = Node(self.scalar(event))
        else:
            _check_depth(event, level)
            value = self.map(level) if isinstance(event, MappingStartEvent) else self.list(level)
            items = value.values() if isinstance(value, dict) else value
            node = Node(value, self.nodes - before, 1 + max((item.node.depth for item in items), default=0))
        if event.anchor is not None:
            self.anchors[event.anchor] = node
        return node

    def alias(self, event: AliasEvent, level: int) -> Node:
        name = event.anchor
        if name not in self.anchors:
            raise NotYaml(_line(event), f"not valid YAML: found undefined alias {name!r}")
        node = self.anchors[name]
        if node is None:
            raise YamlMistake(_line(event), f"the alias *{name} stands within what it names, without an end")
        self.count(node.nodes, event)
        _check_depth(event, level - 1 + node.depth)
        return node

    def count(self, nodes: int, event: Event) -> None:
        self.nodes += nodes
        if self.nodes > self.limit:
            what = f"more than {self.limit} values"
            how = f"with *{event.anchor} written out, " if isinstance(event, AliasEvent) else ""
            raise YamlMistake(_line(event), f"{how}{what}: too many to be read")

    def list(self, level: int) -> list[Item]:
        items = list[Item]()
        while not isinstance(event := next(self.events), SequenceEndEvent):
            items.append(Item(_line(event), self.node(event, level + 1)))
        return items

    def map(self, level: int) -> dict[str, Item]:
        """Build a map. Keys are texts as written, and take precedence over keys that `<<` merges."""
        items, merged = dict[str, Item](), dict[str, Item]()
        while not isinstance(event := next(self.events), MappingEndEvent):
            key, plain = self.key(event)
            item = Item(_line(event), self.node(next(self.events), level + 1))
            merges = plain and key == _MERGE
            if key in items or (merges and merged):
                first = f" (the first is in line {items[key].line})" if key in items else ""
                raise NotYaml(item.line, f'found duplicate key "{key}"{first}')
            if merges:
                merged = _merged(item)
            else:
                items[key] = item
        return items | {key: item for key, item in merged.items() if key not in items}

    def key(self, event: Event) -> tuple[str, bool]:
        """Read a key. Returns it, and whether it is written without quotes."""
        if isinstance(event, AliasEvent):
            value, plain = self.alias(event, 1).value, False
            text = value if isinstance(value, str) else ""
        elif isinstance(event, ScalarEvent):
            self.node(event, 1)
            text, plain = event.value, event.implicit[0]
        else:
            text, plain = "", False
        if not text:
            raise YamlMistake(_line(event), "a key should be a text")
        return text, plain

    def scalar(self, event: ScalarEvent) -> Scalar:
        """Convert a scalar by the rules of YAML 1.2. A date is checked, and stays a text."""
        text = str(event.value)
        if (bad := next((c for c in text if c == "\0" or "\ud800" <= c <= "\udfff"), None)) is not None:
            raise NotYaml(_line(event), f"not valid YAML: character U+{ord(bad):04X} is not allowed")
        tag = self.yaml.resolver.resolve(ScalarNode, text, event.implicit)
        kind = str(tag).removeprefix(_STANDARD)
        if kind not in ("null", "bool", "int", "float", "timestamp"):
            return text
        if kind == "int" and len(text) > 2 * _BITS:
            raise YamlMistake(_line(event), f"a number of {len(text)} digits (an integer has {_BITS} bits)")
        try:
            node = ScalarNode(tag, text, event.start_mark, event.end_mark)
            value: Scalar = self.yaml.constructor.construct_object(node)
        except (YAMLError, ValueError, OverflowError) as error:  # such as a date in a thirteenth month
            raise NotYaml(_line(event), f"not valid YAML: {str(error).splitlines()[0]}") from None
        if isinstance(value, int) and value.bit_length() > _BITS:
            raise YamlMistake(_line(event), f"{text}: too large (an integer has {_BITS} bits)")
        return text if kind == "timestamp" else value


def _advice(error: MarkedYAMLError) -> str:
    """Return advice, in parentheses, on a text that is no YAML; empty: there is none."""
    if "'\\t'" in str(error.problem):
        return " (indent with spaces)"
    begun, found = error.context_mark, error.problem_mark
    if begun is not None and found is not None and begun.line < found.line and "while" in str(error.context):
        what = str(error.context).removeprefix("while ").removeprefix("parsing ").removeprefix("scanning ")
        return f" ({what} begins in line {begun.line + 1}: is it closed?)"
    return ""


def _line(event: Event) -> int:
    return int(event.start_mark.line) + 1


def _check_depth(event: Event, level: int) -> None:
    if level > DEPTH:
        raise YamlMistake(_line(event), f"lists and maps more than {DEPTH} deep within each other")


def _merged(item: Item) -> dict[str, Item]:
    """Return the keys that `<<` merges: of a map, or of a list of maps, in which earlier maps take precedence.

    Raises YamlMistake if a value is no map.
    """
    value = item.node.value
    maps = [part.node.value for part in value] if isinstance(value, list) else [value]
    merged = dict[str, Item]()
    for one in maps:
        if not isinstance(one, dict):
            raise YamlMistake(item.line, "<< should merge a map, or a list of maps")
        merged = one | merged
    return merged
