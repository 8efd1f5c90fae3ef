"""Joining a Ray cluster, and what can be wrong with it, each in a line."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import socket

from nds_plugin.engine.config import EngineConfig
from nds_plugin.errors import NDSError

_BY_NAME = ("auto", "local")  # Ray's own: the cluster of this machine, and one of this process
_SECONDS = 5.0  # that a head may take to answer; our choice


def join(config: EngineConfig) -> None:
    """Connect this process to a cluster, unless it is connected.

    Raises:
        NDSError: nothing answers there, versions of Python or Ray differ, or no node could run a task.
    """
    import ray

    _refuse_form(config.ray_address)
    if not ray.is_initialized():
        _connect(config.ray_address)
    if told := too_small(config):
        raise NDSError(told)


def _connect(address: str) -> None:
    import ray

    # Ray would hide GPUs from tasks that ask for none, and says so in a warning.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    # Ray's own variable stands for auto.
    meant = os.environ.get("RAY_ADDRESS") or address if address == "auto" else address
    if meant not in _BY_NAME:
        _refuse_form(meant)
        _refuse_silent(meant)
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.WARNING)
    except ConnectionError:
        raise NDSError(
            f"no Ray cluster is found for --ray-address {address} (NDS.RAY.ADDRESS): start one (ray start --head), "
            "give HOST:PORT of its head, or local for one on this machine."
        ) from None
    except RuntimeError as error:
        if "ersion mismatch" not in str(error):
            raise
        found = re.findall(r"Ray: (\S+)\s+Python: (\S+)", str(error))
        sides = [f"Ray {ray_version} on Python {python}" for ray_version, python in found]
        told = f"{sides[0]}, this process {sides[1]}" if len(sides) == 2 else " ".join(str(error).split())
        raise NDSError(
            f"the Ray cluster at {address} runs other versions: {told}: install the same on all nodes and here."
        ) from None


def _refuse_form(address: str) -> None:
    host, _, port = address.rpartition(":")
    if address not in _BY_NAME and ("/" in host or not host or not port.isdecimal()):
        raise NDSError(
            f"--ray-address (NDS.RAY.ADDRESS) must be HOST:PORT of a cluster's head, auto or local, got {address!r}."
        )


def _refuse_silent(address: str) -> None:
    """Ray itself tries for a minute or more, and then ends the process."""
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host, int(port)), _SECONDS) as connection:
            speaks = "RAY_USE_TLS" in os.environ or _speaks_grpc(connection)
    except OSError as error:
        raise NDSError(
            f"no Ray cluster answers at {address} ({error.strerror or error}): is its head running (ray start --head), "
            "and its port open?"
        ) from None
    if not speaks:
        raise NDSError(
            f"what listens at {address} is no Ray cluster: give the port that ray start --head names (6379 by default)."
        )


def _speaks_grpc(connection: socket.socket) -> bool:
    """Whether the other side greets as an HTTP/2 server does, such as a Ray head: by a frame of settings (RFC 9113)."""
    start = b""
    connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0")
    with contextlib.suppress(TimeoutError):  # of the connection
        while len(start) < 9 and (more := connection.recv(9 - len(start))):
            start += more
    return len(start) == 9 and start[3] == 4


def large_enough(config: EngineConfig) -> list[str]:
    """The nodes that can run a task."""
    import ray

    wanted = {"CPU": float(config.ray_cpus), "GPU": config.ray_gpus}
    return [
        str(node["NodeID"])
        for node in ray.nodes()
        if node["Alive"] and all(node["Resources"].get(name, 0.0) >= value for name, value in wanted.items())
    ]


def too_small(config: EngineConfig) -> str:
    """Why no node can run a task, for which Ray would wait for ever; empty if one can."""
    import ray

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if not large_enough(config):
        has = "; ".join(f"{node.get('CPU', 0):g} cores, {node.get('GPU', 0):g} GPUs" for node in nodes)
        return (
            f"no node of the Ray cluster has the {config.ray_cpus} cores and {config.ray_gpus:g} GPUs of a task: its "
            f"{len(nodes)} nodes have {has}: lower --ray-cpus and --ray-gpus (NDS.RAY.CPUS, NDS.RAY.GPUS)."
        )
    return ""
