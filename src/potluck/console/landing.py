"""The landing page: what this is, where things are, a first call. Plain HTML, no script."""

from html import escape

from litestar import MediaType, get
from litestar.handlers import HTTPRouteHandler

from potluck.admin.rest.auth import PUBLIC
from potluck.admin.rest.pages import document


def landing_routes(version: str, url: str) -> list[HTTPRouteHandler]:
    """Handlers for `admin.rest.deps.Deps.pages`."""
    page = _page(version, url)

    @get("/", opt=PUBLIC, include_in_schema=False, media_type=MediaType.HTML, sync_to_thread=False)
    def landing() -> str:
        return page

    return [landing]


def _page(version: str, url: str) -> str:
    call = (
        f'curl {url}/v1/chat/completions \\\n  -H "Authorization: Bearer $POTLUCK_KEY" \\\n'
        '  -H "Content-Type: application/json" \\\n'
        '  -d \'{"model": "smollm2-135m", "messages": [{"role": "user", "content": "Hello"}]}\''
    )
    commands = (
        "export POTLUCK_KEY=$(cat HOME/first-api-key)   # HOME: the gateway's home directory\n"
        "potluck provider add openai --base-url https://api.openai.com/v1 --key-env OPENAI_API_KEY\n"
        "potluck key create my-app\n"
        "potluck model list\n"
        "potluck usage"
    )
    return document(
        "Potluck",
        f"""<h1>Potluck</h1>
<p class="soft">One OpenAI-compatible endpoint over every model provider you pay for and every machine you own.
Version {escape(version)}.</p>
<nav aria-label="Places"><a href="/api/docs">API reference</a><a href="/api/openapi.json">OpenAPI document</a>
<a href="/readyz">Readiness</a></nav>
<h2>A first call</h2>
<pre>{escape(call)}</pre>
<p>The base URL for any OpenAI client is <code>{escape(url)}/v1</code>.</p>
<h2>From the command line</h2>
<pre>{escape(commands)}</pre>""",
    )
