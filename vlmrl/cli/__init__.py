"""The `vlmrl` command: Hydra jobs (run, label, train, evaluate) and small utilities (data, task, doctor)."""

import logging
import os
import sys

from vlmrl.errors import VlmrlError

JOBS = ("run", "label", "train", "evaluate")


def main() -> None:
    """Entry point: errors that are the user's to mend are one line on stderr and exit code 1."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    arguments = sys.argv[1:]
    try:
        if arguments and arguments[0] in JOBS:
            _job(arguments[0], arguments[1:])
        else:
            from vlmrl.cli.utilities import app

            app(prog_name="vlmrl")
    except VlmrlError as error:
        print(f"vlmrl: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("vlmrl: interrupted; what was finished is kept, the same command goes on from there", file=sys.stderr)
        sys.exit(130)


def _job(name: str, arguments: list[str]) -> None:
    from vlmrl.cli.jobs import run_job

    run_job(name, arguments)
