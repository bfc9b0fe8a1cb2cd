"""Types of the options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

ParamsFile = Annotated[Path | None, typer.Option("--params", help="another params.yaml")]

ConsentHolder = Annotated[str | None, typer.Option(help="of a portrait: whose face it is, or who may speak for them")]
ConsentScope = Annotated[str | None, typer.Option(help="of a portrait: what it may be used for")]
ConsentExpires = Annotated[
    str | None, typer.Option(help="of a portrait: the last day, like 2027-12-31; left out: no last day")
]


def produce_override(help_text: str) -> Any:
    """An option that replaces a value in the section `produce` of params.yaml, for this batch only."""
    return typer.Option(help=help_text, show_default=False)
