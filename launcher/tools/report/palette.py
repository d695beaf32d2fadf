"""Colours of figures and pages, for a light and a dark background.

The colours of lines are those of Okabe and Ito (Color Universal Design, 2008), which readers with any kind of colour
vision can tell apart, in an order in which each has a contrast of at least 3 to its background. Figures are drawn in
the light colours; in a page, each becomes a variable of the style sheet.
"""

from typing import NamedTuple


class Colour(NamedTuple):
    """A colour on a light and on a dark background."""

    light: str
    dark: str


SERIES = ("series-1", "series-2", "series-3", "series-4", "series-5")
"""Colours of lines."""
COLOURS = {
    "page": Colour("#f6f7f9", "#101318"),
    "card": Colour("#fefefe", "#191d24"),
    "ink": Colour("#1a1f26", "#e8ebf0"),
    "muted": Colour("#525c68", "#a9b3c0"),
    "grid": Colour("#dfe3e8", "#323944"),
    "accent": Colour("#0b5c94", "#7cc4f2"),
    "series-1": Colour("#0072b2", "#56b4e9"),
    "series-2": Colour("#d55e00", "#e69f00"),
    "series-3": Colour("#009e73", "#02a87c"),
    "series-4": Colour("#cc79a7", "#cd7aa8"),
    "series-5": Colour("#0d0d0d", "#f0e442"),
    "counts": Colour("#0073b3", "#57b5ea"),
    "holds": Colour("#b37b00", "#e7a001"),
    "wasted": Colour("#c24e12", "#f0763a"),
}
"""Colours by the name of their variable. All light ones differ."""
BY_HEX = {colour.light: name for name, colour in COLOURS.items()}


def light(name: str) -> str:
    """Return a colour on a light background."""
    return COLOURS[name].light


def shade(share: float, dark: bool) -> tuple[str, str]:
    """Return the background and the text colour of a cell. `share`: 0 to 1, from the colour of a card to a blue."""
    begin, end = ((0x19, 0x1D, 0x24), (0x9A, 0xD4, 0xF6)) if dark else ((0xFE, 0xFE, 0xFE), (0x08, 0x45, 0x73))
    mixed = [round(a + (b - a) * share) for a, b in zip(begin, end, strict=True)]
    back = "#{:02x}{:02x}{:02x}".format(*mixed)
    return back, max("#000000", "#ffffff", key=lambda text: contrast(text, back))


def contrast(one: str, other: str) -> float:
    """Return the contrast ratio of two colours (WCAG 2.2), from 1 to 21."""
    darker, lighter = sorted((_luminance(one), _luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)


def _luminance(colour: str) -> float:
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
