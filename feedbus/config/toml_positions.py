"""Find the line and column of every table, key and value of a TOML text.

The text may have syntax errors. A part that cannot be read has no position of its own.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping

import tree_sitter_toml
from tree_sitter import Language, Node, Parser

from feedbus.config.key_paths import KeyPath

Place = tuple[int, int]
BARE = re.compile(r"[A-Za-z0-9_-]+")


class Places:
    """The line and column, from 1, of each key and value of one TOML text.

    A column counts characters. A path is a tuple of the keys and indexes from the root to a value.
    Report.problems() makes an object for each file with problems.

    Attributes:
        repeated: for each repetition of a key or table: its path, the position of the repetition,
            and the first position.

    """

    def __init__(self, text: str) -> None:
        """Find the positions in a TOML text; parts with syntax errors are left out."""
        self._keys: dict[KeyPath, Place] = {}
        self._values: dict[KeyPath, Place] = {(): (1, 1)}
        self._headers: set[KeyPath] = {()}
        self._written: dict[KeyPath, Place] = {}
        self.repeated: list[tuple[KeyPath, Place, Place]] = []
        self._lines = text.encode().split(b"\n")
        root = Parser(Language(tree_sitter_toml.language())).parse(text.encode()).root_node
        arrays: dict[KeyPath, int] = {}
        for node in root.named_children:
            if node.type == "pair":
                self._pair(node, ())
            elif node.type in {"table", "table_array_element"}:
                self._table(node, arrays)

    def key(self, path: KeyPath) -> Place:
        """Return the line and column, from 1, of the key at the end of a path.

        If the path has no key in the text, the result is the position of the nearest key above it.

        Args:
            path: the keys and indexes from the root of the document.

        """
        return _closest(self._keys, path, self._values[()])

    def value(self, path: KeyPath) -> Place:
        """Return the line and column, from 1, of the value at a path.

        If the path has no value in the text, the result is the position of the nearest table above
        it.

        Args:
            path: the keys and indexes from the root of the document.

        """
        return _closest(self._values, path, self._values[()])

    def names(self, path: KeyPath) -> tuple[str, str]:
        """Return the table that contains a value, and the value's key in this table, as TOML text.

        Args:
            path: the keys and indexes from the root to the value.

        """
        length = len(path)
        while path[:length] not in self._headers:
            length -= 1
        return write(path[:length]), write(path[length:])

    def _table(self, node: Node, arrays: dict[KeyPath, int]) -> None:
        header = next((child for child in node.named_children if child.type in KEYS), None)
        if header is None or header.has_error:
            return
        path = self._name(header, (), arrays)
        if node.type == "table_array_element":
            arrays[path] = arrays.get(path, -1) + 1
            if not arrays[path]:
                self._values[path] = self._at(node)
            path = (*path, arrays[path])
        self._once(path, self._at(node))
        self._values[path] = self._at(node)
        self._headers.add(path)
        for child in node.named_children:
            if child.type == "pair":
                self._pair(child, path)

    def _pair(self, node: Node, base: KeyPath) -> None:
        if node.has_error:
            return
        key, value = named(node)
        path = self._name(key, base, {})
        self._once(path, self._at(key))
        self._value(value, path)

    def _once(self, path: KeyPath, place: Place) -> None:
        """Store the first position of a key or a table; add a later position to `repeated`."""
        first = self._written.setdefault(path, place)
        if first != place:
            self.repeated.append((path, place, first))

    def _name(self, node: Node, base: KeyPath, arrays: Mapping[KeyPath, int]) -> KeyPath:
        """Store the position of each part of a dotted key.

        Args:
            node: the dotted key in the syntax tree.
            base: the path of the table that contains the key.
            arrays: the index of the current table in each array of tables.

        Returns:
            The path of the table, followed by the parts of the key.

        """
        path = base
        for part in parts(node):
            if path in arrays:
                path = (*path, arrays[path])
            path = (*path, decode(part))
            self._keys.setdefault(path, self._at(part))
            self._values.setdefault(path, self._at(part))
        return path

    def _value(self, node: Node, path: KeyPath) -> None:
        self._values[path] = self._at(node)
        if node.type == "inline_table":
            for child in node.named_children:
                if child.type == "pair":
                    self._pair(child, path)
        elif node.type == "array":
            for index, element in enumerate(named(node)):
                self._value(element, (*path, index))

    def _at(self, node: Node) -> Place:
        row, byte = node.start_point
        return row + 1, len(self._lines[row][:byte].decode()) + 1


# The types of keys in the syntax tree.
KEYS = {"bare_key", "quoted_key", "dotted_key"}


def write(path: KeyPath) -> str:
    """Return a path in TOML's notation, such as `a.b`, `a."b.c"` or `a[1]`.

    Args:
        path: the keys (texts) and indexes (integers) from the root to a value.

    """
    written = ""
    for step in path:
        if isinstance(step, int):
            written += f"[{step}]"
        else:
            name = step if BARE.fullmatch(step) else json.dumps(step, ensure_ascii=False)
            written += f".{name}" if written else name
    return written


def named(node: Node) -> list[Node]:
    """Return the children of a node of the syntax tree (tree-sitter), without comments.

    For a pair, the result is the key and the value; for an array, the elements.
    """
    return [child for child in node.named_children if child.type != "comment"]


def _closest(places: Mapping[KeyPath, Place], path: KeyPath, otherwise: Place) -> Place:
    """Return the position of a path, or of the nearest path above it that has a position.

    If there is none, return `otherwise`.
    """
    for length in range(len(path), -1, -1):
        if path[:length] in places:
            return places[path[:length]]
    return otherwise


def parts(node: Node) -> list[Node]:
    """Return the nodes of a key's parts in the syntax tree; a key without dots has one part."""
    if node.type != "dotted_key":
        return [node]
    return [part for child in node.named_children for part in parts(child)]


def decode(node: Node) -> str:
    """Return the text of one part of a key; a part with an invalid escape keeps its quotes.

    Args:
        node: the part in the syntax tree (tree-sitter): a bare or a quoted key.

    """
    text = (node.text or b"").decode()
    try:
        return text if node.type == "bare_key" else next(iter(tomllib.loads(f"{text} = 0")))
    except tomllib.TOMLDecodeError:
        return text
