"""Validation by column with Marshmallow schemas."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from marshmallow import EXCLUDE, RAISE, Schema, ValidationError, fields, post_load, validate

from feedbus.handling.message_types.marshmallow_schemas import SchemaLoader
from feedbus.records.packs import (
    Pack,
    pack_of_one,
)
from tests.any_packs import packs


class ByField(Schema):
    """A schema with independent fields."""

    id = fields.Integer(strict=True, required=True, validate=validate.Range(min=1))
    follower_id = fields.Integer(strict=True, data_key="followerId", required=True)
    text = fields.String(required=True, validate=validate.Length(max=3))
    flag = fields.Boolean(load_default=False)
    note = fields.String(allow_none=True)


class Lenient(ByField):
    """A schema that ignores unknown fields."""

    class Meta:
        """The handling of unknown fields."""

        unknown = EXCLUDE


class Hooked(ByField):
    """A schema with a rule over the whole record."""

    @post_load
    def add(self, loaded: dict[str, Any], **_: object) -> dict[str, Any]:
        """Add a field that the message does not have."""
        return {**loaded, "sum": loaded["id"] + loaded["follower_id"]}


def row_by_row(schema: Schema, pack: Pack) -> tuple[dict[str, dict[str, Any]], dict[int, Any]]:
    """Load every record on its own, as a plain message would be."""
    loaded, errors = {}, {}
    for index, name in enumerate(pack.ids):
        try:
            loaded[name] = schema.load(pack.payload(index))
        except ValidationError as error:
            errors[index] = set(error.messages_dict)
    return loaded, errors


@given(packs(), st.sampled_from([ByField, Lenient, Hooked]))
def test_loading_by_column_is_loading_row_by_row(pack: Pack, schema: type[Schema]) -> None:
    loaded, errors = row_by_row(schema(), pack)
    found = SchemaLoader(schema).load(pack)
    rows = {name: found.chunk.row(i) for i, name in enumerate(found.chunk.ids)}
    assert rows == loaded
    assert {name: list(map(type, row.values())) for name, row in rows.items()} == {
        name: [type(row[field]) for field in rows[name]] for name, row in loaded.items()
    }
    assert {index: set(reported) for index, reported in found.errors.items()} == errors


def test_schemas_of_these_tests_differ_in_how_they_meet_unknown_fields() -> None:
    assert (ByField().unknown, Lenient().unknown) == (RAISE, EXCLUDE)


def test_unknown_fields_of_a_pack_cost_no_more_the_more_they_are():
    pack = pack_of_one("m", "k", {"n": 1} | {f"f{number}": 0 for number in range(5000)})

    class Strict(Schema):
        n = fields.Integer()

        class Meta:
            unknown = RAISE

    (errors,) = SchemaLoader(Strict).load(pack).errors.values()
    assert len(errors) == 10
