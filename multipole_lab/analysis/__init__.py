"""The old name of ``measure`` and ``search``, for one version."""

from multipole_lab import measure, search
from multipole_lab.renamed import warn
from multipole_lab.suggesting import no_attribute


def __getattr__(name: str) -> object:
    for package in (measure, search):
        if name in package.__all__:
            warn(f"{__name__}.{name}", f"{package.__name__}.{name}")
            return getattr(package, name)
    raise no_attribute(__name__, name, [*measure.__all__, *search.__all__])
