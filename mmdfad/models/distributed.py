"""The players on many ranks."""

from collections.abc import Iterator
from contextlib import contextmanager

from mmengine.logging import print_log
from mmengine.model import revert_sync_batchnorm
from mmengine.optim import OptimWrapper
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from mmdfad.registry import MODEL_WRAPPERS

__all__ = ['DistributedDistiller']


@MODEL_WRAPPERS.register_module()
class DistributedDistiller(nn.Module):
    """Trains student and generator on many ranks, each through torch's ``DistributedDataParallel``.

    Each player that is being trained has its own, which sums gradients over the ranks while backward is still running,
    and not at all in steps that only accumulate. So no step has parameters that get no gradient, and
    ``find_unused_parameters`` is never needed. The teacher learns nothing and is not wrapped. Names in checkpoints are
    those of the distiller alone: a run goes on with any number of ranks.

    With ``model.shard_teacher`` each rank holds a part of the teacher's weights, and has those of a layer whole only
    when it is computed (torch's FSDP). The teacher is read on every rank's host, and never whole on a device.

    Buffers, such as the statistics of batch norm, are left to the loop, which averages them after each round.

    Losses are those of each rank's own part of the batch. Where they are means over images, as L1 or KL, two ranks of
    half the batch are one rank of the whole; where they are not, as log(1+L1) or batch statistics, they are nearly.

    Args:
        module (nn.Module): The :class:`~mmdfad.models.AdversarialDistiller`.
        sync_bn (bool): Normalise the student's batch norms over the batches of all ranks. Those that are ``SyncBN`` in
            its own config are anyway. Not on CPUs, where torch has none. Defaults to False.
        kwargs: Other arguments of ``DistributedDataParallel``, such as ``bucket_cap_mb``.
    """

    def __init__(self, module: nn.Module, sync_bn: bool = False, **kwargs) -> None:
        super().__init__()
        self.module = module
        if module.device.type == 'cpu':
            if sync_bn:
                print_log('sync_bn has no effect: torch synchronises batch norm on accelerators only', 'current', 30)
            revert_sync_batchnorm(module.student)
        elif sync_bn:
            nn.SyncBatchNorm.convert_sync_batchnorm(module.student)
        if module.shard_teacher:
            module.teacher_record  # noqa: B018  # its checksum is of the whole weights
            _shard(module.teacher)
        # In a dict, and not in the module tree: the players are there already.
        self._parallel = {
            name: DistributedDataParallel(player, broadcast_buffers=False, gradient_as_bucket_view=True, **kwargs)
            for name, player in (('student', module.student), ('generator', module.generator))
            if any(p.requires_grad for p in player.parameters())
        }

    def imitation_step(self, batch: Tensor | dict, optim_wrapper: OptimWrapper) -> dict[str, Tensor]:
        """See :class:`~mmdfad.models.AdversarialDistiller`."""
        with self._training('student'):
            return self.module.imitation_step(batch, optim_wrapper)

    def generation_step(self, noise: Tensor, optim_wrapper: OptimWrapper) -> dict[str, Tensor]:
        """See :class:`~mmdfad.models.AdversarialDistiller`."""
        with self._training('generator'):
            return self.module.generation_step(noise, optim_wrapper)

    def val_step(self, data: Tensor | dict) -> list:
        """See :class:`~mmdfad.models.AdversarialDistiller`."""
        return self.module.val_step(data)

    test_step = val_step

    def forward(self, *args, **kwargs) -> Tensor | list | dict:
        """The student's own, without communication."""
        return self.module(*args, **kwargs)

    @contextmanager
    def _training(self, name: str) -> Iterator[None]:
        """Let the forward pass of one player go through its parallel form."""
        parts, player = self.module._modules, self.module._modules[name]
        parts[name] = self._parallel.get(name, player)
        try:
            yield
        finally:
            parts[name] = player


def _shard(teacher: nn.Module) -> None:
    """Split a teacher by the elements of its outermost layer lists; what is in none is split as a whole.

    Only these are sure to be called as modules, at which moment their weights are gathered: mmseg, for one, calls other
    methods of its heads.
    """
    parts = [teacher]
    while parts:
        part = parts.pop()
        for child in part.children():
            if isinstance(part, nn.Sequential | nn.ModuleList) and any(True for _ in child.parameters()):
                fully_shard(child)
            else:
                parts.append(child)
    fully_shard(teacher, reshard_after_forward=True)  # which is not the default of what is called first
