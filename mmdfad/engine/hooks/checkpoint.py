"""Checkpoints that survive interruptions and full disks."""

import logging
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mmengine.dist import get_world_size, is_main_process
from mmengine.hooks import CheckpointHook
from mmengine.runner import Runner, find_latest_checkpoint

from mmdfad.engine.optim import average_gradients, pending_gradients, restore_gradients
from mmdfad.engine.run_record import last_checkpoint
from mmdfad.registry import HOOKS
from mmdfad.utils import DistillError, first_of
from mmdfad.utils.atomic import ATOMIC_BACKEND, atomic_write
from mmdfad.utils.checkpoint import CHECKED
from mmdfad.utils.model import unwrap
from mmdfad.utils.state_dict import explain_mismatch


@HOOKS.register_module()
class DistillCheckpointHook(CheckpointHook):
    """mmengine's ``CheckpointHook`` for distillation, by round.

    A checkpoint holds student, generator, optimizers, schedulers and the round. ``meta['teacher']`` has the path of the
    teacher's checkpoint and the SHA-256 of its weights. Beyond mmengine's hook:

    - files are written atomically, and an old checkpoint is removed only after the new one is complete;
    - gradients that are being accumulated are saved, so that a run resumes exactly in the middle;
    - a student or generator that is not finite is not saved over a good one;
    - training does not resume from a checkpoint with another teacher, with other networks, or with code in it;
    - resuming with another number of ranks, another batch size or other phases works, and the log says what it changes.

    Args:
        interval (int): Rounds between checkpoints. Defaults to -1: only the last one.
        kwargs: The other arguments of mmengine's ``CheckpointHook``.
    """

    def __init__(self, interval: int = -1, **kwargs) -> None:
        if kwargs.pop('by_epoch', False):
            raise DistillError('default_hooks.checkpoint.by_epoch must be False: intervals count rounds')
        # Remote backends write whole objects anyway.
        if '://' not in str(kwargs.get('out_dir', '')):
            kwargs.setdefault('backend_args', dict(backend=ATOMIC_BACKEND))
        super().__init__(interval=interval, by_epoch=False, **kwargs)
        if Path(self.filename_tmpl).name != self.filename_tmpl:
            raise DistillError(
                f'default_hooks.checkpoint.filename_tmpl must be a name without folders, but found '
                f'{self.filename_tmpl!r}; the folder is out_dir'
            )

    def before_run(self, runner: Runner) -> None:
        """Let mmengine read a checkpoint in the way that never runs what is in it."""
        source = runner._load_from or (find_latest_checkpoint(runner.work_dir) if runner._resume else None)
        if source is not None and not source.startswith(CHECKED):
            runner._load_from = f'{CHECKED}{source}'

    def before_train(self, runner: Runner) -> None:
        """See mmengine."""
        super().before_train(runner)
        if self.max_keep_ckpts > 0:
            # mmengine's deque drops the oldest when the new one comes in; here it goes after the new one is complete.
            self.keep_ckpt_ids = deque(self.keep_ckpt_ids)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Add the teacher's record and pending gradients to the checkpoint.

        Raises:
            DistillError: If it has values that are not finite.
        """
        broken = [k for k, v in checkpoint['state_dict'].items() if v.is_floating_point() and not v.isfinite().all()]
        if broken:
            raise DistillError(
                f'not saving round {checkpoint["meta"]["iter"]}: {first_of(broken)} is not finite, the '
                f'{broken[0].split(".")[0]} has diverged. {last_checkpoint(runner.work_dir)}. Lower its learning rate '
                'in optim_wrapper'
            )
        checkpoint['meta']['teacher'] = unwrap(runner.model).teacher_record
        checkpoint['meta']['ranks'] = _ranks(runner)
        checkpoint['meta']['run'] = runner.train_loop.record.id
        checkpoint['meta']['phases'] = _phases(runner)
        pending = {name: wrapper for name, wrapper in runner.optim_wrapper.items() if not wrapper.should_update()}
        if pending and self.save_optimizer:
            checkpoint['gradients'] = {name: pending_gradients(wrapper) for name, wrapper in pending.items()}

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Refuse a checkpoint that does not belong to this run.

        Raises:
            DistillError: If the checkpoint has another teacher (when resuming), or other networks.
        """
        problem = explain_mismatch(unwrap(runner.model).state_dict(), checkpoint.get('state_dict', {}))
        if problem:
            raise DistillError(
                f'the checkpoint does not fit the student and generator of this config:\n{problem}\n'
                'Resume with the config that wrote it. To start a student from a plain checkpoint, set '
                'model.student.checkpoint instead of load_from'
            )
        theirs, ours = checkpoint['meta'].get('teacher'), unwrap(runner.model).teacher_record
        if runner._resume and theirs and theirs['sha256'] != ours['sha256']:
            raise DistillError(
                'the checkpoint to resume from has another teacher:\n'
                f'  its teacher: {theirs["checkpoint"]} (sha256 {theirs["sha256"][:16]}...)\n'
                f'  this config: {ours["checkpoint"]} (sha256 {ours["sha256"][:16]}...)\n'
                'Set model.teacher.checkpoint to the former, or start a new run in another work_dir'
            )
        if not runner._resume and getattr(unwrap(runner.model), 'start', None) is not None:
            runner.logger.warning('model.start replaces the weights of load_from; set model.start=None to keep them')
        if runner._resume:
            runner.train_loop.record.resume(checkpoint['meta'].get('run'))
            _explain_ranks(checkpoint['meta'].get('ranks'), _ranks(runner), runner.logger)
            _explain_phases(checkpoint['meta'].get('phases'), _phases(runner), runner.logger)
            for name, gradients in checkpoint.get('gradients', {}).items():
                restore_gradients(runner.optim_wrapper[name], gradients)

    def after_train(self, runner: Runner) -> None:
        """Save the student of a run that another hook, such as EarlyStoppingHook, has ended early."""
        if runner.iter < runner.max_iters:
            self.save_unless_saved(runner, runner.iter)
        super().after_train(runner)

    def save_unless_saved(self, runner: Runner, rounds: int) -> None:
        """Save a checkpoint after so many rounds, unless the hook has just done so."""
        name = self.filename_tmpl.format(rounds)
        if self.last_ckpt is None or Path(self.last_ckpt).name != name:
            self._save_checkpoint_with_step(runner, rounds, meta=dict(epoch=0, iter=rounds))

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict) -> None:
        """mmengine's, in the order that never leaves the run without a good checkpoint: write, point, remove."""
        self._average_pending(runner)
        if self.max_keep_ckpts > 0 and step not in self.keep_ckpt_ids:
            self.keep_ckpt_ids.append(step)
            runner.message_hub.update_info('keep_ckpt_ids', list(self.keep_ckpt_ids))
        name = self.filename_tmpl.format(step)
        self.last_ckpt = self.file_backend.join_path(self.out_dir, name)
        runner.message_hub.update_info('last_ckpt', self.last_ckpt)
        with _explained(self.last_ckpt):
            runner.save_checkpoint(
                self.out_dir,
                name,
                save_optimizer=self.save_optimizer,
                save_param_scheduler=self.save_param_scheduler,
                meta=meta,
                by_epoch=False,
                backend_args=self.backend_args,
            )
            if is_main_process():
                atomic_write(f'{runner.work_dir}/last_checkpoint', self.last_ckpt.encode())
        while 0 < self.max_keep_ckpts < len(self.keep_ckpt_ids):
            self._remove(self.filename_tmpl.format(self.keep_ckpt_ids.popleft()))

    def _save_best_checkpoint(self, runner: Runner, metrics: dict) -> None:
        """mmengine's, but the old best checkpoint is removed only after the new one is complete."""
        if not self.save_best:
            return
        one = len(self.key_indicators) == 1
        paths, keys = (vars(self), ['best_ckpt_path']) if one else (self.best_ckpt_path_dict, self.key_indicators)
        old = {key: paths[key] for key in keys}
        paths.update(dict.fromkeys(keys))  # mmengine removes what it finds here before it saves
        with _explained(f'a better checkpoint to {self.out_dir}'):
            super()._save_best_checkpoint(runner, metrics)
        for key, path in old.items():
            if paths[key] is None:
                paths[key] = path
            elif path is not None and Path(path).name != Path(paths[key]).name:
                self._remove(Path(path).name)

    def _remove(self, name: str) -> None:
        """Remove a checkpoint of this run. That of another one, which it has resumed from, is not touched."""
        path = self.file_backend.join_path(self.out_dir, name)
        if is_main_process() and self.file_backend.isfile(path):
            self.file_backend.remove(path)

    def _average_pending(self, runner: Runner) -> None:
        """Average gradients that are being accumulated, as only those of the first rank are saved."""
        if get_world_size() > 1:
            for wrapper in runner.optim_wrapper.values():
                if not wrapper.should_update():
                    average_gradients(wrapper)


