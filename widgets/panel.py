"""The base of all panels: strict about names, loud about failures.

ipywidgets takes unknown keywords with a warning and swallows what a callback raises; here the
first is a TypeError and the second is shown in the panel. Acts are plain methods that raise;
only `loudly` turns what they raise into a message.
"""

from __future__ import annotations

import html
import traceback
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import ipywidgets

from fapool.errors import FapoolError

Made = TypeVar("Made", bound=ipywidgets.Widget)

_MESSAGE = (
    '<div role="alert" style="border-left:4px solid #D55E00;padding:6px 10px;margin:4px 0;'
    "color:var(--jp-ui-font-color1);background:color-mix(in srgb,#D55E00 12%,transparent);"
    'white-space:pre-wrap;line-height:1.4;border-radius:3px"><b>{title}</b> {text}</div>'
)


def build(kind: type[Made], **traits: Any) -> Made:
    """One ipywidget with these traits.

    Raises:
        TypeError: `kind` has no such trait.
    """
    known = {*kind.class_trait_names(), "options"}
    if unknown := sorted(traits.keys() - known):
        raise TypeError(f"{kind.__name__} has no trait {', '.join(unknown)}")
    return kind(**traits)


_OF_EVERY_WIDGET = {name for name in dir(ipywidgets.VBox) if not name.startswith("_")}


class Panel(ipywidgets.VBox):
    """A box that shows what went wrong in it.

    Args:
        children: what it holds, top to bottom.
        trouble_at: how many of them stand above the place where trouble is shown.
    """

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if taken := sorted(set(vars(cls)) & _OF_EVERY_WIDGET):
            raise TypeError(f"{cls.__name__} would replace ipywidgets' own {', '.join(taken)}")

    def __init__(self, children: Iterable[ipywidgets.Widget] = (), *, trouble_at: int = 0) -> None:
        self.trouble = ipywidgets.HTML()
        self.trouble.layout.display = "none"
        shown = list(children)
        shown.insert(trouble_at, self.trouble)
        super().__init__(children=shown)

    def loudly(self, act: Callable[[], Any]) -> Callable[..., None]:
        """A callback that calls `act` and shows in the panel what it raises."""

        def call(*_event: Any) -> None:
            self.forget_trouble()
            try:
                act()
            except Exception as error:
                self.report(error)

        return call

    def report(self, error: BaseException) -> None:
        """Show an error: one line where we foresaw it, its traceback where we did not."""
        if isinstance(error, FapoolError):
            title, text = _TITLES.get(type(error).__name__, "This did not work:"), str(error)
        else:
            title = "A defect in fapool; please report it with these lines:"
            text = "\n" + "".join(traceback.format_exception(error))
        self.trouble.value = _MESSAGE.format(title=title, text=html.escape(text))
        self.trouble.layout.display = None

    def forget_trouble(self) -> None:
        """Take the message away."""
        self.trouble.value = ""
        self.trouble.layout.display = "none"


_TITLES = {
    "SpecError": "Cannot run this:",
    "TraceFileError": "Cannot read this trace:",
    "RankFailed": "The run failed; the next one starts fresh ranks:",
    "CheckFailed": "The plan computed something else than the reference, so it was not measured:",
    "StoreError": "Cannot read this run:",
}
