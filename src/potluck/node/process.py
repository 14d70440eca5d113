"""The agent as a process: one per home, its page, its log, its signals.

SIGTERM and Ctrl-C let what runs end (`agent.STOP_S`); a second one ends it at once.
"""

import asyncio
import contextlib
import logging
import os
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from potluck.node.agent import Agent, Machine
from potluck.node.home import Home, Running
from potluck.node.page import Page
from potluck.node.report import report
from potluck.node.settings import NodeSettings

LOCK_FILE: Final = "agent.lock"
_LOGGER = logging.getLogger("potluck.node")


def serve(
    home: Home,
    settings: Callable[[], NodeSettings],
    machine: Callable[[], Machine],
    *,
    engine_keys: Mapping[str, str],
    model_home: Path,
    say: Callable[[str], None],
) -> None:
    """Run the agent until it is told to stop. `say`: one line for whoever started it.

    Raises HomeError, `engines.asking.NotHereError`, and OSError where no port is free for the page.
    """
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    for chatty in ("websockets", "asyncio"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    # a second agent of the same home would look like a copy of this machine to the gateway
    with home.alone(LOCK_FILE, f"an agent runs already from {home.path}: potluck node status"):
        home.sweep()
        asyncio.run(_serve(home, settings, machine, engine_keys, model_home, say))


async def _serve(
    home: Home,
    settings: Callable[[], NodeSettings],
    machine: Callable[[], Machine],
    engine_keys: Mapping[str, str],
    model_home: Path,
    say: Callable[[str], None],
) -> None:
    agent = Agent(home, settings, machine(), engine_keys=engine_keys, model_home=model_home)
    page = Page(lambda: report(agent), lambda action, for_s: order(agent, action, for_s))
    await page.start(agent.settings.page_port)
    try:
        home.write("agent.json", Running(page.port, page.token, os.getpid()))
        for name in ("SIGTERM", "SIGINT"):
            with contextlib.suppress(NotImplementedError):  # Windows: Ctrl-C raises KeyboardInterrupt
                asyncio.get_running_loop().add_signal_handler(getattr(signal, name), agent.stop)
        say(f"{agent.enrolled.name} joins {agent.enrolled.url}; its page: http://127.0.0.1:{page.port}/")
        await agent.run()
    finally:
        home.remove("agent.json")
        await page.close()


def order(agent: Agent, action: str, for_s: float | None) -> None:
    """An order of the owner."""
    _LOGGER.info("order: %s", action)
    if action == "stop":
        agent.stop()
    elif action == "resume":
        agent.resume()
    else:
        (agent.pause if action == "pause" else agent.drain)(for_s)
