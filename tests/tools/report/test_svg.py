"""Figures in a page: texts are texts, colours are variables, and ids are unique."""

import re
from xml.etree import ElementTree

import numpy as np
import pytest

from launcher.tools.report import drawing, palette, svg
from launcher.tools.report.drawing import MOST_LINES, Panel, draw, line_of, style

HOSTILE = '<script>1</script> style="fill: #0072b2" $x_$ & \u202e\x00'


@pytest.fixture(scope="module")
def inline():
    lines = [line_of(np.arange(9), np.arange(9.0), style(n), HOSTILE) for n in range(2)]
    panel = Panel("p", HOSTILE, "unit", "axis", [line for line in lines if line])
    return svg.inline(draw(panel))


def test_texts_are_escaped_and_stay_as_they_are(inline):
    root = ElementTree.fromstring(inline)
    texts = ["".join(text.itertext()) for text in root.iter("text")]
    shown = '<script>1</script> style="fill: #0072b2" $x_$ & ??'
    assert texts.count(shown[:40] + "...") == 2 and shown in texts  # two names, and the title
    assert root.get("role") == "img" and root.get("aria-label", "").startswith("<script>")
    assert list(root.iter("style")) == list(root.iter("metadata")) == []


def test_every_colour_is_a_variable(inline):
    root = ElementTree.fromstring(inline)
    styles = " ".join(element.get("style", "") for element in root.iter())
    assert re.findall(r"#[0-9a-f]{3,6}", styles) == []
    assert {f"var(--{name})" for name in ("ink", "muted", "grid", "series-1", "series-2")} <= set(
        re.findall(r"var\([\w-]+\)", styles)
    )
    assert "font:" not in styles and "font-size:" in styles


def test_ids_have_the_name_of_the_figure(inline):
    root = ElementTree.fromstring(inline)
    ids = [element.get("id") for element in root.iter() if element.get("id")]
    assert ids and all(id.startswith("p-") for id in ids)
    used = re.findall(r'(?:url\(#|href="#)([\w-]+)', inline)
    assert set(used) == set(ids)


def test_lines_differ_and_the_first_ones_also_without_colours():
    styles = [style(n) for n in range(MOST_LINES)]
    assert len({(one.colour, str(one.dashes), one.marker) for one in styles}) == MOST_LINES
    assert len({str(one.dashes) for one in styles[:5]}) == 5


@pytest.mark.parametrize("dark", [False, True])
def test_lines_and_cells_have_contrast(dark):
    card = palette.COLOURS["card"][dark]
    for name in (*palette.SERIES, "counts", "holds", "wasted"):
        assert palette.contrast(palette.COLOURS[name][dark], card) >= 3
    for share in np.linspace(0, 1, 11):
        assert palette.contrast(*palette.shade(share, dark)) >= 4.5
    assert len(palette.BY_HEX) == len(palette.COLOURS)


def test_scales_are_logarithmic_where_values_differ_in_size():
    def panel(values, **more):
        return Panel("p", "t", "u", "a", [line_of(np.arange(len(values)), np.array(values), style(0))], **more)

    assert panel([0.1, 100.0]).logarithmic
    assert not panel([1.0, 2.0]).logarithmic and not panel([0.0, 100.0]).logarithmic
    assert not panel([0.001, 1.0], bounds=(0, 1)).logarithmic


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (0.001, "0.001"), (12000, "12 k"), (2.5e6, "2.5 M"), (3e9, "3 G"), (1e-5, "1e-05")]
)
def test_numbers_of_an_axis(value, text):
    assert drawing.number(value) == text
