"""What ships is under the licences that the package names, and their texts ship with it, as their authors wrote them."""

import hashlib
import re
import tomllib
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
SOURCES = (ROOT / "src/m2fedsa/data/embedded/digits/SOURCES.md").read_text(encoding="utf-8")


def git_name(path):
    """What git calls a file of this content, here and in the repository that it came from."""
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def test_every_licence_of_the_expression_has_its_text():
    wanted = PROJECT["license"].split(" AND ")
    assert wanted[0] == "Apache-2.0"
    assert {path.stem for path in (ROOT / "LICENSES").glob("*.txt")} == set(wanted[1:])
    shipped = [path.relative_to(ROOT).as_posix() for path in (ROOT / "LICENSE", *(ROOT / "LICENSES").iterdir())]
    assert all(any(fnmatchcase(path, pattern) for pattern in PROJECT["license-files"]) for path in shipped)


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("MIT.txt", "8a73415abfcac6718eceb2c42d5e993c69a698d9"),
        ("LicenseRef-Unicode-CLDR-37.txt", "35b16cdc2a572c9d4ac56d906444130bb0e72e89"),
    ],
)
def test_a_text_is_that_of_its_source(file, name):
    """To the byte: the object of the source's own LICENSE at the commit that SOURCES.md names."""
    assert git_name(ROOT / "LICENSES" / file) == name


def test_every_source_has_a_licence_here():
    licences = [row.split("|")[3] for row in SOURCES.splitlines() if re.match(r"\| (images|recordings|words) ", row)]
    assert len(licences) == 3
    for licence, expected in zip(licences, ("MIT", "CC BY-SA 4.0", "Unicode licence"), strict=True):
        assert expected in licence
