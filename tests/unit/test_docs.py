"""What the documents point at is there: functions that paper.md names, files and headings behind links, commands of the README."""

import ast
import re
import shlex
from pathlib import Path

import click
import pytest
import typer

from m2fedsa.baselines.methods import METHODS
from m2fedsa.cli import app
from m2fedsa.recipes import RECIPES

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "m2fedsa"
DOCUMENTS = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
FILE = re.compile(r"`(?P<file>[\w/]+\.py)(?:: (?P<name>[\w.]+))?`")
FURTHER = re.compile(r", `(?P<name>[A-Za-z_][\w.]*)`")


def defined_in(path):
    """Names of the classes, functions and methods of a file: `Tail`, `Tail.forward`."""
    names = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            names.add(node.name)
        if isinstance(node, ast.ClassDef):
            names |= {f"{node.name}.{part.name}" for part in node.body if isinstance(part, ast.FunctionDef)}
            names |= {f"{node.name}.{part.target.id}" for part in node.body if isinstance(part, ast.AnnAssign)}
    return names


def named_in(line):
    """(file, names) of each file that a line of paper.md names; a name behind it without a class is one of the same class or file."""
    for found in FILE.finditer(line):
        names, end = [found["name"]] if found["name"] else [], found.end()
        while further := FURTHER.match(line, end):
            names.append(further["name"])
            end = further.end()
        yield found["file"], names


def test_every_function_that_the_paper_page_names_is_there():
    lines = (ROOT / "docs" / "paper.md").read_text(encoding="utf-8").splitlines()
    named = [one for line in lines if line.startswith("|") for one in named_in(line)]
    assert len(named) > 60
    for file, names in named:
        assert (PACKAGE / file).is_file(), file
        known = defined_in(PACKAGE / file)
        for name in names:
            assert name in known or any(one.endswith(f".{name}") for one in known), f"{file}: {name}"


def test_every_equation_and_every_difference_has_a_function():
    """Each row of the page's tables but those of how things are read."""
    text = (ROOT / "docs" / "paper.md").read_text(encoding="utf-8")
    tables = {part.partition("\n")[0]: part for part in text.split("\n## ")[1:]}
    for heading in (
        "Networks",
        "Losses",
        "One step, one round",
        "What this project adds",
        "Where this differs from the authors' released code",
    ):
        rows = [line for line in tables[heading].splitlines() if line.startswith("| ")][2:]
        assert len(rows) > 5, heading
        assert [row for row in rows if not list(named_in(row))] == [], heading


def anchor(heading):
    """The address that a heading gets."""
    return re.sub(r"[^\w -]", "", heading.strip().lower()).replace(" ", "-")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_link_leads_somewhere(document):
    for address in re.findall(r"\]\(([^)\s]+)\)", document.read_text(encoding="utf-8")):
        if re.match(r"https?:", address):
            continue
        file, _, place = address.partition("#")
        target = document.parent / file if file else document
        assert target.exists(), address
        if place:
            headings = re.findall(r"^#+ (.*)$", target.read_text(encoding="utf-8"), re.MULTILINE)
            assert place in map(anchor, headings), address


def commands():
    """Every `m2fedsa ...` line of a block in the README; what it says beside it is a comment to a shell."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    lines = [line for kind, block in blocks if not kind for line in block.splitlines() if line.startswith("m2fedsa ")]
    return [line.partition(" > ")[0].rstrip() for line in lines]


def test_the_readme_has_commands():
    assert len(commands()) >= 10


@pytest.mark.parametrize("line", commands())
def test_every_command_of_the_readme_can_be_typed(line):
    """Command and options are known; a recipe and its settings as well. None is run."""
    command, words = typer.main.get_command(app), shlex.split(line, comments=True)[1:]
    while isinstance(command, click.Group):
        command = command.commands[words.pop(0)]
    given = command.make_context("m2fedsa", words).params
    if given.get("target") in RECIPES:
        RECIPES[given["target"]]().override(given.get("settings") or [])


# --- figures ------------------------------------------------------------------------------------------------------------------------------


def test_the_studys_figures_in_the_readme_are_those_of_its_table():
    """Every method on `digits`, and what training adds."""
    readme, study = ((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "docs/study.md"))
    digits = study.partition("## digits\n")[2].partition("\n## ")[0].partition("\n### ")[0]
    known = {}
    for line in digits.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) > 5:
            known[cells[0]] = cells[3].split(" ")[0]
    lines = readme.splitlines()
    place = next(place for place, line in enumerate(lines) if line.startswith("| m2fedsa | centralised |"))
    heads, figures = ([cell.strip(" *") for cell in lines[place + more].strip("|").split("|")] for more in (0, 2))
    told = {name: figure for head, figure in zip(heads, figures, strict=True) for name in head.split(", ")}
    assert told == {name: known[name] for name in told}
    assert set(told) == set(METHODS)
    ((added, ours, theirs),) = re.findall(r"\| `digits` \| (\S+ ± \S+), for (\S+ MB) instead of (\S+ MB) \|", readme)
    (row,) = (
        line for line in study.splitlines() if line.startswith("| digits | m2fedsa |") and re.search(r"\| closed_form( \(|\s\|)", line)
    )
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert (f"+{added}", ours, theirs) == (cells[7], cells[3], cells[6])
