"""A training that is stopped, or killed, and goes on as if nothing had been. In its folder:

    log.jsonl                              a line a step, as it is taken; locked meanwhile
    checkpoint-step-0000120.safetensors    all that step 121 depends on; at most two, three while
                                           the newest is written, and none in the end

A checkpoint holds parameters, the optimizer's averages and random generators as tensors; settings,
step, checksum and log in the metadata. The order of the data follows from the seed: batches that
were used are drawn again and dropped. Nothing is pickled.
"""
import json
import time
import zlib
from contextlib import suppress
from pathlib import Path

import torch

from model import read_safetensors, write_safetensors
from support.cli import outlive_terminal, say
from support.distributed import all_gather, get_rank
from support.files import check_writable, explained, open_locked, read_metadata, vanished
from support.settings import differences


def checksum(tensors):
    """CRC-32 of {name: tensor}."""
    total = 0
    for tensor in tensors.values():
        flat = tensor.detach().cpu().contiguous().view(-1)
        total = zlib.crc32(flat.view(torch.uint8).numpy(), total)
    return total


def read(path):
    """A checkpoint -> (step, settings, log, tensors). Raises ValueError if it is not whole."""
    tensors, metadata = read_safetensors(path), read_metadata(path)
    try:
        state, log = json.loads(metadata["state"]), metadata["log"].encode()
        if checksum(tensors) == state["checksum"]:
            return state["step"], dict(state["settings"]), log, tensors
    except (KeyError, TypeError, ValueError, RecursionError):
        pass
    raise ValueError(f"{path} is damaged.")


class Checkpoints:
    """The log and the checkpoints of one training, in `folder`; of all processes the first writes.

    settings: {flag: value}, what a resumed training shares with the one that was stopped; resume:
    whether to go on from the newest whole checkpoint; minutes: from one to the next. Raises
    ValueError if another process trains there, or if the settings differ."""

    def __init__(self, folder, settings, resume, minutes):
        self.folder, self.settings, self.seconds = Path(folder), settings, 60 * minutes
        self.interrupts, self.written = [], time.time()  # as delayed_interrupts() tells of them
        outlive_terminal()
        self.path, self.resume = self.folder / "log.jsonl", resume
        check_writable(self.folder)
        self.log = open_locked(self.path) if self.path.exists() and get_rank() == 0 else None
        self.start, self.previous = None, next(reversed(self.there()), None)
        if resume:
            self.find()

    def there(self):
        """The checkpoints in the folder, the newest last."""
        return sorted(self.folder.glob("checkpoint-step-[0-9]*.safetensors"))

    def find(self):
        """Start from the newest checkpoint that is whole and of these settings."""
        changes = []
        for path in reversed(self.there()):
            try:
                _, settings, _, _ = read(path)
            except (ValueError, OSError) as error:
                say(f"note: a checkpoint is left aside: {error}")
                continue
            if settings == self.settings:
                self.start = self.previous = path
                return
            changes = changes or differences(settings, self.settings)
        if changes:
            self.close()
            raise ValueError(f"{self.folder}: its checkpoint is of a training with "
                             f"{', '.join(changes)}; give the same settings, or leave --resume out "
                             "to start anew.")

    def begin(self, optimizer):
        """Take the folder, put all back as in the checkpoint. Returns how many steps were taken."""
        step, _, log, tensors = read(self.start) if self.start else (0, None, b"", {})
        if get_rank() == 0:
            size = 3 * 4 * sum(p.numel() for p, _, _ in optimizer.state)
            self.folder.mkdir(parents=True, exist_ok=True)
            check_writable(self.folder, file_size=size, size=4 * size)
            self.log = self.log or open_locked(self.path)
            self.log.truncate(0)
            self.write_log(log)
        if self.start:
            self.load(optimizer, step, tensors)
            say(f"  resumed    after step {step}, from {self.start}")
        elif self.resume:  # of other settings than these would have been refused
            how, what = ("WARNING", "whole checkpoint") if self.previous else ("note", "checkpoint")
            say(f"  {how:10} no {what} in {self.folder}; from the start")
        elif self.previous:
            say(f"  note       {self.previous} is not used without --resume; it goes when this "
                "training has two of its own, or ends")
        if len(set(all_gather(step))) > 1:
            raise ValueError(f"{self.folder}: the processes see different checkpoints; --out must "
                             "be on a disk that all of them share.")
        return step

    @torch.no_grad()
    def load(self, optimizer, step, tensors):
        for i, kept in enumerate(optimizer.state):
            for name, tensor in zip("pmv", kept, strict=True):
                tensor.copy_(tensors[f"{i}.{name}"])
        optimizer.t, device = step, optimizer.state[0][0].device
        torch.set_rng_state(tensors[f"random.{get_rank()}.cpu"].clone())
        if device.type == "cuda":
            torch.cuda.set_rng_state(tensors[f"random.{get_rank()}.cuda"].clone(), device)

    def write_log(self, line):
        self.hold()
        with explained(self.path):
            self.log.write(line)
            self.log.flush()

    def hold(self):
        """Write the log again if somebody has deleted or renamed it: the lock is gone with the
        file. Raises ValueError if another training has taken the folder since."""
        if not vanished(self.log):
            return
        self.log.seek(0)
        with self.log as old, explained(self.path):
            self.folder.mkdir(parents=True, exist_ok=True)
            self.log = open_locked(self.path)
            self.log.truncate(0)
            self.log.write(old.read())

    def after(self, entry, optimizer, last):
        """Log a step that has been taken, {"step": 1, ...}, and write a checkpoint if it is time.
        Raises KeyboardInterrupt if Ctrl-C was pressed, or SIGTERM came, meanwhile."""
        if get_rank() == 0:
            self.write_log(json.dumps(entry).encode() + b"\n")
        due = time.time() - self.written > self.seconds or (last and bool(self.there()))
        due, stop = map(any, zip(*all_gather((due, bool(self.interrupts))), strict=True))
        if due or stop:
            self.save(entry["step"], optimizer)
        if stop:
            raise KeyboardInterrupt(f"stopped after step {entry['step']}; the same command with "
                                    "--resume goes on from there.")

    def save(self, step, optimizer):
        device = optimizer.state[0][0].device
        mine = {"cpu": torch.get_rng_state()}  # what the next dropout will be drawn from
        if device.type == "cuda":
            mine["cuda"] = torch.cuda.get_rng_state(device)
        tensors = {f"{i}.{name}": tensor for i, kept in enumerate(optimizer.state)
                   for name, tensor in zip("pmv", kept, strict=True)}
        for rank, states in enumerate(all_gather(mine)):
            tensors |= {f"random.{rank}.{kind}": state for kind, state in states.items()}
        if get_rank() == 0:
            state = {"step": step, "settings": self.settings, "checksum": checksum(tensors)}
            self.log.seek(0)
            path = self.folder / f"checkpoint-step-{step:07}.safetensors"
            write_safetensors(path, tensors, {"state": json.dumps(state),
                                              "log": self.log.read().decode()})
            self.remove(but=(path, self.previous))
            self.previous = path
        self.written = time.time()

    def remove(self, but=()):
        for path in self.there():
            if path not in but:
                path.unlink()

    def finish(self):
        """All is saved, the checkpoints go. Raises KeyboardInterrupt if Ctrl-C came meanwhile."""
        if get_rank() == 0:
            self.remove()
        self.close()
        if any(all_gather(bool(self.interrupts))):
            raise KeyboardInterrupt(f"stopped; {self.folder} is trained and saved.")

    def close(self):
        if self.log:
            with suppress(OSError):  # what was left to write has been told of already
                self.log.close()
