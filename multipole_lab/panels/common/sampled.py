"""Panels on a sample: any sample, given in code or by the name or path typed into the panel."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import ipywidgets as widgets

from multipole_lab.folders import data_folder
from multipole_lab.models.samples.sample import Sample, load_sample

from ..tools.own_text import OwnText
from .base import Panel
from .words import alert

SHIPPED = "smollm2"


class SampledPanel(Panel):
    """A panel whose queries, keys and values come from a sample that can be changed.

    Subclasses give ``title``, ``controls_for`` and ``compute``; results that they keep in ``lru_cache`` attributes
    are dropped when the sample changes.

    Parameters
    ----------
    sample : from ``ml.load_sample`` or ``ml.capture``; or what ``ml.load_sample`` takes. For anything else the
        panel says so and shows the sample that comes with the lab.
    """

    title = ""

    def __init__(self, sample: Sample | str | Path) -> None:
        trouble = ""
        try:
            self.sample = open_sample(sample)
        except (ValueError, TypeError, OSError) as error:
            trouble, self.sample = str(error), load_sample(SHIPPED)
        self._first = self.sample
        self._source = widgets.Combobox(
            options=shipped(), value=_name(self.sample), placeholder="a name or a path", description="sample",
            tooltip="Another sample: a name, or the path of a .safetensors file; then Enter", continuous_update=False,
        )  # fmt: skip
        self._own = OwnText(lambda: list(self.sample.layers), self.use, self._unread)
        super().__init__(self.title, self.controls_for(self.sample))
        self._source.observe(self._sought, "value")
        if trouble:
            self._explain(trouble, f"Shown is {SHIPPED}, which comes with the lab.")

    def controls_for(self, sample: Sample) -> dict[str, widgets.Widget]:
        """Make the controls with the ranges that this sample allows."""
        raise NotImplementedError

    def use(self, sample: Sample | str | Path) -> None:
        """Show another sample; one that cannot be opened is explained in the panel."""
        try:
            found = open_sample(sample)
        except (ValueError, TypeError, OSError) as error:
            self._explain(str(error), f"Shown is still {_name(self.sample) or 'the one before'}.")
            return
        self._notice = ""
        self.sample = found
        self.forget()
        self._held = True
        try:
            for name, fresh in self.controls_for(found).items():
                _fit(self.controls[name], fresh)
                self._defaults[name] = fresh.value
            self._source.value = _name(found)
        finally:
            self._held = False
        self._moved(None)

    def _extra(self) -> list[widgets.Widget]:
        """The choice of a sample, and a text of one's own."""
        return [self._source, *self._own.parts]

    def _moment(self) -> dict:
        return {"sample": self.sample, **super()._moment()}

    def _return_to(self, moment: Mapping[str, object]) -> None:
        state = {name: value for name, value in moment.items() if name != "sample"}
        if moment["sample"] is not self.sample:
            self.use(moment["sample"])
        self.set(**state)

    def forget(self) -> None:
        """Drop what was computed from the sample before."""
        for kept in vars(self).values():
            if hasattr(kept, "cache_clear"):
                kept.cache_clear()

    def reset(self, _button=None) -> None:
        """Put every control back, and the sample that the panel was made with."""
        if self.sample is not self._first or self._notice:
            self.use(self._first)
        super().reset()

    @property
    def _call(self) -> str:
        return f"{self.name}(sample)"

    def _sought(self, change) -> None:
        """Open what was typed; the name of the present sample opens nothing."""
        if not self._held and change["new"] and (change["new"] != _name(self.sample) or self._notice):
            self.use(change["new"])

    def _unread(self, why: str) -> None:
        """Say why a text was not read."""
        self._explain(
            why, f"Shown is still {_name(self.sample) or 'the one before'}.", "This text was not read."
        )

    def _explain(self, why: str, then: str, what: str = "This is not a sample that can be shown.") -> None:
        """Say above the picture why there is not the sample that was asked for."""
        self._notice = self._message.value = alert(what, why, then)


def open_sample(sample: Sample | str | Path) -> Sample:
    """Return a sample as it is, or open it by name or path; raise in words for anything else."""
    if isinstance(sample, (str, Path)):
        return load_sample(sample)
    if hasattr(sample, "layers") and hasattr(sample, "tokens") and hasattr(sample, "scale"):
        return sample
    raise TypeError(
        f"sample: a Sample is needed, from ml.load_sample or ml.capture, or its name or path; "
        f"got {type(sample).__name__}"
    )


def shipped() -> list[str]:
    """The names of the samples that come with the lab."""
    return sorted(path.stem for path in data_folder().glob("*.safetensors"))


def _name(sample: Sample) -> str:
    """How a sample is called: a shipped one by its name, one on disk by its path, one in memory not at all."""
    if sample.path is None:
        return ""
    return sample.path.stem if sample.path.parent == data_folder() else str(sample.path)


def _fit(control: widgets.Widget, fresh: widgets.Widget) -> None:
    """Give a control the range of a fresh one; its value stays where that is still allowed."""
    value = control.value
    if hasattr(fresh, "_options_full"):
        control.options = fresh.options
        allowed = [option for _, option in fresh._options_full]
        control.value = value if value in allowed else fresh.value
    elif hasattr(fresh, "max"):
        control.max, control.min = fresh.max, fresh.min
