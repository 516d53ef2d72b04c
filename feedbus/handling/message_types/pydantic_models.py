"""Message types that pydantic validates: its models and its dataclasses."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from feedbus.handling.message_types.record_loader import (
    Errors,
    Loaded,
    RecordLoader,
    UnfitMessageType,
    errors_of,
    loaded_rows,
)
from feedbus.records.packs import Pack
from feedbus.records.payloads import encode_payload

if TYPE_CHECKING:
    from pydantic import ValidationError


def is_pydantic(declared: object) -> bool:
    """Whether a class is a pydantic model or dataclass; pydantic is not imported."""
    return isinstance(declared, type) and hasattr(declared, "__pydantic_validator__")


class PydanticLoader(RecordLoader):
    """Loads instances of a pydantic model or dataclass; records are validated as JSON.

    Args:
        declared: the class.

    Raises:
        UnfitMessageType: pydantic cannot build the validator of the class.
    """

    def __init__(self, declared: type) -> None:
        """Create the loader of a model, and build its validator once.

        Raises:
            UnfitMessageType: the model is not complete.

        """
        from pydantic import TypeAdapter, ValidationError

        self._invalid, self._declared = ValidationError, declared
        try:
            self._one: TypeAdapter[Any] = TypeAdapter(declared)
            self._many: TypeAdapter[list[Any]] = TypeAdapter(list[declared])  # type: ignore[valid-type]
            self._one.rebuild(raise_errors=True)
        except Exception as error:  # errors of pydantic and of the model's own code
            expected = "a pydantic model that can be built"
            reason = str(error).partition("\n")[0]
            raise UnfitMessageType(expected, f"{declared.__name__}: {reason}") from error
        fields: Mapping[str, Any] = getattr(declared, "__pydantic_fields__", {})
        self._names = list(fields)

    @property
    def name(self) -> str:
        """The name of the model."""
        return self._declared.__name__

    def json_schema(self) -> dict[str, Any]:
        """Return the JSON Schema of one record on the wire; its definitions are in `$defs`."""
        return self._one.json_schema()

    def wire_fields(self) -> Sequence[str] | None:
        """Return the names of the fields on the wire; None if there may be other fields, too."""
        declared: Any = self._declared
        config = getattr(declared, "model_config", getattr(declared, "__pydantic_config__", {}))
        validators = declared.__pydantic_decorators__.model_validators.values()
        if (
            config.get("extra") == "allow"
            or not self._names  # also for models of an older pydantic: __init__() finds no names
            or getattr(declared, "__pydantic_root_model__", False)
            or any(each.info.mode != "after" for each in validators)  # these can read any field
        ):
            return None
        return [
            name
            for field, info in declared.__pydantic_fields__.items()
            for name in _wire_names(field, info.validation_alias, config)
        ]

    def _load(self, pack: Pack) -> Loaded:
        """Validate and load the records of a pack in one call of pydantic.

        If a record is invalid, all records are loaded one by one.

        Args:
            pack: the decoded records.

        Returns:
            The valid records, and the errors of the others.
        """
        if len(pack) > 1:
            try:
                found = self._many.validate_json(
                    b"[%b]" % b",".join(self._body(pack, index) for index in range(len(pack)))
                )
            except BaseException:  # noqa: BLE001 -- the error is found again when the records are loaded one by one
                found = []
            if found:
                return loaded_rows(pack, dict(enumerate(found)), self._names, {})
        rows: dict[int, Any] = {}
        errors: Errors = {}
        for index in range(len(pack)):
            try:
                rows[index] = self._one.validate_json(self._body(pack, index))
            except self._invalid as error:
                errors[index] = _by_field(error)
            except BaseException as error:  # noqa: BLE001 -- a validator may raise anything
                errors[index] = errors_of(error)
        return loaded_rows(pack, rows, self._names, errors)

    def _body(self, pack: Pack, index: int) -> bytes:
        return encode_payload(pack.payload(index))


def _wire_names(field: str, alias: Any, config: Mapping[str, Any]) -> Iterator[str]:
    """Yield the names that a field may have on the wire.

    Args:
        field: the name of the field in the model.
        alias: the validation alias of the field; None if it has none.
        config: the configuration of the model.

    """
    for each in getattr(alias, "choices", (alias,)) if alias is not None else ():
        yield each if isinstance(each, str) else each.path[0]
    if alias is None or config.get("populate_by_name") or config.get("validate_by_name"):
        yield field


def _by_field(error: ValidationError) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    details: Iterable[Any] = error.errors(include_url=False, include_context=False)
    for detail in details:
        field, *within = map(str, detail["loc"]) if detail["loc"] else ("",)
        text = detail["msg"]
        found.setdefault(field, []).append(f"{'.'.join(within)}: {text}" if within else text)
    return found
