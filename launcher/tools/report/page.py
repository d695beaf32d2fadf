"""The page of a report: its sections, and their HTML."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import localtime, strftime

from launcher import __version__
from launcher.tools.report import drawing, palette, panels, report_tables, svg, time_line
from launcher.tools.report.drawing import Drawing, Panel
from launcher.tools.report.report_tables import Confusion, PageTable
from launcher.tools.report.run_data import RunData

_TEMPLATE = "page.html.j2"
_CURVES = (
    "No training step is recorded in metrics.jsonl. Runs with the sink jsonl, which is a default, record each one."
)


@dataclass(frozen=True)
class PageFigure:
    """A figure in a section. `svg`: an element whose texts are escaped. `kind`: class of the style sheet."""

    svg: str
    kind: str = ""


@dataclass(frozen=True)
class Section:
    """A part of the page. `choices`: key and label of each x axis to choose from. `legend`: colour and name of each
    group. `texts`: a title and a text each, folded."""

    id: str
    title: str
    figures: Sequence[PageFigure] = ()
    tables: Sequence[PageTable] = ()
    sentences: Sequence[str] = ()
    kind: str = ""
    choices: Sequence[tuple[str, str]] = ()
    legend: Sequence[tuple[str, str]] = ()
    confusions: Sequence[Confusion] = ()
    texts: Sequence[tuple[str, str]] = ()


@dataclass
class Page:
    """A page in the making. `drawings`: those that become pictures beside it."""

    runs: Sequence[RunData]
    drawings: list[Drawing] = field(default_factory=list)

    def html(self) -> str:
        """Return the page. `drawings` is filled on the way."""
        from jinja2 import Environment, FileSystemLoader, StrictUndefined

        environment = Environment(
            loader=FileSystemLoader(Path(__file__).parent), undefined=StrictUndefined, autoescape=True,
            trim_blocks=True, lstrip_blocks=True,
        )  # fmt: skip
        one = self.runs[0] if len(self.runs) == 1 else None
        names = [run.name for run in self.runs]
        return environment.get_template(_TEMPLATE).render(
            title=names[0] if one else f"{', '.join(names[:4])}{' and others' if len(names) > 4 else ''}",
            subtitle="" if one is None else one.status.folder,
            runs=self.runs,
            summary=report_tables.summary(one) if one else [],
            problems=[problem for run in self.runs for problem in run.problems],
            sections=self._sections(),
            colours=palette.COLOURS,
            shades=report_tables.shades(),
            footer=f"Made by launcher {__version__} on {strftime('%Y-%m-%d at %H:%M', localtime())}. "
            "Colours of lines: Okabe and Ito, 2008. Each figure is a PNG beside this page.",
        )

    def _sections(self) -> list[Section]:
        """Return the sections with content, then one with a sentence for each without."""
        several = len(self.runs) > 1
        sections = [
            *([self._overview()] if several else []),
            self._loss(),
            self._curves("speed", "Optimisation and throughput", (panels.optimisation, panels.throughput), _CURVES),
            self._time(),
            *self._ranks_and_memory(),
            *self._evaluations(),
            self._recipes(),
        ]
        there = [section for section in sections if section.figures or section.tables or section.texts]
        missing = [one for one in sections if one not in there and one.sentences]
        if missing:
            sentences = [f"{one.title}. {sentence}" for one in missing for sentence in one.sentences]
            there.append(Section("missing", "Not in this report", sentences=list(dict.fromkeys(sentences))))
        return there

    def _overview(self) -> Section:
        differences = report_tables.differences(self.runs)
        tables = [report_tables.overview(self.runs), *([differences] if differences else [])]
        same = [] if differences else ["Their recipes do not differ, or are not known."]
        return Section("runs", "Runs", tables=tables, sentences=same)

    def _loss(self) -> Section:
        figures, choices = list[PageFigure](), list[tuple[str, str]]()
        for axis in panels.axes(self.runs):
            drawn = self._drawn(panels.loss_and_metrics(self.runs, axis), f"over-{axis.key}", kept=axis.key == "step")
            figures += drawn
            choices += [(axis.key, axis.key if axis.key != "step" else "steps")] if drawn else []
        return Section(
            "loss", "Loss and metrics", figures, sentences=[] if figures else [_CURVES],
            choices=choices if len(choices) > 1 else [],
        )  # fmt: skip

    def _curves(self, id: str, title: str, of: Sequence[panels.PanelsOf], missing: str) -> Section:
        axis = panels.axes(self.runs)[0]
        figures = [figure for one in of for figure in self._drawn(one(self.runs, axis))]
        return Section(id, title, figures, sentences=[] if figures else [missing])

    def _ranks_and_memory(self) -> list[Section]:
        """Return the section of ranks and memory, and sections without content for what is not recorded."""
        axis = panels.axes(self.runs)[0]
        ranks, memory = self._drawn(panels.ranks(self.runs, axis)), self._drawn(panels.memory(self.runs, axis))
        tables = [table for run in self.runs if (table := report_tables.slowest(run, self._of(run))) is not None]
        words = (
            "Ranks: milliseconds of a step that they spend in their own data and forward passes, every 10 steps. In "
            "later stages, a slow rank makes all ranks slow alike."
        )
        missing = [
            *([] if ranks else [("Ranks", "Their times are recorded every 10 steps of a run on several ranks.")]),
            *([] if memory else [("Memory", "That of a device is recorded, not that of a CPU.")]),
        ]
        title = " and ".join(name for name, there in (("Ranks", ranks), ("memory", memory)) if there).capitalize()
        there = Section("ranks", title, [*ranks, *memory], tables, [words] if ranks else [])
        return [there, *(Section(name, name, sentences=[sentence]) for name, sentence in missing)]

    def _of(self, run: RunData) -> str:
        """Return the name of a run for the titles of a page of several."""
        return f" of {run.name}" if len(self.runs) > 1 else ""

    def _time(self) -> Section:
        figures, tables, sentences = list[PageFigure](), list[PageTable](), list[str]()
        for number, run in enumerate(self.runs):
            if run.seconds is None or run.seconds.total <= 0 or not run.spans:
                sentences.append(f"{run.name} has no ledger of its seconds (earlier launchers wrote none).")
                continue
            for wide in (True, False):
                name = f"time-line-{number}{'' if wide else '-narrow'}"
                title = f"Time line{self._of(run)}"
                drawn = time_line.draw(name, title, run.spans, run.marks, wide)
                figures.append(self._figure(drawn, "wide" if wide else "narrow", kept=wide))
            found = [] if len(self.runs) > 1 else [report_tables.seconds(run)]
            found.append(report_tables.events(run, self._of(run)))
            tables += [table for table in found if table is not None]
            share = f"{run.seconds.goodput:.1%} of the time since the first start went into steps that count (goodput)."
            sentences.append(f"{run.name}: {share}" if len(self.runs) > 1 else share)
        if len(self.runs) > 1 and figures:
            tables.insert(0, report_tables.shares(self.runs))
        groups = {time_line.GROUPS[purpose] for run in self.runs for span in run.spans for purpose in span}
        legend = [(group, name) for group, name in time_line.GROUP_NAMES.items() if group in groups]
        return Section("time", "Where the time went", figures, tables, sentences, legend=legend)

    def _evaluations(self) -> list[Section]:
        """Return the section of evaluations, and sections without content for what is not there."""
        found = [report_tables.evaluations(run, self._of(run)) for run in self.runs]
        missing = list[Section]()
        if not any(found):
            sentence = "None was recorded: data.validation and evaluate.every of a recipe make a run evaluate."
            missing.append(Section("none", "Evaluations", sentences=[sentence]))
        confusions, sentences = list[Confusion](), list[str]()
        run, how = self.runs[0], f"launcher evaluate {self.runs[0].status.folder}"
        if len(self.runs) == 1 and run.evaluation is not None:
            found += [report_tables.classes(run.evaluation), report_tables.matrix(run.evaluation)]
            confusions = report_tables.confusions(run.evaluation)
            if confusions and not any(one.examples for one in confusions):
                sentences = [f"The evaluation has no examples of confusions. To add them: {how}"]
        elif len(self.runs) == 1 and _classifies(run):
            sentence = f"Scores, the confusion matrix and examples of confusions come from: {how}"
            missing.append(Section("classes", "Classes", sentences=[sentence]))
        tables = [table for table in found if table is not None]
        there = Section("evaluations", "Evaluations", tables=tables, sentences=sentences, confusions=confusions)
        return [there, *missing]

    def _recipes(self) -> Section:
        texts = [(f"Recipe{self._of(run)}", run.recipe_text) for run in self.runs if run.recipe_text]
        for run in self.runs:
            lines = [f"{name}: {value}" for name, value in report_tables.facts(run)]
            texts += [(f"Versions{self._of(run)}", "\n".join(lines))] if lines else []
        missing = [] if texts else ["It is missing."]
        return Section("recipe", "Recipe" if len(self.runs) == 1 else "Recipes", texts=texts, sentences=missing)

    def _drawn(self, found: Sequence[Panel], kind: str = "", kept: bool = True) -> list[PageFigure]:
        return [self._figure(drawing.draw(panel), kind, kept) for panel in found]

    def _figure(self, drawn: Drawing, kind: str, kept: bool) -> PageFigure:
        if kept:
            self.drawings.append(drawn)
        return PageFigure(svg.inline(drawn), kind)


def _classifies(run: RunData) -> bool:
    task = run.recipe.get("task")
    return isinstance(task, dict) and "classification" in str(task.get("kind"))
