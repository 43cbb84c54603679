"""Sizes of teacher and student."""

import torch
from mmengine.dist import master_only
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmdfad.registry import HOOKS
from mmdfad.utils.model import evaluating, model_size, unwrap
from mmdfad.utils.table import format_table


@HOOKS.register_module()
class DistillSummaryHook(Hook):
    """Logs parameters, FLOPs and file size of teacher and student at the end of training.

    A teacher that is split over the ranks has no table, as no rank holds all of it.
    """

    priority = 'LOWEST'

    @master_only
    def after_train(self, runner: Runner) -> None:
        """Log the table."""
        distiller = unwrap(runner.model)
        if distiller.teacher.shard:
            return
        with torch.no_grad(), evaluating(distiller):
            images = distiller.generator(torch.zeros(2, distiller.generator.noise_dim, device=distiller.device))
            sizes = [
                model_size(distiller.teacher.logits, images),
                model_size(distiller.student.logits, distiller.student.pixels(images)),
            ]
        rows = [
            [name, f'{s.params:,}', f'{s.flops / 1e6:,.2f} M', f'{s.file_bytes / 2**20:,.2f} MiB']
            for name, s in zip(('teacher', 'student'), sizes, strict=True)
        ]
        ratios = [t / max(s, 1) for t, s in zip(*sizes, strict=True)]
        rows.append(['ratio', *(f'{r:.2f}x' for r in ratios)])
        table = format_table(['', 'parameters', 'FLOPs per image', 'file size'], rows)
        runner.logger.info(f'Compressed at {images.shape[2]}x{images.shape[3]} pixels:\n{table}')
