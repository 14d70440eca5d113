"""A fake engine that lets go of models when it is told so in its own words."""

from urllib.parse import unquote

from potluck.conformance.call import Call, SeenRequest
from potluck.conformance.engines import FakeEngine
from potluck.model.engine import EngineKind

ORDERS = ("/api/generate", "/api/v1/models/unload", "/models/unload", "/api/models/unload/", "/backend/shutdown")


class Unloadable(FakeEngine):
    """`deaf`: says that it let go, and did not. `dumb`: takes an order and does not answer."""

    def __init__(self, kind: EngineKind) -> None:
        super().__init__(kind)
        self.is_router = kind == "llama.cpp"
        self.deaf = False
        self.dumb = False

    async def _serve(self, request: SeenRequest) -> None:
        if request.method == "GET" or not request.target.startswith(ORDERS):
            await super()._serve(request)
            return
        await request.connection.read_body(request)
        self._note_harm(request, request.target, "")
        call = Call(request, "", {})
        if self.dumb:
            await call.silence()
        if not self.deaf:
            self.resident -= {self._named(request)}
        await call.answer(b"{}")

    def _named(self, request: SeenRequest) -> str:
        told = request.json
        match self.kind, request.target:
            case "ollama", "/api/generate":
                assert told["keep_alive"] == 0
                assert "prompt" not in told
                return str(told["model"])
            case "lm-studio", "/api/v1/models/unload":
                return str(told["instance_id"])
            case ("llama.cpp", "/models/unload") | ("localai", "/backend/shutdown"):
                return str(told["model"])
            case "llama-swap", target:
                return unquote(target.removeprefix("/api/models/unload/"))
        raise AssertionError(f"{self.kind} does not know {request.target}")
