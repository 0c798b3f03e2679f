"""The `vlmrl` command: Hydra jobs (run, label, train, evaluate) and small utilities (data, task, doctor)."""

import logging
import os
import sys

from vlmrl.errors import VlmrlError


def main() -> None:
    """Entry point: errors that are the user's to mend are one line on stderr and exit code 1."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    from vlmrl.cli.utilities import app

    try:
        app(prog_name="vlmrl", standalone_mode=True)
    except VlmrlError as error:
        print(f"vlmrl: {error}", file=sys.stderr)
        sys.exit(1)
    except BrokenPipeError:
        # The reader of our output is gone (`| head`); Python would complain once more when it flushes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
