"""A throw-away PostgreSQL server of the installed programs, which makes empty databases."""

import os
import shutil
import socket
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy

TOOLS = next((p for p in Path("/usr/lib/postgresql").glob("*/bin") if (p / "initdb").exists()), None)


@contextmanager
def served():
    """Yield a function that makes an empty database of a name and returns its URL."""
    folder = Path(tempfile.mkdtemp(prefix="vlmrl-postgres-"))
    prefix = []
    if os.geteuid() == 0:  # the server refuses to run as root
        shutil.chown(folder, "postgres")
        prefix = ["runuser", "-u", "postgres", "--"]

    def run(tool, *arguments):
        subprocess.run([*prefix, TOOLS / tool, *arguments], check=True, cwd=folder, stdout=subprocess.DEVNULL)

    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    run("initdb", "-D", f"{folder}/db", "-A", "trust", "-U", "vlmrl", "--no-sync")
    options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1 -c fsync=off"
    run("pg_ctl", "-D", f"{folder}/db", "-l", f"{folder}/log", "-o", options, "-w", "start")

    def create(name):
        admin = sqlalchemy.create_engine(f"postgresql+psycopg://vlmrl@127.0.0.1:{port}/postgres")
        with admin.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(sqlalchemy.text(f"CREATE DATABASE {name}"))
        admin.dispose()
        return f"postgresql://vlmrl@127.0.0.1:{port}/{name}"

    try:
        yield create
    finally:
        run("pg_ctl", "-D", f"{folder}/db", "-m", "immediate", "-w", "stop")
        shutil.rmtree(folder)
