"""Puts the sections into the page."""

from pathlib import Path

from vlmrl.evaluate.report import answers as labelled
from vlmrl.evaluate.report import comparison, curves, folder, headline, logs, questions, reward, settings
from vlmrl.page import write_page
from vlmrl.store import Store
from vlmrl.store.pictures import camera_of

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
    return write_page(place / "report.html", title=headline.sentence(run, store), body="".join(body))
