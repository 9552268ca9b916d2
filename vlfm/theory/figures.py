"""Figures of the theory page: rows of measurements in, SVG text out; the same rows give the same bytes."""

from collections.abc import Iterable

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from vlfm.plots import WIDTH, legend_below, pyplot, svg

# Okabe and Ito's colours, told apart by colour-blind readers too.
COLOURS = {
    "lstsq": "#0072B2",
    "lstsq, cosine": "#56B4E9",
    "zoh": "#009E73",
    "bilinear": "#E69F00",
    "backward": "#CC79A7",
    "euler": "#D55E00",
}
TERMS = {
    "network": ("ε₀ network", "#CC79A7"),
    "projection": ("ε₁ projection", "#0072B2"),
    "noise": ("ε₂ noise", "#999999"),
    "interpolation": ("ε₃ interpolation", "#E69F00"),
}


def projection_figure(rows: list[dict]) -> str:
    """Lemma F.1: error at the frames against the order, a panel per kind of latents."""
    kinds = _distinct(rows, "latents")
    figure, axes = _panels(len(kinds), 0.4)
    ceiling = 4.0
    for panel, kind in zip(axes, kinds, strict=True):
        for method in _distinct(rows, "method"):
            x, y = _points(rows, "order", "relative", latents=kind, method=method)
            # Rounding errors would stretch the axis over sixteen decades of nothing.
            shown = (y > 1e-6) & (y < ceiling)
            panel.plot(x[shown], y[shown], "o-", markersize=3.5, color=COLOURS[method], label=method)
            for order in x[y >= ceiling]:
                panel.plot(order, ceiling, "^", color=COLOURS[method], clip_on=False, markersize=5)
        panel.set(ylabel="RMS error / RMS latents", yscale="log", title=f"{kind} latents")
        panel.set_ylim(top=ceiling)
        _plain_ticks(panel, "y")
        _whole_numbers(panel)
    axes[-1].set_xlabel("order s")
    legend_below(figure, axes[0])
    return svg(figure, "projection")


def held_out_figure(rows: list[dict]) -> str:
    """Lemma 5.2: error at the frames and between them against the order; the best order ringed."""
    kinds = _distinct(rows, "latents")
    figure, axes = _panels(len(kinds), 0.4)
    styles = {
        ("legendre", "projected"): ("#0072B2", "o-"),
        ("cosine", "projected"): ("#56B4E9", "o-"),
        ("legendre", "hybrid"): ("#009E73", "s-"),
        ("cosine", "hybrid"): ("#E69F00", "s-"),
    }
    for panel, kind in zip(axes, kinds, strict=True):
        for (basis, path), (colour, style) in styles.items():
            if path == "projected":
                x, y = _points(rows, "order", "at_frames", latents=kind, basis=basis, path=path)
                shown = y > 1e-6
                panel.plot(x[shown], y[shown], ":", color=colour, label=f"{basis}, at the given frames")
            x, y = _points(rows, "order", "relative", latents=kind, basis=basis, path=path)
            label = basis if path == "projected" else f"{basis}, hybrid"
            panel.plot(x, y, style, color=colour, markersize=3.5, label=f"{label}, between them")
            if len(y):
                best = int(y.argmin())
                panel.plot(x[best], y[best], "o", markersize=11, fillstyle="none", color=colour)
                panel.annotate(
                    f"s = {x[best]:g}", (x[best], y[best]), (0, -9), textcoords="offset points", ha="center", va="top"
                )
        x, y = _points(rows, "order", "relative", latents=kind, path="linear")
        panel.axhline(y[0], color="#555555", linestyle="--", linewidth=1, label="straight line, between them")
        panel.set(ylabel="RMS error / RMS latents", yscale="log", title=f"{kind} latents")
        panel.margins(x=0.08, y=0.15)
        _plain_ticks(panel, "y")
        _whole_numbers(panel)
    axes[-1].set_xlabel("order s")
    legend_below(figure, axes[0], columns=2)
    return svg(figure, "held_out")


