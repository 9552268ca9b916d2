"""The theory page's words: rows of measurements in, one sentence after another out; no number is written here."""

import html
import re
from dataclasses import dataclass

import numpy as np

from vlfm import __version__
from vlfm.flow.bases import BASES

NBSP = "\u00a0"


@dataclass(frozen=True)
class Finding:
    """One statement of the paper, what was measured of it, and the figures that show it."""

    title: str
    statement: str
    measured: list[str]
    figures: list[str]
    data: str
    table: str = ""


def describe(tables: dict[str, list[dict]], order: int, schedule: str, largest: float) -> list[Finding]:
    """The page's sections. tables: the rows of `write.measure`, by file name. largest: the L0 found."""
    return [
        _projection_finding(tables["projection"], order),
        _held_out_finding(tables["held_out"]),
        _timescale_finding(tables["timescale"], order),
        _closed_form_finding(tables["closed_form"]),
        _lipschitz_finding(tables["lipschitz"], largest),
        _budget_finding(tables["budget"], largest, schedule),
    ]


def _projection_finding(rows: list[dict], order: int) -> Finding:
    measured = []
    for kind in dict.fromkeys(row["latents"] for row in rows):
        for way, functions in (("lstsq", "Legendre polynomials"), ("lstsq, cosine", "cosines")):
            errors = {row["order"]: row["relative"] for row in rows if (row["latents"], row["method"]) == (kind, way)}
            last = max(2, max(errors) // 2)
            ratio = errors[last] / errors[1] if errors[1] * errors[last] > 0 else np.nan
            measured.append(
                f"{kind.capitalize()} latents: least squares on {functions} leaves {_percent(errors[1])} of the "
                f"latents' RMS at s = 1, {_percent(errors[order])} at the run's s = {order}, "
                f"{_percent(errors[max(errors)])} at s = N = {max(errors)}; up to s = {last} the error goes as "
                f"s<sup>{np.log(ratio) / np.log(last):.2f}</sup>."
            )
    at_order = {
        row["method"]: row["relative"] for row in rows if row["latents"] == "inverted" and row["order"] == order
    }
    worst = [row for row in rows if row["method"] == "euler" and row["latents"] == "inverted"]
    peak = max((row for row in worst if np.isfinite(row["relative"])), key=lambda row: row["relative"])
    measured.append(
        f"At s = {order} on inverted latents: "
        + ", ".join(f"{name} {_percent(value)}" for name, value in at_order.items())
        + f". The recurrence as printed (euler) reaches {_number(peak['relative'])} times the latents' RMS, at s = "
        f"{peak['order']}."
    )
    measured += _notes(rows)
    return Finding(
        "Lemma F.1: the projection's error at the frames",
        "‖μ<sub>τ</sub> − u<sub>τ</sub>‖ = O(t<sup>k</sup> s<sup>−k+1/2</sup>) for latents that are k times "
        "differentiable (Lemma F.1). The recurrence of Definition D.3 is <i>euler</i>; the proofs use <i>lstsq</i>. "
        "▲: beyond the top of the figure.",
        measured,
        ["projection"],
        "projection",
    )


def _held_out_finding(rows: list[dict]) -> Finding:
    measured = []
    for kind in dict.fromkeys(row["latents"] for row in rows):
        (line,) = (row["relative"] for row in rows if row["latents"] == kind and row["path"] == "linear")
        told = []
        for basis, about in BASES.items():
            best, mixed = (_best(rows, kind, basis, path) for path in ("projected", "hybrid"))
            last = max(_of(rows, kind, basis, "projected"), key=lambda row: row["order"])
            told.append(
                f"{about.plural} are best at s = {best['order']}, with {_percent(best['relative'])} of the latents' "
                f"RMS between the given frames, and leave {_percent(last['relative'])} at s = {last['order']}; their "
                f"hybrid is best at s = {mixed['order']} with {_percent(mixed['relative'])}"
            )
        measured.append(
            f"{kind.capitalize()} latents, every second frame given: {'. '.join(told)}. The straight line leaves "
            f"{_percent(line)}."
        )
    measured += _notes(rows)
    return Finding(
        "Lemma 5.2: the error between the frames, and the best order",
        "‖ψ<sub>t</sub> − u<sub>t</sub>‖ ≤ ε₁ + ε₂ + ε₃: a higher order lowers ε₁ at the frames and raises ε₃ between "
        "them (Lemma 5.2, proved as Lemma F.3), so that one order is best.",
        measured,
        ["held_out"],
        "held_out",
    )


def _timescale_finding(rows: list[dict], order: int) -> Finding:
    faster = [row["change"] for row in rows if row["experiment"] == "faster" and np.isfinite(row["change"])]
    factors = sorted({row["factor"] for row in rows})
    measured = [
        f"The same frames played {' and '.join(f'{factor}×' for factor in factors)} as fast: H changes by at most "
        f"{max(faster):.1e} of its norm over all methods and orders, {_rounding(max(faster))}."
    ]
    for kind in dict.fromkeys(row["latents"] for row in rows):
        for factor in factors:
            parts = []
            for method in dict.fromkeys(row["method"] for row in rows):
                changes = {
                    row["order"]: row["change"]
                    for row in rows
                    if (row["experiment"], row["latents"], row["method"], row["factor"])
                    == ("sampled", kind, method, factor)
                    and np.isfinite(row["change"])
                    and row["order"] <= order
                }
                shown = sorted({min(changes), max(changes)}) if changes else []
                if shown:
                    parts.append(method + " " + ", ".join(f"{_percent(changes[s])} at s = {s}" for s in shown))
            measured.append(
                f"The same motion from every {factor}{'nd' if factor == 2 else 'rd'} frame, {kind} latents: H changes "
                "by " + "; ".join(parts) + "."
            )
    measured += _notes(rows)
    return Finding(
        "Lemma 5.4: the coefficients and the timescale",
        "Scaling the frames V<sub>τ</sub> to V<sub>βτ</sub> does not change H<sub>N</sub> (Lemma 5.4, Lemma F.2). "
        "Exact for the same frames at another speed; with fewer frames of the same motion, true up to what the dropped "
        "frames knew.",
        measured,
        ["timescale"],
        "timescale",
    )


def _closed_form_finding(rows: list[dict]) -> Finding:
    measured = []
    for schedule in dict.fromkeys(row["schedule"] for row in rows):
        chosen = [row for row in rows if row["schedule"] == schedule]
        exact = next(row for row in chosen if row["field"] == "closed form")
        network = next(row for row in chosen if row["field"] == "network")
        bent = [row for row in chosen if row["field"] == "perturbed"]
        growth = np.log(bent[-1]["loss"] / bent[0]["loss"])
        slope = growth / np.log(bent[-1]["perturbation"] / bent[0]["perturbation"])
        measured.append(
            f"Schedule {schedule}: the closed form's loss is {exact['relative_loss']:.1e} of the target's energy, "
            f"{_rounding(exact['relative_loss'])}; the loss of perturbed coefficients grows as the perturbation to the "
            f"power {slope:.2f}; the trained network's are {_percent(network['perturbation'])} off and cost "
            f"{_percent(network['relative_loss'])}."
        )
    return Finding(
        "Theorem 4.1: the closed form is the optimum",
        "F(z, c, t) = (σ′/σ)(z − μ) + μ′ minimises the training objective (Theorem 4.1, Theorem D.10; the objective "
        "is Definition D.9). An error ΔH of the coefficients enters the field through (σ′/σ) m ΔH g as well, which is "
        "how a small one can cost much. ▼: below the figure.",
        measured,
        ["closed_form"],
        "closed_form",
    )


def _lipschitz_finding(rows: list[dict], largest: float) -> Finding:
    decoder = [row for row in rows if row["map"] == "decoder" and np.isfinite(row["quotient"])]
    frames = len({(row["clip_id"], row["frame"]) for row in decoder})
    parts = []
    for direction in dict.fromkeys(row["direction"] for row in decoder):
        chosen = [row for row in decoder if row["direction"] == direction]
        own = [row for row in chosen if not row["grid"]]
        smallest = min(row["size"] for row in chosen)
        values = [row["quotient"] for row in own or chosen if own or row["size"] == smallest]
        where = "its own size" if own else f"{_percent(smallest)} of ‖u‖"
        parts.append(f"{direction} {np.median(values):.2f} at {where}")
    alone = max((row["quotient"] for row in rows if row["map"] == "autoencoder"), default=np.nan)
    climbed = any(row["direction"] == "worst found" for row in decoder)
    how = (
        "the worst direction was climbed to by power iteration with gradients"
        if climbed
        else "this decoder offers no gradients, so that no worst direction was sought"
    )
    measured = [
        f"L₀ ≥ {largest:.2f}, a lower bound from {len(decoder)} pairs of latents at {frames} real frames; {how}.",
        "Median quotient by direction: " + ", ".join(parts) + f". The autoencoder alone at most {alone:.2f}.",
    ]
    measured += _notes(rows)
    return Finding(
        "Assumption C.8: the decoder's Lipschitz constant L₀",
        "‖D(x) − D(y)‖ ≤ L₀ ‖x − y‖ (Assumption C.8), frames in [−1, 1]. Every quotient of two actual points bounds "
        "L₀ from below; nothing short of a proof bounds it from above. Lines: median over frames, bands: their range.",
        measured,
        ["lipschitz"],
        "lipschitz",
    )


def _budget_finding(rows: list[dict], largest: float, schedule: str) -> Finding:
    measured, body = [], []
    for observed in dict.fromkeys(row["observed"] for row in rows):
        chosen = [row for row in rows if row["observed"] == observed]
        mean = {
            name: float(np.mean([row[name] for row in chosen]))
            for name in ("network", "projection", "noise", "interpolation", "bound", "total", "latent", "noise_paper")
        }
        held = sum(row["total"] <= row["bound"] * (1 + 1e-9) for row in chosen)
        measured.append(
            f"{observed.capitalize()} given, s = {chosen[0]['order']}: the latents are off by {mean['total']:.1f} (of "
            f"{mean['latent']:.1f}), the sum of the terms is {mean['bound']:.1f}; it bounds {held} of {len(chosen)} "
            "frames."
        )
        drawn = [row for row in chosen if np.isfinite(row["picture"])]
        if drawn:
            held = sum(row["picture"] <= row["picture_bound"] for row in drawn)
            loose = np.median([row["picture_bound"] / max(row["picture"], 1e-12) for row in drawn])
            measured.append(
                f"In pictures, with L₀ = {largest:.2f}: the bound holds at {held} of {len(drawn)} decoded frames "
                f"and is {_number(loose)} times the measured error (median)."
            )
        names = ("network", "projection", "noise", "interpolation", "bound", "total")
        picture = np.mean([row["picture"] for row in drawn]) if drawn else np.nan
        allowed = np.mean([row["picture_bound"] for row in drawn]) if drawn else np.nan
        body.append([observed, *(f"{mean[name]:.2f}" for name in names), f"{allowed:.0f}", f"{picture:.1f}"])
    measured.append(
        f"ε₂ is the readout <i>sample</i>'s alone: it is {mean['noise']:.2f} under this run's schedule ({schedule}), "
        f"would be {mean['noise_paper']:.1f} under the paper's, and is 0 with the readout <i>mean</i>, which takes the "
        "known noise out."
    )
    head = ["given", "ε₀", "ε₁", "ε₂", "ε₃", "sum", "measured", "L₀ · sum", "in pictures"]
    cells = "".join(f"<th>{cell}</th>" for cell in head)
    lines = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in body)
    return Finding(
        "Theorem 5.3: the error budget",
        "‖D(ψ<sub>t</sub>) − V<sub>t</sub>‖ ≤ ε₀ + L₀ (ε₁ + ε₂ + ε₃) (Theorem 5.3, Theorem F.4). All terms are "
        "Euclidean norms of a latent; ε₀ is measured in latents as well, so that L₀ multiplies it too, which can "
        "only enlarge the bound. With every frame given no truth is left between them, and ε₃ is 0; with every "
        "second frame given the network's error, cut to the lower order, is carried over, and the first frame lies "
        "before every given one: there the path extrapolates.",
        measured,
        ["budget", "picture"],
        "budget",
        f'<div class="scroll"><table><thead><tr>{cells}</tr></thead><tbody>{lines}</tbody></table></div>'
        '<p class="small">Mean norms over clips and frames; the last two over the decoded frames.</p>',
    )


PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>VLFM theory</title>
<style>
:root {{ color-scheme: light dark; --line: #8884; --soft: #8882; }}
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 44rem; margin: 0 auto; padding: 1rem; }}
h1 {{ margin-bottom: .2rem; }} h2 {{ margin-top: 2.2rem; border-bottom: 1px solid var(--line); font-size: 1.2rem; }}
blockquote {{ margin: 0; padding: .5rem .8rem; background: var(--soft); border-radius: .5rem; }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .85rem; }}
th, td {{ padding: .25rem .4rem; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }}
th:first-child, td:first-child {{ text-align: left; }}
.scroll {{ overflow-x: auto; }} .small {{ font-size: .85rem; }}
figure {{ margin: 1rem 0; }}
svg {{ display: block; width: 100%; max-width: 36rem; height: auto; background: #fff; border-radius: .25rem; }}
</style>
</head>
<body>
<h1>The theory, measured</h1>
<p>{about} Numbers are also in the CSV files beside this page.</p>
{sections}
<p class="small">vlfm {version}</p>
</body>
</html>
"""


def page(about: str, findings: list[Finding], figures: dict[str, str]) -> str:
    sections = []
    for finding in findings:
        label = f'<svg role="img" aria-label="{finding.title}"'
        drawn = "".join(f"<figure>{figures[name].replace('<svg', label, 1)}</figure>" for name in finding.figures)
        sections.append(
            f"<section>\n<h2>{finding.title}</h2>\n<blockquote>{finding.statement}</blockquote>\n"
            + "".join(f"<p>{sentence.replace(' = ', NBSP + '=' + NBSP)}</p>\n" for sentence in finding.measured)
            + finding.table
            + drawn
            + f'<p class="small">Data: {finding.data}.csv</p>\n</section>'
        )
    return PAGE.format(about=html.escape(about), sections="\n".join(sections), version=__version__)


def _of(rows: list[dict], kind: str, basis: str, path: str) -> list[dict]:
    asked = (kind, basis, path)
    return [
        row for row in rows if (row["latents"], row["basis"], row["path"]) == asked and np.isfinite(row["relative"])
    ]


def _best(rows: list[dict], kind: str, basis: str, path: str) -> dict:
    return min(_of(rows, kind, basis, path), key=lambda row: row["relative"])


def _notes(rows: list[dict]) -> list[str]:
    """What could not be measured, one sentence a reason."""
    reasons = [row["note"].split(":")[0].split(";")[0] for row in rows if row["note"]]
    if not reasons:
        return []
    return [
        f"Left out of the figure: {len(reasons)} of {len(rows)} combinations (for example, {html.escape(reasons[0])}); "
        "the note column of the CSV has every reason."
    ]


def _percent(share: float) -> str:
    """A share as a person writes it; below 1e-9 it is nothing but rounding."""
    if abs(share) < 1e-9:
        return "0 % (rounding)"
    return f"{_number(100 * share)} %"


def _number(value: float) -> str:
    """Two digits, no exponent as long as a person can read it."""
    return f"{value:.2g}" if not 10 <= abs(value) < 1e6 else f"{value:.0f}"


def _rounding(value: float) -> str:
    """What to say of a number that should be 0."""
    return "which is rounding" if abs(value) < 1e-9 else "which is more than rounding"


def plain(finding: Finding) -> str:
    """A finding without markup, for the log."""
    lines = [re.sub("<sup>", "^", line) for line in finding.measured]
    return "\n  ".join(html.unescape(re.sub("<[^>]*>", "", line)) for line in [finding.title, *lines])
