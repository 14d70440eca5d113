"""Fake local engines: each answers questions about itself as the real one does, and chats like the fake provider.

What they say follows the engines' own documentation and source, with what makes them hard to tell apart: KoboldCpp,
LocalAI and llama.cpp imitate Ollama, LM Studio answers 200 to everything, half of them share a port. Change `running`,
`queued`, `resident` and the like between two questions to make an engine busy, asleep or empty. `harm` lists what a
prober must never do to an engine that it only watches: whatever loads, unloads, generates or wakes.

    async with FakeEngine("ollama") as engine:
        ...  # ask engine.base_url; look at engine.asked and engine.harm
"""

from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs, unquote

from potluck.conformance.answers import CREATED, compact
from potluck.conformance.call import Call, SeenRequest
from potluck.conformance.provider import FakeProvider
from potluck.model.engine import EngineKind

CHAT = "tiny-chat:1b"
EMBED = "tiny-embed:latest"
CLOUD = "huge:cloud"
"""listed by engines that have models run elsewhere"""
DIGEST = "ab" * 32
VERSION = "1.2.3"
HUB_PATH = "/srv/cache/huggingface/hub/models--acme--tiny-chat-GGUF/snapshots/0123abc/tiny-chat.Q4_K_M.gguf"

_HARMLESS_POSTS = ("/api/show", "/v1/")
_HARMFUL = (
    *("/health_generate", "/upstream/", "/unload", "/models/load", "/models/unload", "/api/generate", "/api/pull"),
    *("/api/models/unload", "/api/v1/models/load", "/api/v1/models/unload", "/sleep", "/wake_up", "/flush_cache"),
)

Page = Any
"""text, something to be written as JSON, or a status"""


