"""The look of our plain pages: one style sheet, one frame, no script, nothing from elsewhere."""

from html import escape

from litestar import Response, get

from potluck.admin.rest.auth import PUBLIC

STYLE = """\
:root { color-scheme: light dark; --ink: #1c1b1a; --soft: #5c5955; --paper: #fbfaf8; --card: #f0eeea; --mark: #8a4b14;
  --line: #dedad3; font: 16px/1.55 system-ui, sans-serif; }
@media (prefers-color-scheme: dark) { :root { --ink: #ece9e4; --soft: #a8a39c; --paper: #171615; --card: #22201e;
  --mark: #e8a868; --line: #35322f; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); }
main { max-width: 62rem; margin: 0 auto; padding: 2.5rem 1.25rem 4rem; }
h1 { font-size: 1.9rem; margin: 0 0 .25rem; letter-spacing: -.01em; }
h2 { font-size: 1.15rem; margin: 2.2rem 0 .6rem; }
h3 { font-size: 1rem; margin: 0; }
p { margin: .5rem 0; max-width: 46rem; }
a { color: var(--mark); }
a:focus-visible, summary:focus-visible { outline: 2px solid var(--mark); outline-offset: 2px; }
code, pre { font: .875rem/1.5 ui-monospace, "SF Mono", Menlo, Consolas, monospace; }
pre { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: .9rem 1rem; overflow: auto; }
.soft { color: var(--soft); }
table { border-collapse: collapse; width: 100%; font-size: .92rem; }
th, td { text-align: left; vertical-align: top; padding: .35rem .75rem .35rem 0; border-bottom: 1px solid var(--line); }
th { color: var(--soft); font-weight: 600; }
details { border: 1px solid var(--line); border-radius: 8px; margin: .5rem 0; background: var(--card); }
summary { cursor: pointer; padding: .55rem .9rem; overflow-wrap: anywhere; }
details > div { padding: .2rem .9rem .9rem; overflow-x: auto; }
.verb { display: inline-block; min-width: 4.2rem; font: 600 .8rem ui-monospace, monospace; color: var(--mark); }
nav a { margin-right: 1rem; }
"""


def document(title: str, body: str) -> str:
    """A whole HTML page with the shared style."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<title>{escape(title)}</title>\n<link rel="stylesheet" href="/style.css">\n</head>\n'
        f"<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


@get("/style.css", opt=PUBLIC, include_in_schema=False, sync_to_thread=False)
def style_sheet() -> Response[str]:
    """The style sheet of every page."""
    return Response(STYLE, media_type="text/css; charset=utf-8", headers={"cache-control": "max-age=300"})


ROUTES = [style_sheet]
