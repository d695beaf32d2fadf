"""The command `launcher`. It handles signals before the slow imports, so that none is lost while Python starts."""

import sys

from launcher.distributed import garbage_collection, logs, output_streams, signals

_LASTING = ("run", "sweep", "prepare", "submit", "cancel", "export")
"""Commands with lasting results. The others only print, and so end when the reader of their output ends."""


def main() -> None:
    command = next((word for word in sys.argv[1:] if not word.startswith("-")), "")  # no option before it takes a value
    listens = command in ("run", "sweep")  # a signal ends the others, like any program
    if listens:
        signals.listen()
    output_streams.set_up(lasting=command in _LASTING)
    logs.set_up()
    garbage_collection.seldom()
    from launcher import cli

    try:
        cli.main()
    finally:
        if listens:
            signals.ignore()


if __name__ == "__main__":
    main()
