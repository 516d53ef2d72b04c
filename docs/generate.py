"""Write the reference pages from the code: python docs/generate.py.

Each page of docs/reference is written here, or in part between two comments: topology.toml from
its declaration, the commands from click, the Python names from their docstrings, the metrics from
their catalogue. The result is committed, so it can be read where no site is built; a test
compares it.
"""

from __future__ import annotations

import enum
import inspect
import re
import textwrap
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path

import click

REFERENCE = Path(__file__).parent / "reference"
SECTIONS = ("Args", "Raises", "Returns", "Yields", "Attributes")
NOT_RUN = "<!-- not run: it is the example of a docstring -->"
SIGNATURE_WIDTH = 88


def commands() -> str:
    """Return the reference of the command line."""
    from feedbus.cli import main

    context = click.Context(main, info_name="feedbus", **main.context_settings)
    return "\n".join(_commands(main, context))


def _commands(command: click.Command, context: click.Context) -> Iterator[str]:
    from feedbus.cli import json_fields

    yield f"## `{context.command_path}`\n"
    if command.help:
        yield f"{_unwrapped(command.help)}\n"
    arguments = command.collect_usage_pieces(context)
    yield f"```text\n{' '.join([context.command_path, *arguments])}\n```\n"
    options = [each for each in command.get_params(context) if isinstance(each, click.Option)]
    rows = [each.get_help_record(context) for each in options if not each.hidden]
    shown = [row for row in rows if row is not None and "--help" not in row[0]]
    if shown:
        yield "| option | meaning |\n|---|---|"
        yield from (f"| `{_cell(name)}` | {_cell(meaning)} |" for name, meaning in shown)
        yield ""
    if command.epilog:
        examples = command.epilog.replace("\b\n", "").partition("\n")[2]
        yield f"Examples:\n\n```text\n{textwrap.dedent(examples).rstrip()}\n```\n"
    name = context.command_path.removeprefix("feedbus ")
    if name in json_fields.FIELDS:
        yield json_fields.markdown(name)
    if isinstance(command, click.Group):
        for name in _built_in(command, context):
            child = command.get_command(context, name)
            if child is not None:
                yield from _commands(child, click.Context(child, context, info_name=name))


def _built_in(group: click.Group, context: click.Context) -> list[str]:
    """Return feedbus's own commands: those of a topology are not among them."""
    from feedbus.cli import COMMANDS

    return [*COMMANDS] if context.parent is None else group.list_commands(context)


def _unwrapped(text: str) -> str:
    paragraphs = textwrap.dedent(text).replace("\b", "").strip().split("\n\n")
    return "\n\n".join(" ".join(each.split()) for each in paragraphs)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def names(module_name: str) -> str:
    """Return the reference of what a module exports, from signatures and docstrings."""
    module = import_module(module_name)
    above = () if module_name == "feedbus" else import_module("feedbus").__all__
    parts = [
        _name(module_name, name, getattr(module, name))
        for name in sorted(module.__all__)
        if name not in above
    ]
    return "\n".join(parts)


def _name(module: str, name: str, value: object) -> str:
    lines = [f"### `{module}.{name}`\n"]
    if inspect.isclass(value):
        lines += _class(name, value)
    elif callable(value):
        lines += [_signature(name, value), _docstring(value)]
    return "\n".join(lines)


def _class(name: str, value: type) -> Iterator[str]:
    if not issubclass(value, (BaseException, enum.Enum)) or "__init__" in vars(value):
        yield _signature(name, value)
    yield _docstring(value)
    for member, function in inspect.getmembers(value, _is_method):
        defined = next(each for each in value.__mro__ if member in vars(each))
        if not member.startswith("_") and defined.__module__.startswith("feedbus"):
            yield f"#### `{name}.{member}`\n"
            raw = inspect.getattr_static(value, member)
            if isinstance(raw, property):
                yield _docstring(raw)
            else:
                yield _signature(member, function)
                yield _docstring(function)


def _is_method(value: object) -> bool:
    return inspect.isfunction(value) or inspect.ismethod(value) or isinstance(value, property)


