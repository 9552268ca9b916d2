"""What figures share: their width, their legend, and SVG text that the same rows give again, byte by byte.

Figures are as wide as a phone shows them without their letters becoming small.
"""

from io import BytesIO

import matplotlib

matplotlib.use("svg")
from matplotlib import pyplot
from matplotlib.figure import Figure

WIDTH = 4.8  # inches


def legend_below(figure: Figure, axes, columns: int = 3) -> None:
    for panel in figure.axes:
        panel.grid(alpha=0.3)
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, fontsize=8.5, frameon=False)


def svg(figure: Figure, name: str) -> str:
    picture = BytesIO()
    # Without a salt of its own every run would name the figure's parts at random.
    with matplotlib.rc_context({"svg.hashsalt": name}):
        figure.savefig(picture, format="svg", metadata={"Date": None})
    pyplot.close(figure)
    text = picture.getvalue().decode()
    return text[text.index("<svg") :]