@contextmanager
def _explained(path: str) -> Iterator[None]:
    """Say what to do if a checkpoint cannot be written."""
    try:
        yield
    except OSError as error:
        raise DistillError(
            f'cannot write {path}: {error}. Earlier checkpoints are untouched; make room, or set --work-dir elsewhere, '
            'and continue with --resume'
        ) from error


def _ranks(runner: Runner) -> dict[str, int]:
    """How many ranks take part, and the batch of each."""
    return dict(world_size=get_world_size(), batch_size=runner.train_dataloader.batch_size)


def _phases(runner: Runner) -> list[str]:
    """What decides how much noise a round takes."""
    loop = runner.train_loop
    return [f'noise for each {loop.noise}', *(f'{p.steps} {p.name} from {p.begin} to {p.end}' for p in loop.phases)]


def _explain_phases(before: list[str] | None, now: list[str], logger: logging.Logger) -> None:
    """Warn of other phases."""
    if before is not None and before != now:
        logger.warning(
            f'Resuming with different phases: {"; ".join(now)}. Before, train_cfg.phases had: {"; ".join(before)}. '
            'The noise continues at a different place in its stream, so the result differs from that of an '
            'uninterrupted run.'
        )


def _explain_ranks(before: dict[str, int] | None, now: dict[str, int], logger: logging.Logger) -> None:
    """Warn of what will be different, if the ranks or their batches are."""
    if before is None or before == now:
        return
    total_before, total_now = (r['world_size'] * r['batch_size'] for r in (before, now))
    changes = ['random numbers within a round (of dropout, for example) differ']
    if total_before != total_now:
        changes += [
            f'a step uses {total_now} images instead of {total_before}',
            'the noise continues at a different place in its stream',
            'learning rates stay as they are in the checkpoint, even with auto_scale_lr',
        ]
    if before['batch_size'] != now['batch_size']:
        changes.append('batch norm that is not synchronised normalises over a different number of images')
    logger.warning(
        f'Resuming with {now["world_size"]} rank(s) of batch {now["batch_size"]} instead of {before["world_size"]} '
        f'of batch {before["batch_size"]}. The result will differ from that of an uninterrupted run: '
        f'{"; ".join(changes)}.'
    )
