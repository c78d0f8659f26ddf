"""Arguments and options that several commands have."""

from pathlib import Path
from typing import Annotated

import typer

# What arguments mean stands in the commands' descriptions: help of an argument is lost between some releases of typer
# and click.
ConfigName = Annotated[str, typer.Argument(metavar="CONFIG")]
Overrides = Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress, only the tables at the end.")]
Log = Annotated[
    list[str] | None,
    typer.Option("--log", metavar="NAME", help="Tell a tracker too: tensorboard, mlflow or wandb; may be repeated."),
]
To = Annotated[
    Path,
    typer.Option("--to", envvar="FEDHA_FEDERATION", metavar="DIR", help="The federation's folder, which init made."),
]
