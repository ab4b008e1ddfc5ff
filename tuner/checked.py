"""The base of every model a person fills in: strict, frozen, refusing in one clear line."""

from __future__ import annotations

from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from tuner.errors import from_validation


class Checked(BaseModel):
    """A frozen pydantic model that raises :class:`tuner.errors.BadInput` instead of ``ValidationError``."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        validate_default=True,
        allow_inf_nan=False,
        arbitrary_types_allowed=True,
    )

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise from_validation(error, list(type(self).model_fields)) from None

    def replace(self, **changes: Any) -> Self:
        """A checked copy with ``changes`` applied.

        Raises:
            BadInput: A changed value is not allowed.
        """
        return type(self)(**{**dict(self), **changes})
