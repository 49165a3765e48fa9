"""HTML pages that need no network: a document with data and a script of this package."""

import html
import json
from pathlib import Path
from string import Template

from ttt_mlflow.report.text import printable

SCRIPTS = Path(__file__).with_name("pages")
PAGE = Template("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>$title</title>
<style>
$style
</style>
</head>
<body>
<h1>$title</h1>
$body
$library<script type="application/json" id="data">$data</script>
<script>
$script
</script>
</body>
</html>
""")


def page(title: str, name: str, data: object, library: str = "") -> str:
    """A page of ``pages/<name>.html``, its script ``.js``, the shared style, and ``data`` in the element ``data``.

    library: a script that the page's own script uses.
    """
    return PAGE.substitute(
        title=html.escape(printable(title)),
        style=(SCRIPTS / "style.css").read_text(),
        body=(SCRIPTS / f"{name}.html").read_text(),
        library=f"<script>{library}</script>\n" if library else "",
        # escaped, so that no text in the data can close the script element
        data=json.dumps(data, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c"),
        script=(SCRIPTS / f"{name}.js").read_text(),
    )
