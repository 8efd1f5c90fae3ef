"""From the settings to the executor that they name."""

from __future__ import annotations

from nds_plugin.engine.config import RAY, EngineConfig
from nds_plugin.engine.executor import Executor, LocalExecutor
from nds_plugin.engine.processes import Processes


def open_executor(config: EngineConfig, device: str, processes: Processes | None = None) -> Executor:
    """The executor of ``config.engine``; Ray is imported, and its cluster joined, for ``ray`` alone.

    Args:
        config: where to run.
        device: of networks that run in this job's own processes.
        processes: of the job; by default this one.

    Raises:
        NDSError: Ray is not installed, its cluster does not answer, runs other versions, or no node that could
            run a task.
    """
    if config.engine == RAY:
        from nds_plugin.engine.ray_executor import RayExecutor

        return RayExecutor(config, processes)
    return LocalExecutor(processes, device)
