"""Where the client keeps things: experts in the user's cache, tokens and secrets in private files."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
from collections.abc import Callable
from pathlib import Path

import platformdirs

from nds_plugin.errors import NDSError
from nds_plugin.files.artifacts import atomic_write, cannot_write
from nds_plugin.files.locking import APPLICATION, held


def config_folder() -> Path:
    """The user's folder of settings, for example ``$XDG_CONFIG_HOME/nds_plugin`` or ``~/.config/nds_plugin``."""
    return platformdirs.user_config_path(APPLICATION, appauthor=False)


def private_folder(folder: Path) -> None:
    """Make a folder, if need be, that only its owner can enter (mode 0700)."""
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise cannot_write(folder, error) from error


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner can read (mode 0600), whole or not at all."""
    private_folder(path.parent)
    with atomic_write(path, "w", permissions=0o600) as file:
        file.write(text)


class Tokens:
    """Tokens by server, in ``tokens.json`` of the configuration folder (mode 0600)."""

    def __init__(self, path: Path | None = None) -> None:
        self._path = path or config_folder() / "tokens.json"

    def __str__(self) -> str:
        return str(self._path)

    def get(self, server: str) -> str | None:
        """The token for a server, if there is one."""
        return self._read().get(server)

    def get_or_ask(self, server: str, ask: Callable[[], str]) -> str:
        """The token for a server; one that has to be asked for is on disk before it is returned."""
        private_folder(self._path.parent)
        # Two clients that start together share one token.
        with held(f"{self._path}.lock", f"waiting for another client that writes {self._path}."):
            tokens = self._read()
            if server not in tokens:
                tokens[server] = ask()
                write_private(self._path, json.dumps(tokens, indent=1) + "\n")
        return tokens[server]

    def _read(self) -> dict[str, str]:
        try:
            tokens = json.loads(self._path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except (json.JSONDecodeError, UnicodeDecodeError, OSError) as error:
            raise NDSError(
                f"{self._path}: the file of tokens cannot be read ({error}): mend or move it."
            ) from None
        if not isinstance(tokens, dict) or not all(isinstance(token, str) for token in tokens.values()):
            raise NDSError(f"{self._path}: expected a JSON object of server -> token: mend or move it.")
        if self._path.stat().st_mode & 0o077:
            with contextlib.suppress(OSError):
                os.chmod(self._path, 0o600)
        return tokens


def secret(name: str) -> bytes:
    """32 random bytes that this user keeps under a name; made on first use (mode 0600)."""
    path = config_folder() / name
    private_folder(path.parent)
    with held(f"{path}.lock", f"waiting for another client that writes {path}."):
        try:
            value = bytes.fromhex(path.read_text(encoding="ascii"))
        except FileNotFoundError:
            value = secrets.token_bytes(32)
            write_private(path, value.hex() + "\n")
        except (ValueError, OSError) as error:
            raise NDSError(f"{path}: the secret cannot be read ({error}): mend or remove it.") from None
    if len(value) != 32:
        raise NDSError(f"{path}: expected 32 bytes in hexadecimal, got {len(value)}: remove it.")
    return value
