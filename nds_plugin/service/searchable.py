"""The selectors that a search may name: a server has clusters and what a client sends, and no images."""

from nds_plugin.selection.selectors import SELECTORS, ClusterSelector, Need
from nds_plugin.selection.selectors.nds import NDS
from nds_plugin.settings import named, settings_of

TEMPERATURE, NORMALISATION = named(NDS, "temperature"), named(NDS, "normalisation")
SEARCHABLE = [
    name
    for name, selector in SELECTORS.items()
    if issubclass(selector, ClusterSelector)
    and not selector.whole
    and not selector.needs & ~(Need.CLUSTERS | Need.EXPERTS)
    and {item.name for item in settings_of(selector)} <= {TEMPERATURE.name, NORMALISATION.name}
]