class FakeEngine(FakeProvider):
    """A fake provider that also answers as an engine of `kind`. Each test has one of its own: it is changed freely."""

    def __init__(self, kind: EngineKind, host: str = "127.0.0.1", port: int = 0) -> None:
        super().__init__(host, port)
        self.kind: EngineKind = kind
        self.asked: list[str] = []
        """`GET /path?query`, in order, chats left out"""
        self.harm: list[str] = []
        self.running = 0
        """besides the chats that are being answered"""
        self.queued = 0
        self.slots = 4
        self.cache_used = 0.25
        self.resident = {CHAT}
        self.key = ""
        """wanted as bearer token, when not empty"""
        self.silent = False
        """takes questions and never answers"""
        self.silent_after: int | None = None
        """answers so many questions and no more"""
        self.loading = False
        """llama.cpp: its model is not there yet"""
        self.sleeping = False
        """llama.cpp: it let go of its model; what wakes it is harm"""
        self.has_metrics = True
        """llama.cpp: started with `--metrics`"""
        self.is_router = False
        """llama.cpp: started without a model"""
        self.is_old = False
        """LM Studio before 0.4, SGLang before `/v1/loads`"""
        self._chats = 0

    async def _serve(self, request: SeenRequest) -> None:
        path, _, query = request.target.partition("?")
        is_question = request.method == "GET" or path == "/api/show"
        self._note_harm(request, path, query)
        if not is_question:
            self._chats += 1
            try:
                await super()._serve(request)
            finally:
                self._chats -= 1
            return
        await request.connection.read_body(request)
        self.asked.append(f"{request.method} {request.target}")
        call = Call(request, "", {})
        if self.silent or (self.silent_after is not None and len(self.asked) > self.silent_after):
            await call.silence()
        status, page = self._answer(request, path, parse_qs(query))
        body = page.encode() if isinstance(page, str) else compact(page)
        kind = b"text/plain" if isinstance(page, str) else b"application/json"
        await call.answer(body, (b"server", _SERVERS.get(self.kind, b"fake")), status=status, kind=kind)

    def _note_harm(self, request: SeenRequest, path: str, query: str) -> None:
        wakes = self.sleeping and path == "/slots"
        loads = self.is_router and "model=" in query and "autoload=false" not in query
        orders = request.method == "POST" and not path.startswith(_HARMLESS_POSTS)
        if wakes or loads or orders or path.startswith(_HARMFUL):
            self.harm.append(f"{request.method} {request.target}")

    def _answer(self, request: SeenRequest, path: str, query: dict[str, list[str]]) -> tuple[int, Page]:
        if self.key and request.header("authorization") != f"Bearer {self.key}".encode():
            return 401, {"error": {"message": "Invalid API Key", "type": "authentication_error", "code": 401}}
        if self.loading and path != "/health":
            return 503, {"error": {"message": "Loading model", "type": "unavailable_error", "code": 503}}
        pages = _PAGES[self.kind](self)
        model = unquote(query["model"][0]) if "model" in query else ""
        page = pages.get(f"{path} {model}" if model else path)
        if callable(page):
            page = page(request)
        if isinstance(page, int):
            return page, {"error": {"message": "not supported", "type": "not_supported_error", "code": page}}
        if page is not None:
            return 200, page
        return _unknown(self.kind, request)

    @property
    def _running(self) -> int:
        return self.running + self._chats

    def _list(self, owner: str, *ids: str, **members: Any) -> Page:
        cards = [{"id": each, "object": "model", "created": CREATED, "owned_by": owner, **members} for each in ids]
        return {"object": "list", "data": cards}

    # one method for each kind: path → page

    def _plain(self) -> dict[str, Page]:
        return {"/v1/models": self._list("someone", CHAT, EMBED)}

    def _ollama(self) -> dict[str, Page]:
        details = {"format": "gguf", "family": "llama", "parameter_size": "1.2B", "quantization_level": "Q4_K_M"}
        tag = {"size": 800_000_000, "details": details}
        cloud = {"name": CLOUD, "digest": "ef" * 32, "remote_model": "huge", "remote_host": "https://ollama.com:443"}
        tags = [{"name": CHAT, "digest": DIGEST, **tag}, {"name": EMBED, "digest": "cd" * 32, **tag}, cloud]
        loaded = [{"name": each, "size_vram": 10**9, "context_length": 8192} for each in sorted(self.resident)]
        return {
            "/": "Ollama is running",
            "/api/version": {"version": VERSION},
            "/v1/models": self._list("library", CHAT, EMBED, CLOUD),
            "/api/tags": {"models": tags},
            "/api/ps": {"models": loaded},
            "/api/show": _ollama_show,
        }

    def _lm_studio(self) -> dict[str, Page]:
        listed = self._list("organization_owner", CHAT, EMBED)
        if self.is_old:
            facts = {"publisher": "acme", "compatibility_type": "gguf", "max_context_length": 32768}
            cards = [
                {
                    "id": CHAT,
                    "type": "vlm",
                    "arch": "llama",
                    "quantization": "Q4_0",
                    "state": self._state(CHAT),
                    **facts,
                },
                {"id": EMBED, "type": "embeddings", "quantization": "F16", "state": self._state(EMBED), **facts},
            ]
            return {"/v1/models": listed, "/api/v0/models": {"object": "list", "data": cards}}
        models = []
        for served, kind, quantisation in ((CHAT, "llm", "Q4_0"), (EMBED, "embedding", "F16")):
            card: dict[str, Any] = {"type": kind, "publisher": "acme", "key": served, "format": "gguf"}
            card |= {"quantization": {"name": quantisation, "bits_per_weight": 4}, "size_bytes": 800_000_000}
            card |= {"params_string": "1.2B" if kind == "llm" else None, "max_context_length": 32768}
            if kind == "llm":
                card["architecture"] = "llama"
                card["capabilities"] = {"vision": True, "trained_for_tool_use": True}
            config = {"context_length": 4096, "parallel": self.slots}
            card["loaded_instances"] = [{"id": served, "config": config}] if served in self.resident else []
            models.append(card)
        return {"/v1/models": listed, "/api/v1/models": {"models": models}}

    def _state(self, served: str) -> str:
        return "loaded" if served in self.resident else "not-loaded"

    def _vllm(self) -> dict[str, Page]:
        gauges: dict[str, float] = {"num_requests_running": self._running, "num_requests_waiting": self.queued}
        gauges["kv_cache_usage_perc"] = self.cache_used
        lines = ["# HELP vllm:num_requests_running Number of requests in model execution batches."]
        lines += [f'vllm:{name}{{engine="0",model_name="{CHAT}"}} {value}' for name, value in gauges.items()]
        lines += [f'vllm:num_requests_waiting_by_reason{{engine="0",reason="capacity"}} {self.queued}.0']
        return {
            "/version": {"version": VERSION},
            "/v1/models": self._list("vllm", CHAT, root="acme/tiny-chat-AWQ", parent=None, max_model_len=16384),
            "/metrics": "\n".join([*lines, ""]),
        }

    def _llama_cpp(self) -> dict[str, Page]:
        meta = {"vocab_type": 2, "n_ctx_train": 131072, "n_params": 1_235_814_432, "size": 800_000_000}
        props = {
            "default_generation_settings": {"n_ctx": 4096},
            "total_slots": self.slots,
            "model_path": HUB_PATH,
            "chat_template": "…",
            "chat_template_caps": {"supports_tools": True},
            "modalities": {"vision": True, "audio": False},
            "build_info": VERSION,
            "is_sleeping": self.sleeping,
        }
        gauges = {"requests_processing": self._running, "requests_deferred": self.queued}
        metrics: Page = "".join(f"# TYPE x gauge\nllamacpp:{name} {value}\n" for name, value in gauges.items())
        metrics = metrics if self.has_metrics else 501
        slots = [{"id": each, "n_ctx": 4096, "is_processing": each < self._running} for each in range(self.slots)]
        imitated = {"/api/tags": {"models": []}, "/api/version": {"version": "0.0.0"}}
        if not self.is_router:
            listed = self._list("llamacpp", CHAT, meta=meta)
            return {"/v1/models": listed, "/props": props, "/metrics": metrics, "/slots": slots, **imitated}
        cards = []
        for served in (CHAT, EMBED):
            state = self._state(served).replace("not-", "un")
            [card] = self._list("llamacpp", served, status={"value": state})["data"]
            cards.append({**card, "meta": meta} if served in self.resident else card)
        pages: dict[str, Page] = {"/v1/models": {"object": "list", "data": cards}, **imitated}
        pages["/props"] = {"role": "router", "build_info": VERSION, "default_generation_settings": {"n_ctx": 0}}
        for served in self.resident:
            pages |= {f"/props {served}": props, f"/metrics {served}": metrics, f"/slots {served}": slots}
        return pages

    def _sglang(self) -> dict[str, Page]:
        told = {"model_path": "acme/tiny-chat-FP8", "is_generation": True, "has_image_understanding": True}
        listed = self._list("sglang", CHAT, root=CHAT, max_model_len=32768)
        if self.is_old:
            rank = {"dp_rank": 0, "num_reqs": self._running + self.queued, "num_waiting_reqs": self.queued}
            return {"/v1/models": listed, "/get_model_info": told, "/get_load": [rank]}
        load: dict[str, float] = {"dp_rank": 0, "num_running_reqs": self._running, "num_waiting_reqs": self.queued}
        load |= {"token_usage": self.cache_used, "max_running_requests": self.slots}
        return {
            "/v1/models": listed,
            "/model_info": told,
            "/server_info": {"version": VERSION, "model_path": "acme/tiny-chat-FP8"},
            "/v1/loads": {"loads": [load]},
        }

    def _localai(self) -> dict[str, Page]:
        flags = {CHAT: ["FLAG_CHAT", "FLAG_VISION"], EMBED: ["FLAG_EMBEDDINGS"], "painter": ["FLAG_IMAGE"]}
        told = [{"id": each, "capabilities": flags[each], "backend": "llama-cpp"} for each in flags]
        told.append({"id": CLOUD, "capabilities": ["FLAG_CHAT"], "backend": "cloud-proxy"})
        cards = [{"id": each, "object": "model"} for each in (*flags, CLOUD)]
        return {
            "/v1/models": {"object": "list", "data": cards},
            "/system": {"backends": ["llama-cpp"], "loaded_models": [{"id": each} for each in sorted(self.resident)]},
            "/version": {"version": VERSION},
            "/api/models/capabilities": {"data": told},
            "/api/version": {"version": "0.9.0"},
            "/api/tags": {"models": [{"name": CHAT}]},
            "/": "Ollama is running",
        }

    def _llama_swap(self) -> dict[str, Page]:
        own = self._list("llama-swap", CHAT, EMBED)["data"]
        peers = self._list("llama-swap", CLOUD, meta={"llamaswap": {"peerID": "other-box"}})["data"]
        running = [{"model": each, "state": "ready", "ttl": 0} for each in sorted(self.resident)]
        running.append({"model": EMBED, "state": "starting", "ttl": 0})
        return {
            "/v1/models": {"object": "list", "data": own + peers},
            "/running": {"running": running},
            "/api/version": {"version": VERSION, "commit": "abc", "build_date": "today"},
        }

    def _koboldcpp(self) -> dict[str, Page]:
        told = {"result": "KoboldCpp", "version": VERSION, "vision": True, "embeddings": False, "transcribe": False}
        busy = self._running > 0
        perf = {"queue": self.queued, "idle": int(not busy), "idletime": 0 if busy else 90, "total_gens": 3}
        return {
            "/v1/models": self._list("koboldcpp", "koboldcpp/tiny-chat.Q4_K_M"),
            "/api/extra/version": told,
            "/api/extra/true_max_context_length": {"value": 8192},
            "/api/extra/perf": perf,
            "/api/version": {"version": "0.7.0"},
            "/api/tags": {"models": [{"name": "koboldcpp/tiny-chat.Q4_K_M"}]},
            "/api/ps": {"models": []},
        }


