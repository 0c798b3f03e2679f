"""Self-contained HTML pages: words and numbers as they print them, small plots, and the one template."""

from importlib.resources import files
from pathlib import Path
from string import Template

from vlmrl.page.markup import escape


def write_page(path: Path, *, title: str, body: str) -> Path:
    """Replace a page whole, never half; `title` is text, `body` is HTML."""
    template = Template(files("vlmrl.page").joinpath("page.html").read_text())
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".part")
    temporary.write_text(template.substitute(title=escape(title), body=body))
    temporary.replace(path)
    return path
