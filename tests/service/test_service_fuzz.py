"""The running server under generated requests: schemathesis makes them from its own OpenAPI document."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from service_demo import copied, running

SECONDS = 45
CHECKS = (
    "not_a_server_error", "status_code_conformance", "content_type_conformance", "response_headers_conformance",
    "response_schema_conformance", "missing_required_header", "unsupported_method", "use_after_free", "ignored_auth",
)  # fmt: skip


@pytest.mark.slow
def test_generated_requests_get_no_5xx_and_only_documented_answers(
    service_store: Path, tmp_path: Path
) -> None:
    program = Path(sys.executable).with_name("schemathesis")
    store = copied(service_store, tmp_path / "copy")
    with running(store, "--requests-per-minute", "0", "--heavy-per-minute", "0") as address:
        token = httpx.post(f"{address}/api/v1/tokens").json()["token"]
        command = [
            *(str(program), "run", f"{address}/api/v1/openapi.json", "-H", f"Authorization: Bearer {token}"),
            *(
                "--checks",
                ",".join(CHECKS),
                "--phases",
                "examples,coverage,fuzzing,stateful",
                "--warnings",
                "off",
            ),
            *("--max-time", str(SECONDS), "--seed", "1", "--no-shrink", "--max-examples", "15"),
        ]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
        assert "Tested: 18" in done.stdout
        assert httpx.get(f"{address}/api/v1/health").status_code == 200
    assert "Traceback" not in (store / "server.log").read_text()
