"""Write experts in the form that the paper authors' client (NeuralDataServer-FastAdapt, 2019) reads.

    nds export --experts experts --format fastadapt

Only experts of `nds experts --kind network` can be written so. One file per expert goes to experts/fastadapt (or
--output); `nds serve publish` hands that folder out, too.
A client of the authors then runs, in their repository, on the downloaded folder:

    python main.py --imagedir my_photos --experts_dir fastadapt

and its z.pickle is turned into scores by `nds client convert z.pickle`. At CPU size: seconds for any set.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from nds_plugin.command_line import documented_parser, run


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = documented_parser(__doc__, "export")
    parser.add_argument("--experts", required=True, help="folder of the experts")
    parser.add_argument(
        "--format", default="fastadapt", choices=("fastadapt",), help="form to write (default: fastadapt)"
    )
    parser.add_argument("--output", help="the folder to write (default: EXPERTS/fastadapt)")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the command line and export."""
    args = parse_arguments(argv)
    from nds_plugin.experts.expert_set import ExpertSet
    from nds_plugin.service.client.export import FOLDER, export_fastadapt

    experts = ExpertSet.load(args.experts)
    files = export_fastadapt(experts, args.output or Path(args.experts) / FOLDER)
    print(f"{len(files)} experts of set {experts.hash[:16]} in {files[0].parent}")


if __name__ == "__main__":
    run(main)
