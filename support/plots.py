"""The pictures, for which matplotlib is needed: pip install matplotlib."""
import io
from pathlib import Path

from support.files import atomic_write


def check_plot(path):
    """Raises ValueError if matplotlib draws no such files, by the end of the name; none is png."""
    from matplotlib.figure import Figure
    try:
        Figure().savefig(io.BytesIO(), format=Path(path).suffix[1:] or "png")
    except (ValueError, RuntimeError, OSError) as error:
        raise ValueError(f"--plot {path}: {error}") from None


def plot_study(curves, path):
    """Accuracy against generated tokens; how right agreed answers are against how many agree."""
    from matplotlib.figure import Figure  # for pictures only
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name, marker in (("LoRID", "o"), ("self-consistency", "s")):
        x, y = ([line[key] for line in curves[name]] for key in ("tokens", "accuracy"))
        left.plot(x, [100 * accuracy for accuracy in y], marker=marker, ms=3, label=name)
    left.set(xlabel="generated tokens per question", ylabel="accuracy, %")
    left.legend()
    pairs = [(100 * line["agreed"], 100 * line["accuracy_when_agreed"])
             for line in curves["LoRID"] if line["agreed"]]
    right.plot(*zip(*pairs, strict=True), marker="o", ms=3)
    right.set(xlabel="questions agreed upon within 1, 2, 3, ... rounds, %",
              ylabel="accuracy on these, %")
    image = io.BytesIO()
    figure.savefig(image, format=Path(path).suffix[1:] or "png", dpi=150)
    atomic_write(path, [image.getvalue()])
