"""Numbers on a command line: what Python reads as one and is none (`nan`) is refused in words."""

import math
from typing import Any

import click


class Number(click.FloatRange):
    """A number in a range."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        number = super().convert(value, param, ctx)
        if math.isnan(number):  # below no bound and above none
            self.fail(f"{value!r} is not a number", param, ctx)
        return number
