"""The row of mutated topology files: `feedbus check` accepts them, or names places.

`check` runs in this process, by the command line's own entry. A file that fails is printed with
the number of its case: the same seed makes the same files.
"""

from __future__ import annotations

import json
import random
import re
import shutil
import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import chdir
from pathlib import Path
from typing import Any

from click.testing import CliRunner

from feedbus.cli import main
from tests.chaos.faults.cells import Cell
from tests.chaos.faults.results import Result
from tests.chaos.faults.toml_values import places_of_values
from tests.chaos.faults.verdict import Verdict
from tests.projects import ROOT

SECONDS = 30  # a check that takes longer does not end
MOST_MUTATIONS = 3
TOKEN = re.compile(r'"[^"\n]*"|[\w.+-]+|[^\w\s]')
PLACED = re.compile(r".*topology\.toml:[1-9]\d*:[1-9]\d*: \S")
VALUES = [
    *("0", "-1", "1", "4", "1.5", "1e400", "inf", "-inf", "nan", "9223372036854775808", "0x10"),
    *("true", "false", "True", '""', '"\\u0000"', '"\\ud800"', '"${X}"', '"${"', '"a" "b"'),
    *("1979-05-27", "07:32:00", "1979-05-27T07:32:00Z", "[]", "[[]]", "{}", "{ a = 1 }"),
    *('"1s"', '"-1s"', '"1GB"', '"99999999999999999999d"', "'''\n'''", '"\U0001f600"', "'\\'"),
]
CHARACTERS = list("\"'[]{}=,.#\\\n\t \x00\x7f\u202eé€\U0001f600-_0aZ")


def sources() -> list[str]:
    """Return the topology files of this repository."""
    found = [ROOT / "topology.toml", *(ROOT / "examples").glob("*/topology.toml")]
    return [path.read_text() for path in [*sorted(found), *ROOT.glob("tests/**/topology.toml")]]


def vocabulary() -> list[str]:
    """Return the names of all options, and the values that the schema knows."""
    words: set[str] = set()

    def walk(schema: Any) -> None:
        if isinstance(schema, dict):
            words.update(map(str, schema.get("properties", ())))
            words.update(json.dumps(each) for each in schema.get("enum", ()))
            for each in schema.values():
                walk(each)
        elif isinstance(schema, list):
            for each in schema:
                walk(each)

    walk(json.loads((ROOT / "topology.schema.json").read_text()))
    return sorted(words)


def kind_of(token: str) -> str:
    """Return what a token is: a text, a number, a word, or the character itself."""
    if token[:1] in {'"', "'"}:
        return "text"
    if token[:1].isdigit() or token[:1] in "+-":
        return "number"
    return "word" if token[:1].isalpha() else token


class Mutator:
    """Makes topology files that are almost right."""

    def __init__(self, chance: random.Random) -> None:
        self._random = chance
        self._sources = sources()
        self._words = [*vocabulary(), *VALUES]
        self._lines = [line for text in self._sources for line in text.splitlines()]

    def file(self) -> str:
        """Return the next file."""
        text = self._random.choice(self._sources)
        for _ in range(self._random.randint(1, MOST_MUTATIONS)):
            changes = (self._token, self._value, self._line, self._character)
            text = self._random.choices(changes, (5, 3, 3, 1))[0](text)
        return text

    def _token(self, text: str) -> str:
        """Replace a token by another one, mostly of its kind: of the file, or of the vocabulary."""
        tokens = list(TOKEN.finditer(text))
        if not tokens:
            return text
        chosen = self._random.choice(tokens)
        same = [each[0] for each in tokens if kind_of(each[0]) == kind_of(chosen[0])]
        words = [each for each in self._words if kind_of(each) == kind_of(chosen[0])]
        choices = [same, same, words or same, self._words]
        word = self._random.choice(self._random.choice(choices))
        return text[: chosen.start()] + word + text[chosen.end() :]

    def _value(self, text: str) -> str:
        """Replace a value, add one beside it, or make an array of both; or remove the value.

        Half of the values are in an array or an inline table: each of its values is chosen alone.
        """
        places = list(places_of_values(text))
        inner_places = [place for place in places if place[2]]
        if inner_places and self._random.random() < 0.5:
            places = inner_places
        if not places:
            return text
        start, end, _ = self._random.choice(places)
        old = text[start:end]
        new = self._random.choice([self._random.choice(VALUES), self._random.choice(self._words)])
        changed = [new, f"{old}, {new}", f"{new}, {old}", f"[{old}, {new}]", f"[{new}]", ""]
        return text[:start] + self._random.choice(changed) + text[end:]

    def _line(self, text: str) -> str:
        """Remove a line, repeat one, or add one of any file or one with any option."""
        lines = text.splitlines()
        place = self._random.randrange(len(lines) + 1)
        option = f"{self._random.choice(self._words)} = {self._random.choice(self._words)}"
        lines[place : place + self._random.randint(0, 1)] = self._random.choice(
            ([], [self._random.choice(self._lines)], [option], lines[place : place + 1] * 2)
        )
        return "\n".join(lines) + "\n"

    def _character(self, text: str) -> str:
        """Remove, replace or insert a character, or cut the file."""
        place = self._random.randrange(len(text) + 1)
        if self._random.random() < 0.05:
            return text[:place]
        inserted = self._random.choice(["", *CHARACTERS])
        return text[:place] + inserted + text[place + self._random.randint(0, 1) :]


def run(cell: Cell, folder: Path) -> Result:
    """Check mutated files, in a folder with the modules that they name."""
    for module in [
        *ROOT.glob("examples/*/*.py"),
        *ROOT.glob("tests/chaos/faults/application/*.py"),
    ]:
        if not module.name.startswith("test_"):
            shutil.copy(module, folder)
    path, mutator, runner = folder / "topology.toml", Mutator(cell.random), CliRunner()
    outcomes: Counter[str] = Counter()
    verdict = Verdict()
    with chdir(folder):  # the modules may create files in the working directory
        for number in range(cell.size):
            text = mutator.file()
            path.write_bytes(text.encode(errors="surrogatepass"))
            outcome, wrong = checked(runner, path)
            outcomes[outcome] += 1
            verdict.other += [f"case {number}: {each}\n{text}" for each in wrong]
    return cell.result("none", f"{cell.size:,} files", outcomes, verdict)


def checked(runner: CliRunner, path: Path) -> tuple[str, list[str]]:
    """Run `feedbus check` on a file; return how it ended, and the problem with that."""
    signal.alarm(SECONDS)
    try:
        done = runner.invoke(main, ["--topology", str(path), "check"])
    finally:
        signal.alarm(0)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        return "an exception", [f"{type(done.exception).__name__}: {done.exception}"]
    if done.exit_code == 0:
        return "accepted", []
    lines = done.stdout.splitlines()
    wrong = [f"a problem without a place: {line}" for line in unplaced(lines)]
    if done.exit_code != 1 or not lines:
        wrong.append(f"exit code {done.exit_code} with {len(lines)} problems: {done.output}")
    return "refused with places", wrong


def unplaced(lines: list[str]) -> Iterator[str]:
    """Yield the problems that do not begin with FILE:LINE:COLUMN."""
    return (line for line in lines if not PLACED.match(line))
