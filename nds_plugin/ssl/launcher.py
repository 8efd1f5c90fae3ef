"""torchrun as ``--num-gpus`` starts it: what a process has told in a line ends the job with exit status 2, without a traceback."""

from __future__ import annotations

import logging
import signal
import sys
from collections.abc import Sequence

from torch.distributed import run as torchrun
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

from nds_plugin.command_line import run
from nds_plugin.errors import NDSError

_TOLD, _DEFECT = 2, 1  # exit statuses: of a line that a process has told, of a traceback


def command(processes: int, module: str, words: Sequence[str]) -> list[str]:
    """The command that starts so many processes of ``python -m module words``, and ends with them."""
    start = ["--standalone", "--nproc-per-node", str(processes), "-m", module]
    return [sys.executable, "-m", "nds_plugin.ssl.launcher", *start, *words]


def main(argv: Sequence[str] | None = None) -> None:
    """Run torchrun with its arguments.

    Raises:
        NDSError: a process was ended by a signal.
        SystemExit: with the status of what the processes have told, or as a signal ends a process.
    """
    logging.disable(logging.ERROR)  # torchrun tells the ends of its processes once more, in many lines
    try:
        torchrun.run(torchrun.parse_args(argv))
    except ChildFailedError as error:
        raise SystemExit(_status(error)) from None
    except SignalException as error:  # it has ended the processes
        raise SystemExit(128 + error.sigval) from None


def _status(error: ChildFailedError) -> int:
    """Exit status where processes failed; those that were waiting for the first were ended by torchrun."""
    codes = [failure.exitcode for failure in error.failures.values()]
    if _TOLD in codes:
        return _TOLD
    rank, first = error.get_first_failure()
    if first.exitcode < 0:
        raise NDSError(
            f"process {rank} was ended by {signal.Signals(-first.exitcode).name}, as a system does that is short of memory: "
            "the same command goes on from the last checkpoint."
        ) from None
    return _DEFECT


if __name__ == "__main__":
    run(main)