def timescale_figure(rows: list[dict]) -> str:
    """Lemma 5.4: change of H when the motion is sampled more coarsely, a panel per kind of latents."""
    sampled = [row for row in rows if row["experiment"] == "sampled"]
    kinds = _distinct(sampled, "latents")
    figure, axes = _panels(len(kinds), 0.6)
    lines = {2: "o-", 3: "s--"}
    for panel, kind in zip(axes, kinds, strict=True):
        for method in _distinct(sampled, "method"):
            for factor, style in lines.items():
                x, y = _points(sampled, "order", "change", latents=kind, method=method, factor=factor)
                if len(x):
                    label = f"{method}, every {factor}{'nd' if factor == 2 else 'rd'} frame"
                    panel.plot(x, y, style, color=COLOURS[method], markersize=3.5, label=label)
        panel.set(ylabel="‖H′ − H‖ / ‖H‖", yscale="log", title=f"{kind} latents")
        _plain_ticks(panel, "y")
        _whole_numbers(panel)
    axes[-1].set_xlabel("order s")
    legend_below(figure, axes[0], columns=2)
    return svg(figure, "timescale")


def closed_form_figure(rows: list[dict]) -> str:
    """Theorem 4.1: the objective at fields of growing distance from the closed form, per schedule."""
    figure, axes = pyplot.subplots(figsize=(WIDTH, 3.4), layout="constrained")
    first = rows[0]["schedule"]
    for schedule, colour in zip(_distinct(rows, "schedule"), ("#0072B2", "#D55E00"), strict=False):
        x, y = _points(rows, "perturbation", "relative_loss", schedule=schedule, field="perturbed")
        axes.plot(x, y, "o-", color=colour, markersize=3.5, label=schedule)
        _, exact = _points(rows, "perturbation", "relative_loss", schedule=schedule, field="closed form")
        # Rounding lies twenty decades below everything else: named, not drawn to scale.
        axes.plot(
            [0.02 if schedule == first else 0.07],
            [0.0],
            "v",
            color=colour,
            transform=axes.transAxes,
            clip_on=False,
            label=f"{schedule}, closed form: {exact[0]:.0e}",
        )
        x, y = _points(rows, "perturbation", "relative_loss", schedule=schedule, field="network")
        axes.plot(x, y, "*", color=colour, markersize=11, label=f"{schedule}, trained network")
    axes.set(
        xlabel="perturbation of the coefficients, ‖ΔH‖ / ‖H‖",
        ylabel="loss / energy of the target",
        xscale="log",
        yscale="log",
    )
    legend_below(figure, axes, columns=2)
    return svg(figure, "closed_form")


def lipschitz_figure(rows: list[dict]) -> str:
    """Assumption C.8: quotients of the decoder, by direction and size of the step."""
    figure, axes = pyplot.subplots(figsize=(WIDTH, 3.6), layout="constrained")
    colours = ("#D55E00", "#0072B2", "#CC79A7", "#009E73", "#000000")
    decoder = [row for row in rows if row["map"] == "decoder"]
    for direction, colour in zip(_distinct(decoder, "direction"), colours, strict=False):
        chosen = [row for row in decoder if row["direction"] == direction and np.isfinite(row["quotient"])]
        sizes = sorted({row["size"] for row in chosen if row["grid"]})
        values = [[row["quotient"] for row in chosen if row["grid"] and row["size"] == size] for size in sizes]
        axes.plot(sizes, [np.median(part) for part in values], "o-", color=colour, markersize=3.5, label=direction)
        axes.fill_between(
            sizes, [min(part) for part in values], [max(part) for part in values], color=colour, alpha=0.12, linewidth=0
        )
        own = [row for row in chosen if not row["grid"]]
        if own:
            point = np.median([row["size"] for row in own]), np.median([row["quotient"] for row in own])
            axes.plot(*point, "*", color=colour, markersize=11)
    alone = [row["quotient"] for row in rows if row["map"] == "autoencoder" and np.isfinite(row["quotient"])]
    if alone:
        axes.axhline(max(alone), color="#555555", linestyle="--", linewidth=1, label="autoencoder alone")
    axes.set(
        xlabel="size of the step, ‖δ‖ / ‖u‖ (★: as large as the error is)",
        ylabel="‖D(u+δ) − D(u)‖ / ‖δ‖",
        xscale="log",
        yscale="log",
    )
    _plain_ticks(axes, "x")
    _plain_ticks(axes, "y")
    legend_below(figure, axes, columns=2)
    return svg(figure, "lipschitz")


