"""`nestling data`: recorded corpora by name, into the cache and out of it."""

from __future__ import annotations

import typer

from nestling import options
from nestling.ending import hinting
from nestling.reports.terminal import Screen, next_command, show_json, tell

app = typer.Typer(help="Recorded speech by name: list it, get it, remove it.", no_args_is_help=True)


@app.command("list")
def list_data(form: options.Format = "text") -> None:
    """List the recorded corpora that have a name: licence, hours, languages, and what is in the cache.

    Example: nestling data list
    """
    from nestling.reports.data_table import show_corpora
    from nestling.workflows.data import describe_corpora

    rows = describe_corpora(Screen())
    if form == "json":
        return show_json(rows)
    show_corpora(rows)


@app.command("get")
def get_data(corpus: options.Recorded, source: options.Packages = None, form: options.Format = "text") -> None:
    """Bring a recorded corpus into the cache, where --audio NAME finds it; apt-get downloads what no --from names.

    Example: nestling data get festvox-ru
    """
    from nestling.reports.data_table import describe_row
    from nestling.workflows.data import get_corpus

    with hinting("; the same command begins anew"), Screen() as screen:
        row = get_corpus(corpus, source, screen)
    if form == "json":
        return show_json(row)
    tell(describe_row(row))
    if row["evaluation_alone"] != row["languages"]:
        tell(f"Next: {next_command('train supernet', audio=corpus)}")


@app.command("remove")
def remove_data(corpus: options.Recorded, form: options.Format = "text") -> None:
    """Remove a recorded corpus from the cache.

    Example: nestling data remove festvox-ru
    """
    from nestling.workflows.data import remove_corpus

    removed = remove_corpus(corpus)
    if form == "json":
        return show_json(removed)
    tell(f"{removed['folder']} is gone; {removed['freed_bytes'] / 1e6:.0f} MB are free again.")
