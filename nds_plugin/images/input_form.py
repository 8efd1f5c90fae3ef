"""The input that a network was trained on: mean, deviation, order of the colours, filter of the resizing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from nds_plugin.errors import NDSError

ORDERS = ("RGB", "BGR")
INTERPOLATIONS = ("bilinear", "bicubic")


@dataclass(frozen=True)
class InputForm:
    """How pixels become a network's input.

    Attributes:
        mean, std: of each channel in ``order``, of pixels in [0, 1].
        order: of the colours, one of ``ORDERS``.
        interpolation: of the resizing, one of ``INTERPOLATIONS``.
    """

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    order: str = "RGB"
    interpolation: str = "bilinear"

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "mean": list(self.mean), "std": list(self.std)}

    @classmethod
    def from_dict(cls, values: Any, where: str) -> InputForm:
        """Read what :meth:`to_dict` gave.

        Args:
            values: from a file that may be anybody's.
            where: how an error names it.

        Raises:
            NDSError: a field is missing, unknown or out of range.
        """
        fields = ("mean", "std", "order", "interpolation")
        if not isinstance(values, Mapping) or set(values) != set(fields):
            raise NDSError(f"{where}: the network's input should have the fields {', '.join(fields)}.")
        for name in ("mean", "std"):
            numbers = values[name]
            if not (isinstance(numbers, list) and len(numbers) == 3 and all(map(_is_finite, numbers))):
                raise NDSError(f"{where}: the input's {name} should be three numbers, got {numbers!r:.80}.")
        if min(values["std"]) <= 0:
            raise NDSError(f"{where}: the input's std should be above 0, got {values['std']}.")
        for name, known in (("order", ORDERS), ("interpolation", INTERPOLATIONS)):
            if values[name] not in known:
                raise NDSError(
                    f"{where}: the input's {name} is {values[name]!r:.40}, expected one of {known}."
                )
        mean, std = (tuple(float(n) for n in values[name]) for name in ("mean", "std"))
        return cls(mean, std, values["order"], values["interpolation"])  # type: ignore[arg-type]


def _is_finite(number: Any) -> bool:
    return type(number) in (int, float) and abs(number) < 1e6  # NaN is not below anything


IMAGENET = InputForm((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
# Detectron2's default PIXEL_MEAN and PIXEL_STD. A ResNet of this form has its strides in the first
# convolution of a bottleneck, as MSRA's do.
MSRA = InputForm((103.530 / 255, 116.280 / 255, 123.675 / 255), (1 / 255, 1 / 255, 1 / 255), "BGR")
