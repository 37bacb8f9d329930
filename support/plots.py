"""The pictures, for which matplotlib is needed: pip install matplotlib."""
import io
import json
from importlib.util import find_spec
from pathlib import Path

from support.files import atomic_write, check_outputs


def check_plot(path):
    """Raises ValueError if matplotlib is absent or draws no such files: the end of the name tells;
    without one, it is png."""
    if not find_spec("matplotlib"):
        raise ValueError("--plot needs matplotlib; pip install matplotlib.")
    from matplotlib.figure import Figure
    try:
        Figure().savefig(io.BytesIO(), format=Path(path).suffix[1:].lower() or "png")
    except (ValueError, RuntimeError, OSError) as error:
        raise ValueError(f"--plot {path}: {error}") from None


def plot_study(curves, path):
    """Accuracy against generated tokens; how right agreed answers are against how many agree."""
    from matplotlib.figure import Figure  # for pictures only
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name, marker in zip(curves, "os^D", strict=True):
        x, y = ([line[key] for line in curves[name]] for key in ("tokens", "accuracy"))
        left.plot(x, [100 * accuracy for accuracy in y], marker=marker, ms=4, label=name)
    left.set(xlabel="generated tokens per question", ylabel="accuracy, %")
    left.legend(fontsize="small")
    pairs = [(100 * line["agreed"], 100 * line["accuracy_when_agreed"])
             for line in curves["LoRID"] if line["agreed"]]
    right.plot(*zip(*pairs, strict=True), marker="o", ms=3)
    right.set(xlabel="questions agreed upon within 1, 2, 3, ... rounds, %",
              ylabel="accuracy on these, %")
    save(figure, path)


def read_log(path):
    """The steps in a log.jsonl: {"step": 1, "loss": 1.5, ...}. A last line may still be written."""
    lines = []
    for number, line in enumerate(path.read_bytes().splitlines(keepends=True), 1):
        if not line.endswith(b"\n"):
            break
        try:
            entry = json.loads(line)
            lines.append({key: float(entry[key]) for key in ("step", "loss", "val_loss")
                          if key in entry or key != "val_loss"})
        except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
            raise ValueError(f"{path}:{number}: no step of a training; remove the line.") from None
    return lines


def plot_training(folder, roles, path):
    """Draw the losses in folder/<role>/log.jsonl over the steps, those of held-out rows as points.
    Raises ValueError if no picture can be drawn there, or no role has a log."""
    check_plot(path)
    check_outputs({"--plot": path})
    logs = {role: read_log(log) for role in roles if (log := folder / role / "log.jsonl").is_file()}
    if not any(logs.values()):
        raise ValueError(f"there is no log of a training in {folder}; train first, or name its "
                         "--out and --model.")
    from matplotlib.figure import Figure
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for role, log in logs.items():
        [line] = axes.plot([e["step"] for e in log], [e["loss"] for e in log], lw=1, label=role)
        held_out = [(e["step"], e["val_loss"]) for e in log if "val_loss" in e]
        if held_out:
            axes.plot(*zip(*held_out, strict=True), "o", color=line.get_color(), ms=5,
                      label=f"{role}, held out")
    axes.set(xlabel="step", ylabel="loss per supervised token")
    axes.legend()
    save(figure, path)


def save(figure, path):
    image = io.BytesIO()
    figure.savefig(image, format=Path(path).suffix[1:].lower() or "png", dpi=150)
    atomic_write(path, [image.getvalue()])