def _signature(name: str, value: Callable[..., object]) -> str:
    try:
        signature = inspect.signature(value)
    except (TypeError, ValueError):
        return ""
    from feedbus.records.publish_arguments import NO_KEY

    parameters = [
        each.replace(default=object()) if each.default is NO_KEY else each  # shown as …, not ""
        for each in signature.parameters.values()
        if each.name not in {"self", "cls"}
    ]
    shown = signature.replace(parameters=parameters)
    prefix = "async " if inspect.iscoroutinefunction(value) else ""
    text = _plain(f"{prefix}{name}{shown}")
    if len(text) > SIGNATURE_WIDTH and parameters:
        inside = textwrap.indent(",\n".join(_one_by_one(shown)), "    ")
        text = f"{prefix}{name}(\n{inside},\n){text[text.rindex(')') + 1 :]}"
    return f"```text\n{text}\n```\n"


def _one_by_one(signature: inspect.Signature) -> Iterator[str]:
    keyword_only = False
    for each in signature.parameters.values():
        if each.kind is each.KEYWORD_ONLY and not keyword_only:
            keyword_only = True
            yield "*"
        yield _plain(str(each))


def _plain(signature: str) -> str:
    """Return a signature without the quotes of annotations and the addresses of defaults."""
    text = re.sub(r"(: |-> )'([^']*)'", r"\1\2", signature).replace("''", '""')
    return re.sub(r"<factory>|<[^>]*object at [^>]*>", "…", text)


def _docstring(value: object) -> str:
    """Return a docstring as Markdown: Google's sections become lists."""
    text = inspect.getdoc(value) or ""
    lines: list[str] = []
    section = ""
    text, _, example = text.partition("\nExample:\n    ")
    for line in text.splitlines():
        heading = line.rstrip(":")
        if heading in SECTIONS and line.endswith(":"):
            section = heading
            lines.append(f"**{heading}**\n")
        elif section and line.startswith("    "):
            lines.append(_item(line, section))
        else:
            section = section if not line else ""
            lines.append(line)
    if example:
        code = textwrap.dedent(f"    {example}").rstrip()
        language = "pycon" if code.startswith(">>>") else "python"
        lines.append(f"\n**Example**\n\n{NOT_RUN}\n```{language}\n{code}\n```")
    return "\n".join(lines).rstrip() + "\n"


def _item(line: str, section: str) -> str:
    stripped = line[4:]
    name = re.match(r"(\*{0,2}[\w., |]+?): (.*)", stripped)
    if section in {"Args", "Raises", "Attributes"} and name and not stripped.startswith(" "):
        return f"- `{name[1]}`: {name[2]}"
    return f"  {stripped.strip()}" if section in {"Args", "Raises", "Attributes"} else stripped


def metrics() -> str:
    """Return the reference of the metrics."""
    from feedbus.metrics import catalogue

    families = [*catalogue.RECORDED.values(), *catalogue.GAUGES.values(), catalogue.UNREADABLE]
    lines = ["| metric | kind | labels | meaning |", "|---|---|---|---|"]
    lines += [
        f"| `{each.name}` | {each.kind} | {', '.join(each.labels)} | {_cell(each.meaning)} |"
        for each in families
    ]
    return "\n".join(lines) + "\n"


def options() -> str:
    """Return the reference of topology.toml."""
    from feedbus.config import reference

    return reference.markdown()


def events() -> str:
    """Return the events that feedbus logs."""
    from feedbus.logs import catalogue

    return catalogue.markdown()


PARTS: dict[tuple[str, str], Callable[[], str]] = {
    ("topology.md", "options"): options,
    ("cli.md", "commands"): commands,
    ("metrics.md", "metrics"): metrics,
    ("logs.md", "events"): events,
    ("python.md", "feedbus"): lambda: names("feedbus"),
    ("python.md", "feedbus.testing"): lambda: names("feedbus.testing"),
}


def generated(page: str) -> str:
    """Return a page of the reference with its generated parts as the code has them now."""
    text = (REFERENCE / page).read_text()
    for (name, part), write in PARTS.items():
        if name == page:
            begin, end = f"<!-- generated: {part} -->\n", f"<!-- end: {part} -->"
            head, _, rest = text.partition(begin)
            tail = rest.partition(end)[2]
            text = f"{head}{begin}\n{write().strip()}\n\n{end}{tail}"
    return text


def main() -> None:
    """Write every page."""
    for page in sorted({name for name, _ in PARTS}):
        (REFERENCE / page).write_text(generated(page))


if __name__ == "__main__":
    main()
