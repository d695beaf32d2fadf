"""Figures as SVG inside of a page: colours are variables of the style sheet, and texts are text."""

import io
import re
from xml.etree import ElementTree

from launcher.config.strict_json import shown
from launcher.tools.report import palette
from launcher.tools.report.drawing import Drawing

_XLINK = "{http://www.w3.org/1999/xlink}href"
_HEX = re.compile(r"#[0-9a-f]{6}\b")
_FONT = re.compile(r"font: [^;]*?([\d.]+)px [^;]*")
_DECIMALS = re.compile(r"(\.\d\d)\d+")
_DROPPED = ("metadata", "style")
_DESCRIPTION = 4000
"""Maximum characters of a description."""


def inline(drawing: Drawing) -> str:
    """Return a figure as an element of a page, with its description for those who do not see it."""
    file = io.BytesIO()
    drawing.save(file, "svg")
    root = ElementTree.fromstring(file.getvalue())
    for parent in root.iter():
        for child in [child for child in parent if child.tag.rpartition("}")[2] in _DROPPED]:
            parent.remove(child)
    referenced = {name for element in root.iter() for name in _references(element)}
    for element in root.iter():
        _rewrite(element, drawing.name, referenced)
    for name in ("width", "height", "version"):
        root.attrib.pop(name, None)
    root.set("role", "img")
    root.set("aria-label", shown(drawing.description, _DESCRIPTION))
    return ElementTree.tostring(root, encoding="unicode")


def _references(element: ElementTree.Element) -> list[str]:
    """Return the ids that an element refers to."""
    values = [element.get(_XLINK, ""), element.get("clip-path", "")]
    return [found[1] for value in values if (found := re.search(r"#([\w-]+)", value))]


def _rewrite(element: ElementTree.Element, prefix: str, referenced: set[str]) -> None:
    """Make ids unique in the page, colours variables, and paths short."""
    element.tag = element.tag.rpartition("}")[2]  # elements of a page have no namespace
    own = element.attrib.pop("id", None)
    if own in referenced:
        element.set("id", f"{prefix}-{own}")
    if target := element.attrib.pop(_XLINK, None):
        element.set("href", target.replace("#", f"#{prefix}-", 1) if target.startswith("#") else target)
    if clip := element.get("clip-path"):
        element.set("clip-path", clip.replace("#", f"#{prefix}-", 1))
    if style := element.get("style"):
        style = _FONT.sub(r"font-size: \1px", style)
        element.set("style", _HEX.sub(lambda found: _variable(found[0]), style))
    if path := element.get("d"):
        element.set("d", _DECIMALS.sub(r"\1", path))


def _variable(colour: str) -> str:
    name = palette.BY_HEX.get(colour)
    return f"var(--{name})" if name else colour
