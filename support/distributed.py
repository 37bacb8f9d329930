"""Several processes: torchrun starts them, one for each GPU, or a few on a CPU's cores.

Training splits a step's examples among them and adds the gradients up; evaluation splits the
questions. A plain `python` is one process of one.
"""
import atexit
import os
import sys

import torch


def init_distributed(device="auto"):
    """Meet the other processes, where torchrun has started several (GPUs, one each, over NCCL, CPUs
    over Gloo). Only the first prints."""
    if "LOCAL_RANK" not in os.environ:
        return
    if torch.cuda.is_available() and device != "cpu":
        local, count = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if local >= count:
            raise ValueError(f"process {local} has no GPU of its own: start at most {count} "
                             "processes here, or give --device cpu.")
        torch.cuda.set_device(local)
    torch.distributed.init_process_group()
    atexit.register(torch.distributed.destroy_process_group)
    if get_rank() > 0:
        sys.stdout = open(os.devnull, "w")


def leave(status):
    """End this process, if it is one of several: all is written, and exit handlers have nothing
    left to do. Not by Python's own end, which now and then aborts after --shard: torch's caches
    keep the group alive, and a thread of Gloo may give a tensor back to Python when it is gone."""
    if torch.distributed.is_initialized():
        sys.stdout.flush()
        sys.stderr.flush()
        torch.distributed.destroy_process_group()
        os._exit(status or 0)


def get_rank():
    """Which process this is, from 0 on."""
    return torch.distributed.get_rank() if torch.distributed.is_initialized() else 0


def get_world_size():
    """How many processes work together; a plain `python` is one."""
    return torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1


def all_gather(mine):
    """What each process hands in, in the order of ranks."""
    shares = [mine]
    if (n := get_world_size()) > 1:
        torch.distributed.all_gather_object(shares := [None] * n, mine)
    return shares


def all_reduce(parameters, loss):
    """Sum gradients and loss over all processes: each then takes the same step. Returns the sum of
    the losses."""
    flat = [p.grad.flatten() for p in parameters]  # one message, not hundreds
    flat = torch.cat([*flat, torch.tensor([loss], device=parameters[0].device)])
    torch.distributed.all_reduce(flat)
    grads = flat[:-1].split([p.numel() for p in parameters])
    for p, grad in zip(parameters, grads, strict=True):
        p.grad = grad.view_as(p)
    return flat[-1].item()


def shard(model, device):
    """Share the frozen blocks out among the processes; each is put together only while it computes.
    Adapters stay whole, and are returned: the parameters to train, now on the device."""
    if tuple(map(int, torch.__version__.split(".")[:2])) < (2, 7):
        raise ValueError(f"--shard needs torch 2.7 or later, and this is {torch.__version__}.")
    from torch.distributed.fsdp import fully_shard
    for block in model.model.layers:
        fully_shard(block, ignored_params={p for p in block.parameters() if p.requires_grad})
    model.to(device)
    return [p for p in model.parameters() if p.requires_grad]
