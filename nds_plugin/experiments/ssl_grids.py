"""The grids of self-supervision: Tables 1 and 2, and both at CPU size."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from nds_plugin.experiments.rows import Grid, Row

_Targets = Mapping[str, tuple[str, str]]  # training and test dataset by the target's name


def client_of(method: str, target: str) -> str:
    """The client of the rows of a target that a method pretrains for; the target's name where none does."""
    return "_".join(filter(None, (method, target)))


def targets_of(grid: Grid, methods: Iterable[str]) -> dict[str, str]:
    """The target of each client of these methods, the clients without pretraining included."""
    return {
        client_of(given, target): target
        for method in methods
        for target in grid.categories[method]
        for given in ("", method)
    }


def _ssl_rows(bases: Mapping[str, str], targets: _Targets) -> tuple[Row, ...]:
    """Rows of self-supervision: no pretraining once for all methods, else a row per method and target.

    Args:
        bases: config of each method.
    """

    def row(method: str, target: str, selector: str, budget: float) -> Row:
        train, test = targets[target]
        own = (("NDS.TARGET.TRAIN", (train,)), ("NDS.TARGET.TEST", (test,)))
        client = client_of(method, target)
        name = f"{client}_{selector}" + ("_20" if 0 < budget < 1 else "")
        return Row(client, selector, budget, name, bases[method or next(iter(bases))], own)

    drawn = (("full", 1.0), ("uniform", 0.2), ("nds", 0.2))
    return (
        *(row("", target, "none", 0) for target in targets),
        *(
            row(method, target, selector, budget)
            for selector, budget in drawn
            for method in bases
            for target in targets
        ),
    )


# In the order of the paper's columns.
_SSL_TARGETS = {
    "stanford_dogs": ("stanford_dogs_train", "stanford_dogs_test"),
    "stanford_cars": ("stanford_cars_train", "stanford_cars_test"),
    "oxford_iiit_pets": ("oxford_pets_trainval", "oxford_pets_test"),
    "flowers_102": ("flowers_102_trainval", "flowers_102_test"),
    "cub200_birds": ("cub_200_train", "cub_200_test"),
}
_SSL_MINI = {name: (f"{name}_train", f"{name}_test") for name in ("dogs", "cars", "pets", "flowers", "cub")}
_SSL_BASES = {"moco": "ssl_mini/Base-moco.yaml", "rotnet": "ssl_mini/Base-rotnet.yaml"}


def ssl_table(number: str, method: str) -> Grid:
    """Table 1 or 2 of the paper: the targets of ``moco`` or ``rotnet``, pretrained on Downsampled ImageNet."""
    return Grid(
        number,
        f"Top-1 accuracy on five targets after self-supervised pretraining ({'MoCo' if method == 'moco' else 'RotNet'}) on "
        "Downsampled ImageNet.",
        "Downsampled ImageNet",
        _ssl_rows({method: f"table{number}/Base-Table{number}.yaml"}, _SSL_TARGETS),
        (0, 1, 2),
        {method: tuple(_SSL_TARGETS)},
        dict(zip(_SSL_TARGETS, (8_580, 8_041, 3_669, 6_149, 5_794))),
        digits=2,
        from_random=True,
        train_images=dict(zip(_SSL_TARGETS, (12_000, 8_144, 3_680, 2_040, 5_994))),
        kind="classifier",
    )


_SSL_MINI_TESTS = {"dogs": 125, "cars": 600, "pets": 185, "flowers": 288, "cub": 480}
SSL_MINI = Grid(
    "ssl_mini",
    "Top-1 accuracy on five targets after self-supervised pretraining on 28,000 images of 32 pixels; CPU size.",
    "source",
    _ssl_rows(_SSL_BASES, _SSL_MINI),
    (0, 1, 2),
    {method: tuple(_SSL_MINI) for method in _SSL_BASES},
    _SSL_MINI_TESTS,
    digits=2,
    from_random=True,
    own_experts=True,
    train_images=_SSL_MINI_TESTS,  # each second image of a class is a test image
    kind="classifier",
)
