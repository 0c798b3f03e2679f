"""Puts the sections into the page."""

from importlib.resources import files
from pathlib import Path
from string import Template

from vlmrl.evaluate.report import answers as labelled
from vlmrl.evaluate.report import comparison, curves, folder, headline, logs, questions, reward, settings
from vlmrl.evaluate.report.markup import escape
from vlmrl.evaluate.report.pictures import camera_of
from vlmrl.store import Store

TEMPLATE = "page.html"

SECTIONS = ("result", "films", "data", "questions", "reward", "learning", "settings")


def write(place: Path, store: Store) -> Path:
    """Write `report.html` from what the run folder holds.

    Raises:
        DataError: if a file of the run folder is damaged.
    """
    run = folder.read(place)
    store.refresh()
    pictures = camera_of(store, run.config.get("camera"))
    answers = labelled.read(run.labels, pictures.camera if pictures else "")
    links = "".join(f"<a href='#{name}'>{name}</a>" for name in SECTIONS)
    body = [
        headline.html(run, store, answers),
        f"<nav>{links}</nav>\n",
        comparison.table(run),
        comparison.films(run),
        logs.html(store, pictures),
        questions.html(run, store, answers, pictures),
        reward.html(run, store, pictures),
        curves.html(run),
        settings.html(run, store),
    ]
    template = Template(files("vlmrl.evaluate.report").joinpath(TEMPLATE).read_text())
    path = place / "report.html"
    temporary = path.with_suffix(".part")
    temporary.write_text(template.substitute(title=escape(headline.sentence(run, store)), body="".join(body)))
    temporary.replace(path)
    return path
