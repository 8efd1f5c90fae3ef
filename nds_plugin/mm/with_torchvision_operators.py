"""Importing this lets torchvision's operators stand in for MMCV's where those are missing.

For ``custom_imports`` of a config: ``dict(imports=["nds_plugin.mm", "nds_plugin.mm.with_torchvision_operators"])``.
"""

from nds_plugin.mm.operators import use_torchvision_operators

use_torchvision_operators()