def budget_figure(rows: list[dict]) -> str:
    """Theorem 5.3: the four terms stacked over the clip, with the error they bound, a panel per observation."""
    kinds = _distinct(rows, "observed")
    figure, axes = _panels(len(kinds), 0.5)
    for panel, kind in zip(axes, kinds, strict=True):
        chosen = [row for row in rows if row["observed"] == kind]
        frames = sorted({row["frame"] for row in chosen})

        def mean(name: str, chosen: list[dict] = chosen, frames: list[int] = frames) -> np.ndarray:
            return np.array([np.mean([row[name] for row in chosen if row["frame"] == frame]) for frame in frames])

        times = mean("seconds")
        panel.stackplot(
            times,
            [mean(term) for term in TERMS],
            labels=[label for label, _ in TERMS.values()],
            colors=[colour for _, colour in TERMS.values()],
            alpha=0.75,
            linewidth=0,
        )
        panel.plot(times, mean("total"), "k.-", label="measured ‖ψ − u‖")
        panel.set(
            ylabel="‖error‖ of a latent", title=f"{kind} given, s = {chosen[0]['order']}", xlim=(times[0], times[-1])
        )
        panel.set_ylim(bottom=0)
    axes[-1].set_xlabel("t (seconds)")
    legend_below(figure, axes[0], columns=2)
    return svg(figure, "budget")


def picture_figure(rows: list[dict]) -> str:
    """Theorem 5.3 in pictures: what L0 times the budget allows, and what was measured."""
    figure, axes = pyplot.subplots(figsize=(WIDTH, 3.6), layout="constrained")
    drawn = [row for row in rows if np.isfinite(row["picture"])]
    low = min(row["picture"] for row in drawn)
    high = max(row["picture_bound"] for row in drawn)
    for kind, colour, marker in zip(_distinct(drawn, "observed"), ("#0072B2", "#D55E00"), "os", strict=False):
        chosen = [row for row in drawn if row["observed"] == kind]
        axes.plot(
            [row["picture_bound"] for row in chosen],
            [row["picture"] for row in chosen],
            marker,
            color=colour,
            markersize=3.5,
            alpha=0.7,
            label=f"{kind} given",
        )
    axes.plot([low, high], [low, high], "k--", linewidth=1, label="error = bound")
    axes.set(
        xlabel="bound, L₀ (ε₀ + ε₁ + ε₂ + ε₃)",
        ylabel="measured ‖D(ψ) − D(u)‖",
        xscale="log",
        yscale="log",
    )
    _plain_ticks(axes, "x")
    _plain_ticks(axes, "y")
    legend_below(figure, axes)
    return svg(figure, "picture")


def _panels(count: int, more: float) -> tuple[Figure, np.ndarray]:
    """A figure of panels one below the other, (count,); `more` inches are for what stands around them."""
    figure, axes = pyplot.subplots(
        count, 1, figsize=(WIDTH, 2.7 * count + more), layout="constrained", sharex=True, squeeze=False
    )
    return figure, axes[:, 0]


def _distinct(rows: Iterable[dict], key: str) -> list:
    return list(dict.fromkeys(row[key] for row in rows))


def _points(rows: list[dict], x: str, y: str, **where) -> tuple[np.ndarray, np.ndarray]:
    """The finite points of the rows that have these values, in their order."""
    chosen = [row for row in rows if all(row[key] == value for key, value in where.items())]
    points = [(row[x], row[y]) for row in chosen if np.isfinite(row[y])]
    return np.array([point[0] for point in points], float), np.array([point[1] for point in points], float)


def _whole_numbers(axes) -> None:
    axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(integer=True))


def _plain_ticks(axes, axis: str) -> None:
    """0.2, 0.5, 1, 2 … on a logarithmic axis rather than powers."""
    line = getattr(axes, f"{axis}axis")
    line.set_major_locator(matplotlib.ticker.LogLocator(subs=(1, 2, 5)))
    line.set_major_formatter(matplotlib.ticker.FormatStrFormatter("%g"))
    line.set_minor_formatter(matplotlib.ticker.NullFormatter())
