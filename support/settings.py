"""Whether two runs are the same: their settings, and what tells rows and bases from others."""
import hashlib
import json
import re
from itertools import chain
from pathlib import Path

from lora import read_adapter
from model import pick_device
from support.distributed import get_world_size
from support.files import read_metadata


def digest_rows(rows):
    """What tells training rows from others; where they stand does not count."""
    digest = hashlib.sha256()
    for row in rows:
        row = {key: value for key, value in row.items() if key != "where"}
        digest.update(json.dumps(row, sort_keys=True).encode())
    return f"{len(rows)} rows {digest.hexdigest()[:12]}"


def files_of(folder):
    """What a base or an adapter is read from; anything else in its folder is not the model's."""
    names = {"config.json", "generation_config.json", "tokenizer.json", "adapter_config.json",
             "model.safetensors.index.json"}
    weights = {"model.safetensors", "adapter_model.safetensors"}
    index = folder / "model.safetensors.index.json"
    if index.is_file():  # it names the shards
        weights |= set(re.findall(r'"([^"/\\]+\.safetensors)"', index.read_text(errors="replace")))
    paths = [folder / name for name in [*sorted(weights), *sorted(names)]]
    return [path for path in paths if path.is_file()]


def digest_model(folder):
    """What tells a base or an adapter from another: a hash of its settings, tokenizer and weights;
    of a large file 4,096 pieces, spread over it, as the whole would take minutes."""
    digest, folder = hashlib.sha256(), Path(folder)
    for path in files_of(folder):
        with open(path, "rb") as file:
            size = path.stat().st_size
            for start in range(0, size, max(4096, size // 4096)):
                file.seek(start)
                digest.update(file.read(4096))
    return f"{folder.resolve().name} {digest.hexdigest()[:12]}"


# Flags that change nothing of what is learnt: a training that is resumed may have others. --model
# and --data are known by what they hold.
FREE = ("role", "base", "model", "data", "out", "preset", "checkpointing", "save_every", "resume",
        "plot")


def settings_of(role, rows, args):
    """{name: value} of all that decides what a role learns, to the bit; rows: lists of rows."""
    flags = {f"--{key.replace('_', '-')}": value for key, value in vars(args).items()
             if key not in FREE}
    return {"--role": role, **flags, "--device": pick_device(args.device).type,
            "--model": digest_model(args.model), "--data": digest_rows([*chain(*rows)]),
            "processes": get_world_size()}


def differences(old, new):
    """Of the settings of two trainings: ["--lr 0.002 (now 0.001)", ...]."""
    return [f"{key} {old.get(key)} (now {new.get(key)})"
            for key in {**old, **new} if old.get(key) != new.get(key)]


def trained_with(folder):
    """The settings with which the adapter in `folder` was saved; None if it is not whole, or if
    nothing is known of them."""
    try:
        read_adapter(folder)
        return json.loads(read_metadata(Path(folder) / "adapter_model.safetensors")["settings"])
    except (ValueError, KeyError, OSError, RecursionError):
        return None
