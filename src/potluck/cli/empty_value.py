"""An empty value on a command line (`--priority ''`) takes a setting away, where an option says so."""

from typing import Any

import click


class OrEmpty(click.ParamType[Any]):
    """A value of another type, or the empty text, which the command turns into null."""

    def __init__(self, inner: click.ParamType[Any]) -> None:
        self.inner = inner
        self.name = inner.name

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str | None:
        return self.inner.get_metavar(param, ctx)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return "" if value == "" else self.inner.convert(value, param, ctx)
