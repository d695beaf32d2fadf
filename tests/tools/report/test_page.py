"""Pages of reports in a real browser: they fit, can be read, and load and run nothing."""

import io
import itertools
import re

import pytest
from rich.console import Console
from support import browser as browsers
from support import report_runs

from launcher.tools.report.report import report

PAGES = ("one", "several", "restarts", "hostile", "bare")
SIZES = [(390, "light"), (390, "dark"), (768, "light"), (1280, "light"), (1280, "dark")]


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """A page of each kind, by name."""
    folder = tmp_path_factory.mktemp("pages")
    runs = {name: report_runs.write(folder / name, seed=n, lr=10**-n) for n, name in enumerate(("one", "two"), 2)}
    runs["restarts"] = report_runs.write(folder / "restarts", restarts=True)
    labels = ("<b>a</b>", report_runs.HOSTILE, "$x_$ {{ 7 * 7 }}")
    hostile = {"name": report_runs.HOSTILE, "model": {"kind": report_runs.HOSTILE}}
    name = "<img src=x onerror=alert(1)>&\"' {{ 7 * 7 }}"
    runs["hostile"] = report_runs.write(folder / name, labels=labels, text=report_runs.HOSTILE, recipe=hostile)
    (runs["hostile"] / "jobs.jsonl").open("a").write(
        '{"event": "restarted", "job": "a", "why": "<b>failed</b>", "error": "<script>1</script>", '
        '"time": 1790000050}\n'
    )
    bare = folder / "bare"
    bare.mkdir()
    report_runs.metrics(bare, 20)
    files = {}
    for page, named in (("one", ["one"]), ("several", ["one", "two", "hostile"]), ("restarts", ["restarts"]),
                        ("hostile", ["hostile"])):  # fmt: skip
        files[page] = folder / f"page-{page}.html"
        report([str(runs[name]) for name in named], files[page], Console(file=io.StringIO()))
    files["bare"] = folder / "page-bare.html"
    report([str(bare)], files["bare"], Console(file=io.StringIO()))
    return files


@pytest.mark.parametrize(("width", "theme"), SIZES)
@pytest.mark.parametrize("name", PAGES)
def test_a_page_fits_and_can_be_read_and_asks_for_nothing(browser, pages, name, width, theme):
    with browsers.visit(browser, pages[name], width, theme) as visit:
        assert visit.width() == width
        assert visit.faint_texts() == []
        assert (visit.errors, visit.requests) == ([], [])


def test_a_faint_text_is_found(browser, pages):
    """The check above can fail, for texts of the page and of figures."""
    with browsers.visit(browser, pages["one"], 1280, "light") as visit:
        visit.page.evaluate("document.documentElement.style.setProperty('--muted', '#8a929b')")
        texts = {one["text"] for one in visit.faint_texts()}
        assert {"over", "state", "tokens/s of a device"} <= texts


def test_every_character_of_the_launcher_has_a_glyph(browser, pages):
    """Texts of data may have any script; this run's have letters only."""
    with browsers.visit(browser, pages["restarts"], 1280, "light") as visit:
        assert visit.missing_glyphs() == []
        visit.page.evaluate("document.querySelector('h1').textContent = '\\u{10FFFD}'")
        assert visit.missing_glyphs() == ["\U0010fffd"]


def test_a_theme_changes_every_colour_of_a_figure(browser, pages):
    colours = {}
    for theme in ("light", "dark"):
        with browsers.visit(browser, pages["one"], 1280, theme) as visit:
            colours[theme] = visit.page.evaluate(
                "[...document.querySelectorAll('svg text, svg path')].map((e) => getComputedStyle(e)).flatMap("
                "(s) => [s.fill, s.stroke]).filter((c) => c.startsWith('rgb'))"
            )
    assert len(colours["light"]) == len(colours["dark"]) > 100
    same = {one for one, other in zip(colours["light"], colours["dark"], strict=True) if one == other}
    assert same <= {"rgb(0, 0, 0)"}  # the shapes of markers and clips, which are painted elsewhere


def test_it_is_printed_in_light_colours_and_all_of_a_table(browser, pages):
    with browsers.visit(browser, pages["one"], 1280, "dark") as visit:
        visit.page.emulate_media(media="print", color_scheme="dark")
        assert visit.page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(246, 247, 249)"
        assert visit.page.evaluate("getComputedStyle(document.querySelector('.scroll')).overflowX") == "visible"


