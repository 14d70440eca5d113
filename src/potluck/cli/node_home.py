"""What the commands of `potluck node` share: the node's files, its settings, and the agent that may be running."""

import http.client
import json
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlencode

import click

from potluck.cli.failure import NO_CONNECTION, Failure
from potluck.cli.session import current

if TYPE_CHECKING:
    from potluck.node.home import Enrolled, Home
    from potluck.node.settings import NodeSettings

ORDER_S = 10.0
ENGINE_KEYS = "engine-keys.json"

F = TypeVar("F", bound=Callable[..., Any])


def node_home_option(function: F) -> F:
    """Adds `--home DIR` of the node; the command gets it as `home`."""
    return click.option("--home", metavar="DIR", type=click.Path(), help="The node's files. [POTLUCK_NODE_HOME]")(
        function
    )


def open_home(home: str | None) -> "Home":
    """The node's files, wherever they are."""
    from potluck.node.home import Home, node_home

    return Home(node_home(home, current().env))


def read_settings(home: "Home") -> "NodeSettings":
    """What the owner set. Raises HomeError, SettingsError."""
    from potluck.node.settings import NodeSettings, checked

    return checked(home.read("settings.json", NodeSettings) or NodeSettings())


def change_settings(home: "Home", change: "Callable[[NodeSettings], NodeSettings]") -> "NodeSettings":
    """Read, change and write the settings while nobody else does; as they are then. Raises HomeError, SettingsError."""
    from potluck.node.home import SETTINGS_LOCK

    home.prepare()
    with home.alone(SETTINGS_LOCK):
        settings = change(read_settings(home))
        home.write("settings.json", settings)
    return settings


def engine_keys(home: "Home") -> dict[str, str]:
    """Keys of engines, by address. Raises HomeError."""
    import msgspec

    from potluck.node.home import HomeError

    try:
        return msgspec.json.decode((home.path / ENGINE_KEYS).read_bytes(), type=dict[str, str])
    except FileNotFoundError:
        return {}
    except (OSError, msgspec.MsgspecError) as error:
        raise HomeError(f"{home.path / ENGINE_KEYS} cannot be read: {error}") from None


def failing(function: F) -> F:
    """Turns what goes wrong in the node's own code into one line and an exit status."""
    from functools import wraps

    @wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        from potluck.engines.asking import NotHereError
        from potluck.node.enrolment import EnrolmentError
        from potluck.node.home import HomeError
        from potluck.node.service import ServiceError
        from potluck.node.settings import SettingsError

        try:
            return function(*args, **kwargs)
        except EnrolmentError as error:
            raise Failure(str(error), 1 if error.connected else NO_CONNECTION) from None
        except (HomeError, SettingsError, NotHereError, ServiceError) as error:
            raise Failure(str(error)) from None

    return run  # type: ignore[return-value]


def report_of(home: "Home") -> dict[str, Any] | None:
    """What the running agent says of itself; None: none runs."""
    return _ask(home, "GET", "/status.json")


def order(home: "Home", action: str, for_s: float | None = None) -> dict[str, Any] | None:
    """Give an order to the running agent; what it says after it, None where none runs."""
    return _ask(home, "POST", f"/control/{action}", {} if for_s is None else {"for_s": for_s})


def links_shown(links: list[dict[str, Any]]) -> str:
    """The report's links in words."""
    up = [each for each in links if each["up"]]
    rtts = ", ".join(f"{each['rtt_ms']:g} ms" for each in up if each["rtt_ms"] is not None)
    return (f"{len(up)} up" + (f", there and back in {rtts}" if rtts else "")) if up else "none is up"


def page_url(home: "Home") -> str | None:
    """The page's address that lets its owner give orders; None where no agent runs."""
    running = home.running()
    return None if running is None else f"http://127.0.0.1:{running.port}/enter/{running.token}"


def _ask(home: "Home", method: str, path: str, form: dict[str, float] | None = None) -> dict[str, Any] | None:
    running = home.running()
    if running is None:
        return None
    connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=ORDER_S)
    try:
        headers = {"authorization": f"Bearer {running.token}"}
        connection.request(method, path, urlencode(form or {}), headers)
        response = connection.getresponse()
        said = response.read()
        if response.status != 200:
            raise Failure(f"the agent at port {running.port} refuses (HTTP {response.status})")
        found: dict[str, Any] = json.loads(said)
        return found if found["pid"] == running.pid else None  # another agent has its port now
    except ConnectionRefusedError:  # it was killed, and could not clean up
        return None
    except (OSError, http.client.HTTPException, ValueError, LookupError) as error:
        raise Failure(f"the agent at port {running.port} does not answer: {error}", NO_CONNECTION) from None
    finally:
        connection.close()


def engine_mend(enrolled: "Enrolled") -> str:
    """How an installed machine gets the engine: by the list that its own gateway serves, with its hashes."""
    if sys.platform == "win32":
        word = " -Insecure" if enrolled.insecure else ""
        return f"irm {enrolled.url}/install.ps1 -OutFile install.ps1, then install.ps1 -LocalModel{word}"
    word = " --insecure" if enrolled.insecure else ""
    return f"curl -fsSL {enrolled.url}/install.sh | sh -s -- --local-model{word} (sudo sh, where root installed it)"
