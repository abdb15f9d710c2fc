"""What every part of the configuration shares: immutable, and strict about what it is given."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator, model_validator

from hlvnn import errors
from hlvnn.families import members
from hlvnn.files import expanded
from hlvnn.gone import GONE, refusal

C = TypeVar("C", bound="Config")


class Config(BaseModel):
    """Base of all configuration: immutable, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    @model_validator(mode="before")
    @classmethod
    def _name_unknown_keys(cls, values: Any) -> Any:
        if isinstance(values, dict):
            for key in values:
                if key in GONE and key not in cls.model_fields:
                    raise ValueError(refusal(key))
                if key not in cls.model_fields:
                    raise ValueError(errors.unknown("setting", str(key), cls.model_fields))
        return values

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Return a copy with some values changed, which are checked as in a new one."""
        copied = super().model_copy(deep=deep)
        if not update:
            return copied
        checked = type(self).model_validate({**dict(copied), **update})
        checked.__pydantic_fields_set__.intersection_update(self.model_fields_set | update.keys())
        return checked

    @field_validator("*", mode="after")
    @classmethod
    def _expand_home_folders(cls, value: Any) -> Any:
        """Read ~ in every path: a shell leaves it in --flag='~/x', and files and frames have it."""
        if isinstance(value, Path):
            return expanded(value)
        if isinstance(value, tuple) and any(isinstance(item, Path) for item in value):
            return tuple(expanded(item) if isinstance(item, Path) else item for item in value)
        return value


def validated(cls: type[C], values: dict[str, Any], where: str) -> C:
    """Validate `values` as `cls`; raise one `ConfigError` that names `where` and every problem."""
    try:
        return cls.model_validate(values)
    except ValidationError as error:
        raise errors.from_validation(error, where) from error


def known_member(family: str, what: str, name: str | None) -> str | None:
    """Return `name` if the family has it (or it is None); `ValueError` with the nearest if not."""
    if name is not None and name not in members(family):
        raise ValueError(errors.unknown(what, name, members(family)))
    return name
