"""A page that shows how graphs were compiled: one file, nothing fetched from anywhere, readable without a server."""
from __future__ import annotations

import base64
import html
import json
import zlib
from collections.abc import Sequence
from typing import Any

from treadle.runtime.html_parts import SCRIPT, STYLE

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width">
<title>@TITLE@</title>
<style>@STYLE@</style>
</head>
<body>
<header><h1>@TITLE@</h1><label>graph <select id="graphs"></select></label><span id="note"></span></header>
<main>
<nav id="stages" aria-label="passes"></nav>
<section id="middle"><div id="views" role="tablist"></div><div id="view"></div></section>
<aside id="details" aria-live="polite"></aside>
</main>
<noscript>This page needs JavaScript to show its data.</noscript>
<script type="text/plain" id="data">@DATA@</script>
<script>@SCRIPT@</script>
</body>
</html>
"""

def page(title: str, graphs: Sequence[dict[str, Any]], note: str = "") -> str:
    """The page for graphs that `treadle.runtime.report.describe` describes. The data is compressed: a tenth of its size, and in letters
    that mean nothing in HTML."""
    text = json.dumps({"graphs": list(graphs), "note": note}, separators=(",", ":"))
    data = base64.b64encode(zlib.compress(text.encode(), 6)).decode()
    parts = {"TITLE": html.escape(title), "STYLE": STYLE, "SCRIPT": SCRIPT, "DATA": data}
    first, *rest = _PAGE.split("@")  # texts and names alternate: what is filled in is never looked at again
    return first + "".join([parts[piece] if i % 2 == 0 else piece for i, piece in enumerate(rest)])


def index(title: str, entries: Sequence[tuple[str, str]]) -> str:
    """A page with links: (address, text)."""
    items = "\n".join([f'<li><a href="{html.escape(address)}">{html.escape(text)}</a></li>' for address, text in entries])
    return ('<!DOCTYPE html>\n<html lang="en">\n<head><meta charset="utf-8">'
            f"<title>{html.escape(title)}</title>\n<style>{STYLE}</style></head>\n"
            f"<body class=\"index\"><h1>{html.escape(title)}</h1>\n<ol>\n{items}\n</ol>\n</body>\n</html>\n")
