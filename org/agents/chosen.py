"""What a design sets for an agent, as the types of its backend. Called by the backends that have settings."""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from lab.errors import UserError
from lab.text import clean

S = TypeVar("S", bound=BaseModel)


def validated(model: type[S], backend: str, given: dict[str, Any]) -> S:
    """The settings as that model. Raises UserError with the setting and what may stand there."""
    try:
        return model.model_validate(given)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        name = clean(".".join(map(str, first["loc"])), 60)
        if first["type"] == "extra_forbidden":
            why = f"there is no such setting; there are {', '.join(model.model_fields)}"
        else:
            why = clean(first["msg"], 200)
        raise UserError(f"settings of backend {backend}: {name}: {why}") from error
