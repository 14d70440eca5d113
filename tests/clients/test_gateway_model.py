"""The built-in model as a part of a running gateway: what a kill of either does to the other."""

import json
import os
import signal
import threading
import time
import urllib.request
from pathlib import Path

import psutil
import pytest
from served_gateway import MODEL, Served, serving

from potluck.engines import model_file

pytestmark = pytest.mark.local_model


def chat(served: Served, max_tokens: int = 4) -> int:
    """The number of tokens of an answer."""
    body = {"model": MODEL, "messages": [{"role": "user", "content": "Say hi."}], "max_tokens": max_tokens}
    fields = {"authorization": f"Bearer {served.api_key}", "content-type": "application/json"}
    request = urllib.request.Request(f"{served.base_url}/chat/completions", json.dumps(body).encode(), fields)
    with urllib.request.urlopen(request, timeout=60) as answer:
        return int(json.load(answer)["usage"]["completion_tokens"])


def alive(process: psutil.Process) -> bool:
    """A zombie counts as gone."""
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


def test_a_call_right_after_the_start_waits_for_the_model(model_home: Path) -> None:
    """The gateway listens before the model is loaded; the first call is answered all the same."""
    with serving(model_home) as served:
        assert chat(served) > 0


def test_the_gateway_answers_on_while_its_engine_is_replaced(model_home: Path) -> None:
    """The engine is killed: calls made meanwhile are answered by the next one."""
    with serving(model_home) as served:
        chat(served)
        first = served.engine()
        answers: list[int] = []
        os.kill(first.pid, signal.SIGKILL)
        callers = [threading.Thread(target=lambda: answers.append(chat(served))) for _ in range(3)]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join(60)
        assert len(answers) == 3
        assert served.engine().pid != first.pid


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV])
def test_no_child_is_left_two_seconds_after_the_gateway(model_home: Path, number: signal.Signals) -> None:
    """Whatever ended the gateway: none of its children lives on."""
    with serving(model_home) as served:
        chat(served)
        gateway = psutil.Process(served.process.pid)
        children = gateway.children(recursive=True)
        assert served.engine() in children
        os.kill(gateway.pid, number)
        served.process.wait(10)
        ends = time.monotonic() + 2.0
        while left := [child for child in children if alive(child)]:
            assert time.monotonic() < ends, f"still there: {left}"
            time.sleep(0.02)


def test_a_gateway_without_the_model_says_how_to_get_it(tmp_path: Path) -> None:
    """It runs; a call is refused with the command that mends it, and none is needed once the file is there."""
    with serving(tmp_path) as served:
        with pytest.raises(urllib.error.HTTPError) as caught:
            chat(served)
        with caught.value as error:
            assert error.code in (502, 503)
            assert model_file.INSTALL_COMMAND in json.load(error)["error"]["message"]
