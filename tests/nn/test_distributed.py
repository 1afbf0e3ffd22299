"""Two processes under DistributedDataParallel have the gradients of one process with the whole batch."""

import os
import sys

import torch
from torch import distributed, multiprocessing
from torch.nn.parallel import DistributedDataParallel

from aaconv import AttentionAugmentedConv2d

# whatever the machine's name resolves to
LOOPBACK = "lo" if sys.platform == "linux" else "lo0"


def build():
    torch.manual_seed(0)
    layer = AttentionAugmentedConv2d(4, 8, 3, key_channels=8, value_channels=4, num_heads=2, grid=(6, 5))
    return layer, torch.randn(4, 4, 6, 5)


def work(rank, address, results):
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = LOOPBACK
    distributed.init_process_group("gloo", init_method=f"file://{address}", rank=rank, world_size=2)
    layer, x = build()
    wrapped = DistributedDataParallel(layer)  # raises in backward if a parameter got no gradient
    for _ in range(2):
        layer.zero_grad()
        wrapped(x[2 * rank : 2 * rank + 2]).square().mean().backward()
    torch.save({name: p.grad for name, p in layer.named_parameters()}, f"{results}.{rank}")
    distributed.barrier()  # neither leaves while the other still talks to it
    os._exit(0)  # the results are on disk; Gloo's threads now and then abort a process that takes them down


def test_gradients_equal_one_process(tmp_path):
    multiprocessing.spawn(work, (tmp_path / "address", tmp_path / "grads"), nprocs=2)
    layer, x = build()
    layer(x).square().mean().backward()
    for rank in range(2):
        got = torch.load(tmp_path / f"grads.{rank}", weights_only=True)
        for name, parameter in layer.named_parameters():
            torch.testing.assert_close(got[name], parameter.grad, msg=lambda text, n=name: f"{n}: {text}")
