"""Whether two runs are the same: their settings, and what tells rows and bases from others."""
import hashlib
import json
from pathlib import Path


def digest_rows(rows):
    """What tells training rows from others; where they stand does not count."""
    digest = hashlib.sha256()
    for row in rows:
        row = {key: value for key, value in row.items() if key != "where"}
        digest.update(json.dumps(row, sort_keys=True).encode())
    return f"{len(rows)} rows {digest.hexdigest()[:12]}"


def digest_model(folder):
    """What tells a base or an adapter from another: a hash of its settings, tokenizer and weights;
    of a large file 4,096 pieces, spread over it, as the whole would take minutes."""
    digest, folder = hashlib.sha256(), Path(folder)
    for path in [*sorted(folder.glob("*.safetensors")), *sorted(folder.glob("*.json"))]:
        size = path.stat().st_size
        for start in range(0, size, max(4096, size // 4096)):
            with open(path, "rb") as file:
                file.seek(start)
                digest.update(file.read(4096))
    return f"{folder.resolve().name} {digest.hexdigest()[:12]}"


def differences(old, new):
    """Of the settings of two trainings: ["--lr 0.002 (now 0.001)", ...]."""
    return [f"{key} {old.get(key)} (now {new.get(key)})"
            for key in {**old, **new} if old.get(key) != new.get(key)]
