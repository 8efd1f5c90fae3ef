"""Print the oldest versions that pyproject.toml promises, as lines for pip's --constraint."""

import re
import sys
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pytest needs it, too

PROJECT = Path(__file__).resolve().parents[1] / "pyproject.toml"
_FLOOR = re.compile(r"^([\w-]+)(?:\[\w+\])?>=([\w.]+)")
# The tests' own tools may be new.
_TOOLS = "dev"


def main() -> None:
    """One line per requirement that has a lower bound."""
    project = tomllib.loads(PROJECT.read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *(r for name in extras if name != _TOOLS for r in extras[name])]
    found = {match[1]: match[2] for match in map(_FLOOR.match, wanted) if match}
    print("\n".join(f"{name}=={version}" for name, version in sorted(found.items())))


if __name__ == "__main__":
    main()
