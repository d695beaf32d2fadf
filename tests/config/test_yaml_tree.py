"""YAML as a tree: what the text says by YAML 1.2, where each value stands, and what no text may cost."""

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher.config import yaml_tree
from launcher.config.yaml_tree import Node, NotYaml, YamlMistake, parse


def plain(node: Node):
    if isinstance(node.value, dict):
        return {key: plain(item.node) for key, item in node.value.items()}
    if isinstance(node.value, list):
        return [plain(item.node) for item in node.value]
    return node.value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", None), ("a:", {"a": None}), ("a: ~", {"a": None}), ("a: [true, False, yes, on]",
         {"a": [True, False, "yes", "on"]}),
        ("[1, -2, +3, 0x1f, 0o17, 012, 1_000]", [1, -2, 3, 31, 15, 12, 1000]),
        ("[1.5, 1e-4, -.inf, 1_0.5]", [1.5, 1e-4, float("-inf"), 10.5]),
        ("['1', \"2\", 12:30:00, 1:30.5]", ["1", "2", "12:30:00", "1:30.5"]),
        ("[2024-01-01, 2001-12-14t21:59:43.10-05:00]", ["2024-01-01", "2001-12-14t21:59:43.10-05:00"]),
        ("[=, '<<', <<, '!!int']", ["=", "<<", "<<", "!!int"]),
        ("1: a\nnull: b\ntrue: c\n0x10: d\n1e3: e", {"1": "a", "null": "b", "true": "c", "0x10": "d", "1e3": "e"}),
        ("a: &x {b: 1}\nc: *x", {"a": {"b": 1}, "c": {"b": 1}}), ("[&x a, &x b, *x]", ["a", "b", "b"]),
        ("a: &x {b: 1, c: 2}\nd: {<<: *x, c: 3}", {"a": {"b": 1, "c": 2}, "d": {"c": 3, "b": 1}}),
        ("<<: [{a: 1, b: 2}, {a: 3, c: 4}]", {"a": 1, "c": 4, "b": 2}), ("{'<<': 1}", {"<<": 1}),
        ("&x a: *x", {"a": "a"}), ("&x a: {*x : 1}", {"a": {"a": 1}}), ("%YAML 1.2\n--- a\n...\n", "a"),
    ],
)  # fmt: skip
def test_values_are_those_of_yaml(text, value):
    assert plain(parse(text)) == value


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a: !x 1", "1: the tag !x is not allowed (values are plain; quote a text)"),
        ("\n- ! 1", "2: the tag ! is not allowed (values are plain; quote a text)"),
        ("!!str a: 1", "1: the tag !!str is not allowed (values are plain; quote a text)"),
        ("a: !!binary aGVsbG8=", "1: the tag !!binary is not allowed (values are plain; quote a text)"),
        ("&a [1, &b [*a]]", "1: the alias *a stands within what it names, without an end"),
        ("a: 1\n<<: [{b: 1}, 2]", "2: << should merge a map, or a list of maps"),
        ("<<: {a: 1}\n<<: {b: 1}", '2: found duplicate key "<<"'), 
        ("1: a\n'1': b", '2: found duplicate key "1" (the first is in line 1)'),
        ("{a: 1}: 2", "1: a key should be a text"), ("? \n: 2", "1: a key should be a text"),
        ("'': 1", "1: a key should be a text"), ("&x [1]: 1", "1: a key should be a text"),
        ("a: 1\nb: 0x1ffffffffffffffff", "2: 0x1ffffffffffffffff: too large (an integer has 64 bits)"),
        ("a: b\nc: \"\\U00110000\"", "2: not valid YAML: chr() arg not in range(0x110000)"),
        ('a: "\\ud800"', "1: not valid YAML: character U+D800 is not allowed"),
        ("a: 0b_", "1: not valid YAML: invalid literal for int() with base 2: ''"),
        ("%YAML 1.1\n---\na: yes", "2: not valid YAML: of another version (values are read by YAML 1.2)"),
    ],
)  # fmt: skip
def test_what_no_text_may_hold_is_reported_with_its_line(text, told):
    with pytest.raises(YamlMistake) as error:
        parse(text)
    assert str(error.value) == told


def nested(levels: int) -> str:
    return "[" * levels + "]" * levels


def test_lists_and_maps_are_nested_to_a_depth_and_no_further():
    parse(nested(yaml_tree.DEPTH))
    half = yaml_tree.DEPTH // 2
    parse(f"- &a {nested(half)}\n- {'[' * (half - 1)}*a{']' * (half - 1)}")
    for text in (nested(yaml_tree.DEPTH + 1), f"- &a {nested(half)}\n- {'[' * half}*a{']' * half}", "{a: " * 10**5):
        with pytest.raises(YamlMistake, match="more than 32 deep"):
            parse(text)


def test_aliases_count_as_often_as_they_are_used_before_anything_is_built_of_them():
    lines = ["a0: &a0 [a,a,a,a,a,a,a,a,a]", *(f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 10))]
    tracemalloc.start()
    with pytest.raises(YamlMistake, match=r"^5: with \*a3 written out, more than 20000 values: too many to be read$"):
        parse("\n".join(lines))
    assert tracemalloc.get_traced_memory()[1] < 2**22
    tracemalloc.stop()


def test_a_text_has_so_many_values_and_no_more():
    parse("- a\n" * (yaml_tree.NODES - 1))
    with pytest.raises(YamlMistake, match=r"^20000: more than 20000 values"):
        parse("- a\n" * yaml_tree.NODES)


@given(st.text(st.sampled_from("ab01.-_:,?[]{}&*!|>'\"%@`#~= \t\n\\<xe\x00\x07\ud800\u2028")))
def test_any_text_is_a_tree_or_a_mistake_with_a_line(text):
    try:
        plain(parse(text))
    except YamlMistake as mistake:
        assert 1 <= mistake.line <= len(text) + 1
        assert isinstance(mistake, NotYaml) or not mistake.what.startswith("not valid")