def _ollama_show(request: SeenRequest) -> Page:
    if request.json.get("model") == EMBED:
        info = {"general.architecture": "bert", "general.parameter_count": 137_000_000, "bert.context_length": 2048}
        return {"capabilities": ["embedding"], "model_info": info, "parameters": "num_ctx                        2048"}
    info = {"general.architecture": "llama", "general.parameter_count": 1_235_814_432, "llama.context_length": 131072}
    return {"capabilities": ["completion", "tools", "thinking"], "model_info": info, "parameters": 'stop    "x"'}


def _unknown(kind: EngineKind, request: SeenRequest) -> tuple[int, Page]:
    """What it says to a path that it does not know."""
    if kind == "lm-studio":
        return 200, {
            "error": f"Unexpected endpoint or method. ({request.method} {request.target}). Returning 200 anyway"
        }
    if kind in ("vllm", "sglang"):
        return 404, {"detail": "Not Found"}
    if kind == "koboldcpp":
        return 404, {"detail": {"error": "URL not found"}}
    return 404, "404 page not found"


_SERVERS: dict[EngineKind, bytes] = {"llama.cpp": b"llama.cpp", "vllm": b"uvicorn", "sglang": b"uvicorn"}
_PAGES: dict[EngineKind, Callable[[FakeEngine], dict[str, Page]]] = {
    "ollama": FakeEngine._ollama,
    "lm-studio": FakeEngine._lm_studio,
    "vllm": FakeEngine._vllm,
    "llama.cpp": FakeEngine._llama_cpp,
    "sglang": FakeEngine._sglang,
    "localai": FakeEngine._localai,
    "llama-swap": FakeEngine._llama_swap,
    "koboldcpp": FakeEngine._koboldcpp,
    "openai-compatible": FakeEngine._plain,
}
KINDS: tuple[EngineKind, ...] = tuple(_PAGES)
