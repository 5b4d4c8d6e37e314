"""A figure as bytes: PNG for notebooks and files, SVG for a page that must stand alone."""

from __future__ import annotations

import io

import matplotlib as mpl
from matplotlib.figure import Figure


def png(figure: Figure, *, dpi: int = 110) -> bytes:
    """The figure as a PNG file."""
    return _save(figure, format="png", dpi=dpi)


def svg(figure: Figure) -> str:
    """The figure as an `<svg>` element: no XML head, no date, nothing loaded from elsewhere."""
    text = _save(figure, format="svg", metadata={"Date": None}).decode()
    return text[text.index("<svg") :]


def _save(figure: Figure, **options: object) -> bytes:
    buffer = io.BytesIO()
    # the same figure gives the same bytes: ids within an SVG are salted hashes
    with mpl.rc_context({"svg.hashsalt": "fapool", "svg.fonttype": "path"}):
        figure.savefig(buffer, **options)
    return buffer.getvalue()