def test_curves_are_shown_over_steps_tokens_or_time(browser, pages):
    with browsers.visit(browser, pages["one"], 390, "light") as visit:

        def shown():
            return {
                axis: visit.page.locator(f"figure.over-{axis}:visible").count() for axis in ("step", "tokens", "time")
            }

        assert shown() == {"step": 3, "tokens": 0, "time": 0}
        visit.page.locator("label", has_text="tokens").click()
        assert shown() == {"step": 0, "tokens": 3, "time": 0}
        visit.page.keyboard.press("ArrowRight")
        assert shown() == {"step": 0, "tokens": 0, "time": 3}


def test_texts_of_a_run_are_texts(browser, pages):
    with browsers.visit(browser, pages["hostile"], 390, "light") as visit:
        page = visit.page
        assert page.title() == "<img src=x onerror=alert(1)>&\"' {{ 7 * 7 }}: report"
        assert page.locator("script, img, iframe, object, link:not([rel=icon])").count() == 0
        assert page.locator("blockquote").first.inner_text().startswith("0: </td></table><script>document.title")
        assert page.locator("tbody th", has_text="<b>a</b>").count() == 2
        assert "<b>failed</b>: <script>1</script>" in page.locator("main").inner_text()
        assert "49" not in page.locator("h1").inner_text()
        assert all(len(text) < 330 for text in page.locator("blockquote").all_inner_texts())
        wide = "[...document.querySelectorAll('.scroll')].filter((e) => e.scrollWidth > e.clientWidth).length"
        assert page.evaluate(wide) > 0  # tables do scroll within themselves


def test_a_reader_of_a_screen_has_headings_and_descriptions(browser, pages):
    with browsers.visit(browser, pages["restarts"], 1280, "light") as visit:
        page = visit.page
        levels = [
            int(name[1])
            for name in page.evaluate("[...document.querySelectorAll('h1,h2,h3,h4')].map((e) => e.tagName)")
        ]
        assert levels[0] == 1 and levels.count(1) == 1
        assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
        figures = page.get_by_role("img").all()
        labels = [figure.get_attribute("aria-label") for figure in figures]
        assert len(labels) > 8 and all(len(label) > 30 for label in labels)
        loss = next(label for label in labels if label.startswith("Loss:"))
        assert re.fullmatch(
            r"Loss: loss, over step\. training: from [\d.]+ to [\d.]+, lowest .*; validation: .*\.", loss
        )
        line = next(label for label in labels if label.startswith("Time line"))
        assert "hang 6" in line and "1 of kind restart" in line and "1 of kind roll back" in line
        ids = page.evaluate("[...document.querySelectorAll('[id]')].map((e) => e.id)")
        assert len(ids) == len(set(ids))
        assert page.evaluate("[...document.querySelectorAll('table')].every((e) => e.closest('.scroll') && e.caption)")


def test_what_a_run_lacks_is_said(browser, pages):
    with browsers.visit(browser, pages["bare"], 390, "light") as visit:
        text = visit.page.locator("main").inner_text()
        assert "recipe.yaml: missing" in text and "plan.json: missing" in text
        assert "bare has no ledger of its seconds" in text
        assert visit.page.locator("figure:visible").count() > 5


def test_several_runs_are_overlaid_with_their_differences(browser, pages):
    with browsers.visit(browser, pages["several"], 1280, "light") as visit:
        tables = visit.page.locator("table").all_inner_texts()
        differences = next(text for text in tables if text.startswith("Keys in which the recipes differ"))
        assert "optimizer.lr\t0.01\t0.001" in differences
        label = visit.page.locator("figure.over-step svg").first.get_attribute("aria-label")
        assert label.startswith("Training loss") and "one: from" in label and "two: from" in label
        strokes = visit.page.evaluate(
            "[...document.querySelector('figure.over-step svg').querySelectorAll('path')].map("
            "(e) => getComputedStyle(e)).filter((s) => parseFloat(s.strokeWidth) > 1.5).map((s) => s.strokeDasharray)"
        )
        assert len(set(strokes)) >= 3  # also without their colours
