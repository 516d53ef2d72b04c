"""`feedbus` and `python -m feedbus`: the command line.

The action for Ctrl-C is set before anything else is imported. So Ctrl-C during an import ends the
process without output, and not with a traceback.
"""

# The module `signal` is not used: it imports further modules, which takes some milliseconds.
import _signal  # type: ignore[import-not-found]  # it is built in

if _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler:
    _signal.signal(_signal.SIGINT, _signal.SIG_DFL)

import sys

from feedbus.process.interrupts import INTERRUPTED, end_at_once


def main() -> None:
    """Run the command of the command line, and exit; the script `feedbus` calls the function.

    A command can set signal handlers that end it with KeyboardInterrupt. Before and after the
    command, signals end the process at once.
    """
    end_at_once()
    try:
        from feedbus.cli import main as command

        command(prog_name="feedbus")
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    finally:
        end_at_once()


if __name__ == "__main__":
    main()
