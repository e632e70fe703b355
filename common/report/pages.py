"""Write the report over all seeds: results.csv, report.html, and the same page as report.md.

    python -m common.report.pages    # seconds; reads what the scripts left in --output-dir

Imports no torch.
"""

import ast
import base64
import dataclasses
import tempfile
from pathlib import Path
from typing import Any

import jinja2
import pandas

from common import results, run
from common.figures import style
from common.report import answers, comparisons, verdicts
from common.report import numbers as tables
from common.report.comparisons import Corrected
from common.report.numbers import Published

SAME_FOLDERS = "; with the --data-dir and --output-dir that the others had"
# Pictures come before curves; figures that are in neither list stand between them.
PICTURES = ["claims.png", "pens.png", "digits.png", "reconstructions.png", "mistakes.png"]
CURVES = ["loss.png", "autoencoder_loss.png", "accuracy.png", "classifier.png", "curves.png"]


@dataclasses.dataclass(frozen=True)
class Figure:
    """A figure of the first seed, and the texts that the file holds."""

    path: Path
    link: str  # relative to the output folder
    title: str
    caption: str

    def data_uri(self) -> str:
        """Return the file as a data URI."""
        return "data:image/png;base64," + base64.b64encode(self.path.read_bytes()).decode()


@dataclasses.dataclass(frozen=True)
class Section:
    """What the pages show of a step: its figures for the first seed, its numbers over all."""

    step: str
    anchor: str
    short_name: str
    question: str
    heading: str  # of a study its answer, which is the title of its first figure
    command: str
    seeds: str  # over how many it was measured
    figures: list[Figure]
    table: pandas.DataFrame
    compared: list[Corrected]  # empty for a question: its sentences have verdicts

    def is_study(self) -> bool:
        """Return whether it is one of the further questions."""
        return "/" in self.step


def write(output_dir: Path) -> Path:
    """Write the three files from what is in ``output_dir``, and return the path of report.html."""
    published = tables.read(output_dir)
    content = {
        "answers": answers.answer_all(published.numbers),
        "claims": verdicts.judge_all(published.numbers),
        "sections": [section(published, output_dir, step) for step in published.firsts],
        "seeds": sorted(published.numbers.seed.unique()),
        "notices": notices(published),
        "environment": environment(published),
        "can_draw": (output_dir / "draw.html").exists(),
    }
    csv = published.numbers.to_csv(index=False, float_format="%.6g")
    write_whole(output_dir / "results.csv", csv)
    write_whole(output_dir / "report.md", render("template.md", content))
    return write_whole(output_dir / "report.html", render("template.html", content))


def section(published: Published, output_dir: Path, step: str) -> Section:
    """Return what the pages show of a step."""
    first = published.firsts[step]
    names = [name for name in first.config["files_sha256"] if name.endswith(".png")]
    paths = sorted((first.folder / name for name in names), key=place)
    figures = []
    for path in paths:
        title, caption = style.texts(path)
        figures.append(Figure(path, path.relative_to(output_dir).as_posix(), title, caption))
    asked = question(step)
    has_answer = "/" in step and figures
    return Section(
        step=step,
        anchor=step.replace("/", "-"),
        short_name=short_name(step),
        question=asked,
        heading=figures[0].title if has_answer else asked,
        command=first.config["command"],
        seeds=count_seeds(published, step),
        figures=figures,
        table=tables.table(published.numbers, step),
        compared=comparisons.of_step(published.numbers, step),
    )


def count_seeds(published: Published, step: str) -> str:
    """Return over how many seeds a step was measured; one study reads what other runs left."""
    if step == "studies/other_data":
        return "means over the seeds of each data set"
    count = published.numbers[published.numbers.step == step].seed.nunique()
    return "1 seed" if count == 1 else f"{count} seeds"


def question(step: str) -> str:
    """Return a script's question, with which it begins. It is not imported: that loads torch."""
    script = run.REPOSITORY / f"{step}.py"
    docstring = ast.get_docstring(ast.parse(script.read_text("utf-8")))
    return " ".join(docstring.partition("\n\n")[0].split())


def short_name(step: str) -> str:
    """Return what a step is called in the contents: Q1, or "label curve" of a study."""
    name = step.rpartition("/")[2]
    return name.replace("_", " ") if name != step else name.partition("_")[0].upper()


def place(path: Path) -> tuple[int, str]:
    """Return a figure's place in its section, for sorting."""
    if path.name in PICTURES:
        return PICTURES.index(path.name), path.name
    return len(PICTURES) + (path.name in CURVES), path.name


def notices(published: Published) -> list[str]:
    """Return what a reader has to know of results that are missing, left out or out of date."""
    lines = []
    if any(result.config["options"].get("quick") for result in published.firsts.values()):
        lines.append("Of a quick run, on a tenth of the images: no number here is worth keeping.")
    names = {result.config["options"]["dataset"] for result in published.firsts.values()}
    if names - {"mnist"}:
        lines.append(f'Of {", ".join(sorted(names))}: a "digit" is a class of its images.')
    scripts = sorted(path.stem for path in run.REPOSITORY.glob("q[1-9]_*.py"))
    missing = []
    for name in scripts:
        if name not in published.firsts and name not in published.left_out:
            missing.append(f"python {name}.py")
    if missing:
        lines.append(f"This report is partial. Missing: {'; '.join(missing)}{SAME_FOLDERS}.")
    if published.left_out:
        left_out = [f"{name} ({reason})" for name, reason in published.left_out.items()]
        lines.append(f"Not in the numbers: {', '.join(left_out)}{SAME_FOLDERS}.")
    changed = []
    for step, result in published.firsts.items():
        if results.code_sha256(result.config["code_files"]) != result.config["code_sha256"]:
            changed.append(step)
    if changed:
        lines.append(f"Made by other code than there is now: {', '.join(changed)}.")
    return lines


def environment(published: Published) -> dict[str, list[str]]:
    """Return what the first seed's results were made with: different values by name."""
    values: dict[str, dict[str, None]] = {}  # the inner one as an ordered set
    for result in published.firsts.values():
        config: dict[str, Any] = result.config
        versions = ", ".join(f"{name} {version}" for name, version in config["versions"].items())
        found = {
            "dataset": config["options"]["dataset"],
            "data, sha256": config["data_sha256"],
            "device, threads": f"{config['device']}, {config['threads']}",
            "versions": versions,
            "commit": config["git_commit"] or "unknown",
        }
        for name, value in found.items():
            values.setdefault(name, {})[value] = None
    return {name: list(of_name) for name, of_name in values.items()}


def render(name: str, content: dict[str, Any]) -> str:
    """Return a page from the template of that name beside this file."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=name.endswith(".html"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template(name).render(content)


def write_whole(path: Path, text: str) -> Path:
    """Write a text to ``path``, whole or not at all, and return the path."""
    with tempfile.TemporaryDirectory(prefix=f".{path.name}-", dir=path.parent) as beside:
        written = Path(beside, path.name)
        written.write_text(text, encoding="utf-8")
        return written.replace(path)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    output_dir: Path = run.REPOSITORY / "outputs"
    """Folder of the results."""


def main(config: Config) -> None:
    """Write the report and say where it is."""
    print(f"report: {write(config.output_dir)}")


if __name__ == "__main__":
    run.command_line(main, Config)
