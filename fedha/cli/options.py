"""Options that several commands have."""

from typing import Annotated

import typer

Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress, only the table at the end.")]
Log = Annotated[
    list[str] | None,
    typer.Option("--log", metavar="NAME", help="Tell a tracker too: tensorboard, mlflow or wandb; may be repeated."),
]
