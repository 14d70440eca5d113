"""The requests that the bench sends, as bytes and for wrk."""

import json
from pathlib import Path

HEADERS = (
    ("host", "127.0.0.1"),
    ("content-type", "application/json"),
    ("accept", "application/json"),
    ("user-agent", "OpenAI/Python 3.57.0"),
    ("x-stainless-lang", "python"),
    ("x-stainless-retry-count", "0"),
)
PATH = "/v1/chat/completions"


def chat_body(*, model: str, prompt_bytes: int, chunks: int = 0, pace_ms: int = 0) -> bytes:
    """A chat request with a prompt of that size; `chunks` > 0 makes it a stream of as many events."""
    words = "tell me about the weather in the mountains "
    prompt = (words * (prompt_bytes // len(words) + 1))[:prompt_bytes]
    body: dict[str, object] = {
        "model": model,
        "messages": [{"role": "system", "content": "Answer briefly."}, {"role": "user", "content": prompt}],
        "temperature": 0.2,
        "max_tokens": 256,
    }
    if chunks:
        body |= {"stream": True, "metadata": {"chunks": str(chunks), "pace_ms": str(pace_ms)}}
    return json.dumps(body, separators=(",", ":")).encode()


def chat_request(key: str, *, model: str, prompt_bytes: int, chunks: int = 0, pace_ms: int = 0) -> bytes:
    """The same as one HTTP/1.1 request, as an official client sends it."""
    body = chat_body(model=model, prompt_bytes=prompt_bytes, chunks=chunks, pace_ms=pace_ms)
    lines = [f"POST {PATH} HTTP/1.1"]
    lines += [f"{name}: {value}" for name, value in HEADERS]
    lines += [f"authorization: Bearer {key}", f"content-length: {len(body)}", "", ""]
    return "\r\n".join(lines).encode() + body


def write_wrk_script(path: Path, key: str, *, model: str, prompt_bytes: int) -> None:
    """A wrk script that posts the body and prints its summary as one JSON line."""
    body = chat_body(model=model, prompt_bytes=prompt_bytes).decode()
    headers = {name: value for name, value in HEADERS if name != "host"} | {"authorization": f"Bearer {key}"}
    table = "\n".join(f'wrk.headers["{name}"] = "{value}"' for name, value in headers.items())
    path.write_text(
        f"""wrk.method = "POST"
wrk.path = "{PATH}"
wrk.body = [==[{body}]==]
{table}
done = function(summary, latency, requests)
  local e = summary.errors
  io.write(string.format('{{"requests":%d,"duration_us":%d,"errors":%d,"not_2xx":%d,"p50_us":%d,"p99_us":%d}}\\n',
    summary.requests, summary.duration, e.connect + e.read + e.write + e.timeout, e.status,
    latency:percentile(50), latency:percentile(99)))
end
"""
    )
