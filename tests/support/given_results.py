"""A cell that trains nothing: its results are what the environment says."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

if __name__ == "__main__":
    output = Path(sys.argv[-1 - sys.argv[::-1].index("OUTPUT_DIR") + 1])  # the last one holds
    header = {"kind": "results", "version": 1, "key": ""}
    (output / "results.json").write_text(json.dumps({**header, **json.loads(os.environ["GIVEN_RESULTS"])}))
