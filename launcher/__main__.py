"""The command `launcher`. Listens to signals before the slow imports, so that none is lost while Python starts."""

import sys

from launcher.run import signals


def main() -> None:
    listens = sys.argv[1:2] == ["run"]  # the others end by a signal as any program does
    if listens:
        signals.listen()
    from launcher import cli

    try:
        cli.main()
    finally:
        if listens:
            signals.ignore()


if __name__ == "__main__":
    main()
