"""`python -m potluck.conformance`: prints a gateway's configuration, then its failover score card.

Exit status: 0 full marks, 1 a line failed, 2 usage (a taken port, a refused key), 3 the gateway cannot be reached.
"""

import argparse
import asyncio
import logging
import os
import sys
from collections.abc import Sequence

from potluck.conformance import display
from potluck.conformance.gateways import GATEWAYS
from potluck.conformance.score import PORTS, Card, Fakes, UnusableError, chosen, run

FAILED, USAGE, UNREACHED = 1, 2, 3
KEY_VARIABLE = "CONFORMANCE_KEY"


def _ports(text: str) -> tuple[int, int, int]:
    """`FIRST,SECOND[,REFUSED]`; the last is SECOND + 1 when it is left out."""
    numbers = [int(part) for part in text.split(",")]
    if len(numbers) == 2:
        numbers.append(numbers[1] + 1)
    first, second, refused = numbers
    if not all(0 < number < 65_536 for number in numbers) or len({*numbers}) < 3:
        raise ValueError(text)
    return first, second, refused


def _parsers() -> tuple[argparse.ArgumentParser, argparse.ArgumentParser]:
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument(
        "--listen", type=_ports, default=PORTS, metavar="A,B[,C]",
        help="ports of the faulty and the healthy provider, and one where nobody listens (default: 9801,9802,9803)",
    )  # fmt: skip
    shared.add_argument("--only", default="", metavar="PATTERN", help="cases by name or section: a part, or with *")
    shared.add_argument("--slow", action="store_true", help="also the cases that take half a minute")
    name = "python -m potluck.conformance"
    card = argparse.ArgumentParser(
        prog=name, parents=[shared], description="The failover score card of any OpenAI-compatible gateway.",
        epilog=f"`{name} config --for {'|'.join(GATEWAYS)}` prints the gateway's configuration.",
    )  # fmt: skip
    card.add_argument("--url", required=True, help="of the gateway: http://host:port, with or without /v1")
    card.add_argument("--key", default=os.environ.get(KEY_VARIABLE, ""), help=f"an API key of it (or ${KEY_VARIABLE})")
    card.add_argument("--host", default="127.0.0.1", help="address to listen on, for a gateway on another machine")
    card.add_argument("--json", action="store_true", help="the card as JSON")
    config = argparse.ArgumentParser(
        prog=f"{name} config", parents=[shared], description="The configuration of the gateway under test."
    )
    config.add_argument("--for", dest="gateway", choices=GATEWAYS, required=True)
    config.add_argument("--host", default="127.0.0.1", help="address of this machine as the gateway sees it")
    return card, config


async def _measure(options: argparse.Namespace) -> Card:
    cases = chosen(options.only, slow=options.slow)
    with display.Progress(quiet=options.json) as progress:
        async with Fakes(options.host, options.listen) as fakes:
            return await run(options.url, options.key, fakes, cases, progress=progress.tick)


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status; usage errors end the process with 2."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    card_parser, config_parser = _parsers()
    parser, words = (config_parser, given[1:]) if given[:1] == ["config"] else (card_parser, given)
    options = parser.parse_args(words)
    if not (cases := chosen(options.only, slow=options.slow)):
        parser.error(f"no case matches {options.only!r}")
    if parser is config_parser:
        sys.stdout.write(GATEWAYS[options.gateway](cases, options.host, options.listen))
        return 0
    logging.getLogger("asyncio").setLevel(logging.ERROR)  # it warns of writes to who has hung up, as cases do
    try:
        card = asyncio.run(_measure(options))
    except UnusableError as error:
        sys.stderr.write(f"{error}\n")
        return USAGE if error.refused else UNREACHED
    except ValueError as error:
        parser.error(str(error))
    except OSError as error:
        parser.error(f"cannot listen: {error}; choose others with --listen, here and in the configuration")
    if options.json:
        sys.stdout.write(display.as_json(card))
    elif sys.stdout.isatty():
        display.on_terminal(card)
    else:
        sys.stdout.write(display.as_text(card))
    return FAILED if card.failed else 0


if __name__ == "__main__":
    sys.exit(main())
