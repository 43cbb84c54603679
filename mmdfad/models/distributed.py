"""A distiller on many ranks."""

import logging

from mmengine.logging import print_log
from mmengine.model import revert_sync_batchnorm
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard

from mmdfad.registry import MODEL_WRAPPERS

from .base_distiller import BaseDistiller


@MODEL_WRAPPERS.register_module()
class DistributedDistiller(nn.Module):
    """Prepares student and teacher for many ranks.

    Each rank runs the whole distiller on its part of a batch. The optimizers average the gradients over the ranks
    before each update (:class:`~mmdfad.engine.DistillOptimWrapperConstructor`), and the loop averages the batch norm
    statistics after each round. Names in checkpoints are those of the distiller alone, so a run resumes with any
    number of ranks.

    With ``model.teacher.shard=True`` each rank holds a part of the teacher's weights, and has those of a layer whole
    only while it is computed (torch's ``fully_shard``). Each rank's host reads the whole teacher; no device holds it.

    Losses are those of each rank's part of the batch. If they are means over images, as L1 and KL, two ranks with half
    the batch equal one rank with the whole. For others, as log(1+L1) or batch statistics, this holds only nearly.

    Args:
        module (BaseDistiller): The :class:`~mmdfad.models.AdversarialDistiller`.
        sync_bn (bool): Normalise the student's batch norms over the batches of all ranks. Those that are ``SyncBN`` in
            the student's config are always synchronised. On CPUs none is, as torch has no such batch norm there.
            Defaults to False.
    """

    def __init__(self, module: BaseDistiller, sync_bn: bool = False) -> None:
        super().__init__()
        self.module = module
        if module.device.type == 'cpu':
            if sync_bn:
                message = 'sync_bn has no effect: torch synchronises batch norm on accelerators only'
                print_log(message, 'current', logging.WARNING)
            revert_sync_batchnorm(module.student)
        elif sync_bn:
            nn.SyncBatchNorm.convert_sync_batchnorm(module.student)
        if module.teacher.shard:
            module.teacher_record  # noqa: B018  # compute its checksum while its weights are whole
            _shard(module.teacher.logits)

    def val_step(self, data: Tensor | dict) -> list:
        return self.module.val_step(data)

    test_step = val_step

    def forward(self, *args, **kwargs) -> Tensor | list | dict:
        """Run the student's own forward, without communication."""
        return self.module(*args, **kwargs)


def _shard(teacher: nn.Module) -> None:
    """Split a teacher by the elements of its outermost layer lists, and what is in none of them as a whole."""
    # Only these are sure to be called as modules, which gathers their weights. mmseg calls other methods of its heads.
    parts = [teacher]
    while parts:
        part = parts.pop()
        for child in part.children():
            if isinstance(part, nn.Sequential | nn.ModuleList) and any(True for _ in child.parameters()):
                fully_shard(child)
            else:
                parts.append(child)
    fully_shard(teacher, reshard_after_forward=True)  # not the default for the module that is called first
