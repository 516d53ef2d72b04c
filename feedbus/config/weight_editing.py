"""Change weights in a topology file; comments, spaces and everything else stay unchanged."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import tree_sitter_toml
from tree_sitter import Language, Node, Parser

from feedbus import config
from feedbus.config.overwriting import overwrite
from feedbus.config.toml_positions import KEYS, decode, named, parts, write
from feedbus.errors import TopologyError, UsageError
from feedbus.topology import Topology

Keys = tuple[str, ...]
# One weight of a queue without shards, or the weight of each shard by its number.
Weights = int | Mapping[int, int]
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
LEAST_PAD = 2  # the smallest number of spaces between a value and its comment
# A new option of a queue is written after the first of these options that the queue has.
INSERT_AFTER = ("weight", "shards", "exchange", "handler")


def write_weights(weights: Weights) -> str:
    """Return the TOML text of weights: `weight = 2`, or `weights = { 0 = 19, 1 = 21 }`.

    Args:
        weights: one weight for a queue without shards, or the weight of each shard by its number.

    """
    return f"weight = {weights}" if isinstance(weights, int) else f"weights = {_table(weights)}"


def rewrite(topology: Topology, weights: Mapping[str, Weights]) -> Topology:
    """Set the weights of queues in the file of a topology, and return the new topology.

    Before the new text is written, it is loaded. It must give the same topology, except for these
    weights. The file keeps its path, links, owner and mode. `feedbus balance --write` calls the
    function.

    Args:
        topology: the topology, as it was loaded from the file.
        weights: maps each queue to one weight, or to the weight of each shard by its number.

    Raises:
        UsageError: the file has changed since it was loaded, or cannot be written; or a change of
            the weights would change something else, too.

    """
    try:
        return _replace(topology, weights)
    except OSError as error:
        msg = f"{topology.path}: cannot be written: {error.strerror or error}"
        raise UsageError(msg) from error


def _replace(topology: Topology, weights: Mapping[str, Weights]) -> Topology:
    path = topology.path
    whole = path.read_bytes()
    text = whole.removeprefix(BYTE_ORDER_MARK)
    mark = whole[: len(whole) - len(text)]
    for queue, wanted in weights.items():
        text = set_weights(text, queue, wanted)
    expected = weighted(topology, weights)
    _compare(text, topology.path, expected)
    overwrite(path, mark + text)
    return expected


def weighted(topology: Topology, weights: Mapping[str, Weights]) -> Topology:
    """Return a copy of a topology with other weights.

    Args:
        topology: the topology to copy.
        weights: maps each queue to one weight, or to the weight of each shard by its number. Other
            queues keep their weights.

    """
    queues = {
        name: replace(queue, weights=_row(weights[name])) if name in weights else queue
        for name, queue in topology.queues.items()
    }
    return replace(topology, queues=queues)


def set_weights(text: bytes, queue: str, weights: Weights) -> bytes:
    """Return the text of a topology file with the weights of one queue set.

    Args:
        text: the present text of the file, in UTF-8.
        queue: the name of the queue in the file.
        weights: the new weights: one weight for a queue without shards, or the weight of each shard
            by its number.

    Raises:
        UsageError: the text has no place where the weights can be written.

    """
    tree, table = _Tree(text), ("queues", queue)
    common, single = (*table, "weight"), (*table, "weights")
    if isinstance(weights, int):
        return tree.put(common, str(weights), table)
    has_pairs = single in tree.headers or any(path[:-1] == single for path in tree.pairs)
    if has_pairs and single not in tree.pairs:
        # The file has one pair for each shard: in the table [queues.NAME.weights], or with dotted
        # keys such as weights.0.
        for shard, weight in weights.items():
            tree = _Tree(tree.put((*single, str(shard)), str(weight), single))
    elif common in tree.pairs and single not in tree.pairs:  # `weight` becomes `weights`
        return tree.rename(common, "weights", _table(weights))
    else:
        tree = _Tree(tree.put(single, _table(weights), table))
    # `weights` now names all shards. A check refuses the option `weight` then, because it has no
    # effect.
    return tree.remove(common) if common in tree.pairs else tree.text


@dataclass(slots=True)
class _Tree:
    """The positions of the pairs NAME = VALUE and of the headers [TABLE] of a TOML text.

    Attributes:
        text: the text.
        pairs: maps the path of each pair to its node in the syntax tree.
        headers: maps the path of each table with a header to its node.

    """

    text: bytes
    pairs: dict[Keys, Node] = field(default_factory=dict)
    headers: dict[Keys, Node] = field(default_factory=dict)

    def __post_init__(self) -> None:
        root = Parser(Language(tree_sitter_toml.language())).parse(self.text).root_node
        for node in root.named_children:
            if node.type == "pair":
                self._add_pair(node, ())
            elif node.type == "table":
                path = _path(next(child for child in node.named_children if child.type in KEYS))
                self.headers[path] = node
                for child in node.named_children:
                    if child.type == "pair":
                        self._add_pair(child, path)

    def _add_pair(self, node: Node, table: Keys) -> None:
        """Store a pair of a table; if the value is an inline table, store its pairs, too."""
        key, value = named(node)
        path = table + _path(key)
        self.pairs[path] = node
        if value.type == "inline_table":
            for child in named(value):
                self._add_pair(child, path)

    def put(self, path: Keys, value: str, table: Keys) -> bytes:
        """Return the text with a new value at a path; a missing pair NAME = VALUE is added.

        Args:
            path: the path of the pair.
            value: the new value, as a TOML text.
            table: the path of the table to which a missing pair is added.

        Raises:
            UsageError: the pair and the table are both missing.

        """
        pair = self.pairs.get(path)
        if pair is not None:
            old = named(pair)[1]
            return self._fill(old.start_byte, old.end_byte, value)
        for neighbour in self._neighbours(table):
            return self._put_behind(neighbour, path[-1], value)
        if table in self.headers:
            header = self.headers[table]
            bracket = next(child for child in header.children if child.type == "]")
            return self._put_line(bracket.end_byte, f"{path[-1]} = {value}")
        msg = f"the topology has no table [{write(table)}]: add it with {path[-1]} = {value}"
        raise UsageError(msg)

    def rename(self, path: Keys, name: str, value: str) -> bytes:
        """Return the text with another name and another value of the pair at a path.

        If the new name is longer, spaces before the equals sign are removed, so that the equals
        sign stays in its column. The last space stays.
        """
        key, old = named(self.pairs[path])
        last = parts(key)[-1]
        between = self.text[last.end_byte : old.start_byte].decode()
        spare = len(between) - len(between.lstrip(" ")) - 1
        kept = between[max(min(len(name) - len(path[-1]), spare), 0) :]
        return self._fill(last.start_byte, old.end_byte, f"{name}{kept}{value}")

    def remove(self, path: Keys) -> bytes:
        """Return the text without a pair; a comment after the pair stays on its line."""
        node = self.pairs[path]
        table = node.parent
        if table is not None and table.type == "inline_table":
            pairs = named(table)
            place = pairs.index(node)
            if place:
                return self._splice(_end(pairs[place - 1]), _end(node), "")
            end = pairs[1].start_byte if len(pairs) > 1 else _end(node)
            return self._splice(node.start_byte, end, "")
        line = self.text.rfind(b"\n", 0, node.start_byte) + 1
        end = self.text.find(b"\n", _end(node)) + 1 or len(self.text)
        rest = self.text[_end(node) : end].lstrip().decode()
        return self._splice(line, end, rest)

    def _neighbours(self, table: Keys) -> Iterator[Node]:
        """Yield the pairs of a table; put() writes a new pair after the first one of the result.

        Pairs with names such as `weight` (INSERT_AFTER) come first. Then all pairs follow, from the
        last to the first.
        """
        found = {path[-1]: node for path, node in self.pairs.items() if path[:-1] == table}
        yield from (found[name] for name in INSERT_AFTER if name in found)
        yield from reversed(found.values())

    def _put_behind(self, neighbour: Node, name: str, value: str) -> bytes:
        """Return the text with a new pair after another pair of the same table."""
        key, old = named(neighbour)
        last = parts(key)[-1]
        prefix = self.text[key.start_byte : last.start_byte].decode()
        if neighbour.parent is not None and neighbour.parent.type == "inline_table":
            return self._splice(_end(neighbour), _end(neighbour), f", {prefix}{name} = {value}")
        line = self.text.rfind(b"\n", 0, key.start_byte) + 1
        indent = self.text[line : key.start_byte].decode()
        # The key is padded like its neighbour, so that the equals signs stay in one column.
        between = self.text[last.start_byte : old.start_byte].decode().partition("=")[0]
        return self._put_line(
            _end(neighbour), f"{indent}{prefix}{name:<{max(len(between) - 1, 0)}} = {value}"
        )

    def _put_line(self, place: int, line: str) -> bytes:
        """Return the text with a new line after the line that contains a byte offset."""
        ending = "\r\n" if b"\r\n" in self.text else "\n"
        end = self.text.find(b"\n", place)
        if end < 0:
            return self._splice(len(self.text), len(self.text), f"{ending}{line}")
        return self._splice(end + 1, end + 1, f"{line}{ending}")

    def _fill(self, start: int, end: int, value: str) -> bytes:
        """Return the text with a value in place of the bytes from `start` to `end`.

        If the value is longer, spaces before a comment on the same line are removed, so that the
        comment stays in its column.
        """
        rest = self.text[end:]
        pad = len(rest) - len(rest.lstrip(b" "))
        spare = max(pad - LEAST_PAD, 0) if rest.lstrip(b" ").startswith(b"#") else 0
        return self._splice(start, end + min(spare, max(len(value) - (end - start), 0)), value)

    def _splice(self, start: int, end: int, value: str) -> bytes:
        return self.text[:start] + value.encode() + self.text[end:]


def _compare(text: bytes, path: Path, expected: Topology) -> None:
    """Raise UsageError unless the new text of a file gives the expected topology."""
    try:
        found = config.load(path, text=text.decode(), connects=False)
    except TopologyError as error:
        msg = f"{path}: the weights cannot be changed automatically: {error}; edit the file"
        raise UsageError(msg) from error
    if found != expected:
        msg = f"{path}: the weights cannot be changed automatically, because the file has changed"
        msg = f"{msg} or has an unusual form; edit the file"
        raise UsageError(msg)


def _end(pair: Node) -> int:
    """Return the byte offset of the end of a pair's value; a comment after it does not count."""
    return named(pair)[1].end_byte


def _path(node: Node) -> Keys:
    """Return the parts of a key."""
    return tuple(decode(part) for part in parts(node))


def _table(weights: Mapping[int, int]) -> str:
    """Return the weights of shards as an inline table."""
    pairs = (f"{shard} = {weight}" for shard, weight in weights.items())
    return f"{{ {', '.join(pairs)} }}"


def _row(weights: Weights) -> tuple[int, ...]:
    """Return the value of Queue.weights: one weight, or the weights of the shards in order."""
    return (weights,) if isinstance(weights, int) else tuple(weights.values())
