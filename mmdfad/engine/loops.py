"""Algorithm 1 of DFAD (arXiv 1912.11006) as an mmengine training loop."""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from mmengine.dist import all_reduce_params, get_rank, get_world_size
from mmengine.hooks import LoggerHook
from mmengine.runner import IterBasedTrainLoop, Runner, set_random_seed
from torch import Tensor, nn

from mmdfad.registry import LOOPS
from mmdfad.utils import DistillError
from mmdfad.utils.model import unwrap


@LOOPS.register_module()
class AdversarialDistillLoop(IterBasedTrainLoop):
    """Plays rounds: the student catches up in a few imitation steps, then the generator moves on.

    What mmengine calls an iteration is a round here: ``max_iters``, all intervals of hooks, and all schedulers (with
    ``by_epoch=False``) count rounds. Every step draws fresh noise from the dataloader.

    Args:
        runner (Runner): The runner.
        dataloader (dict): Dataloader of a :class:`~mmdfad.datasets.NoiseDataset`.
        max_iters (int): Rounds to play.
        imitation_steps (int): Student updates in a round. Defaults to 5, the paper's.
        generation_steps (int): Generator updates in a round. Defaults to 1; 0 for images that are not learned.
        val_begin (int): First round that may be validated. Defaults to 1.
        val_interval (int): Rounds between validations. Defaults to 1000.
        dynamic_intervals (list[tuple[int, int]], optional): (round, validation interval from there on) pairs.
    """

    def __init__(
        self,
        runner: Runner,
        dataloader: dict,
        max_iters: int,
        imitation_steps: int = 5,
        generation_steps: int = 1,
        val_begin: int = 1,
        val_interval: int = 1000,
        dynamic_intervals: list[tuple[int, int]] | None = None,
    ) -> None:
        for key, value, least in (
            ('max_iters', max_iters, 1),
            ('imitation_steps', imitation_steps, 1),
            ('generation_steps', generation_steps, 0),
        ):
            if not isinstance(value, int) or value < least:
                raise DistillError(f'train_cfg.{key} must be a whole number from {least} on, but found {value!r}')
        super().__init__(runner, dataloader, max_iters, val_begin, val_interval, dynamic_intervals)
        self.imitation_steps = imitation_steps
        self.generation_steps = generation_steps
        self._unread: list[dict[str, Tensor]] = []

    def run(self) -> nn.Module:
        """Play all rounds that are left."""
        try:
            return self._run()
        finally:
            for hook in self.runner.hooks:  # also where training ends with an error
                if hasattr(hook, 'release'):
                    hook.release()

    def _run(self) -> nn.Module:
        self.begin()
        while self._iter < self._max_iters and not self.stop_training:
            with _explained(self.dataloader.batch_size, self.runner.work_dir):
                self.run_round()
            self._decide_current_val_interval()
            if self._validates_now() and not self.stop_training:
                self.runner.val_loop.run()
        self.runner.call_hook('after_train_epoch')
        self.runner.call_hook('after_train')
        return self.runner.model

    def begin(self) -> None:
        """What comes before the first round."""
        self.runner.call_hook('before_train')
        self.runner.call_hook('before_train_epoch')
        self._open_stream()
        self._log_interval = next((h.interval for h in self.runner.hooks if isinstance(h, LoggerHook)), 1)

    def run_round(self) -> None:
        """One round of the game."""
        self.runner.model.train()
        self._reseed()
        self.runner.call_hook('before_train_iter', batch_idx=self._iter, data_batch=None)
        players, optim = self.runner.model, self.runner.optim_wrapper
        for _ in range(self.imitation_steps):
            log = players.imitation_step(next(self.dataloader_iterator), optim['student'])
        for _ in range(self.generation_steps):
            log |= players.generation_step(next(self.dataloader_iterator), optim['generator'])
        self._unread.append(log)
        if (self._iter + 1) % self._log_interval == 0 or self._iter + 1 == self._max_iters:
            self._read_log()
        self._average_statistics()
        self.runner.call_hook('after_train_iter', batch_idx=self._iter, data_batch=None, outputs=None)
        self._iter += 1

    def _open_stream(self) -> None:
        """Open the stream of noise where the last round left it, also after a resume."""
        dataset, sampler = self.dataloader.dataset, self.dataloader.sampler
        if not hasattr(sampler, 'skip'):
            raise DistillError(
                'train_dataloader.sampler must be able to skip what a resumed run has seen, as mmdfad.NoiseSampler '
                f'does, but found {type(sampler).__name__}'
            )
        if getattr(dataset, 'seed', 0) is None:
            dataset.seed = self.runner.seed  # only now: resuming restores the seed of the run
        sampler.skip(self._iter * (self.imitation_steps + self.generation_steps) * self.dataloader.batch_size)
        self.dataloader_iterator = iter(self.dataloader)
        steps = dict(student=self.imitation_steps, generator=self.generation_steps)
        for player, optim_wrapper in self.runner.optim_wrapper.items():
            optim_wrapper.initialize_count_status(
                self.runner.model, self._iter * steps[player], self._max_iters * steps[player]
            )

    def _reseed(self) -> None:
        """Make the chance in a round (dropout, say) a function of seed, round and rank, so that resuming is exact."""
        sequence = np.random.SeedSequence((self.runner.seed, self._iter, get_rank()))
        set_random_seed(int(sequence.generate_state(1)[0]))

    def _average_statistics(self) -> None:
        """Average over the ranks what they keep beside the weights: the statistics of batch norm.

        All ranks are then bitwise alike, so that what the first of them saves is the state of all.
        """
        if get_world_size() > 1:
            players = unwrap(self.runner.model)
            buffers = (b for p in (players.student, players.generator) for b in p.buffers() if b.is_floating_point())
            all_reduce_params(list(buffers), op='mean')

    def _validates_now(self) -> bool:
        return (
            self.runner.val_loop is not None
            and self._iter >= self.val_begin
            and (self._iter % self.val_interval == 0 or self._iter == self._max_iters)
        )

    def _read_log(self) -> None:
        """Write down what the last rounds gave, and stop where it is not finite.

        Only when it is about to be logged: to read a value is to wait for the device. What is not finite gets into no
        checkpoint meanwhile, which is checked as it is saved.
        """
        first = self._iter + 2 - len(self._unread)
        values = torch.stack([value.float() for log in self._unread for value in log.values()]).tolist()
        values = iter(values)
        for number, log in enumerate(self._unread, first):
            log = {key: next(values) for key in log}
            self._check_finite(log, number)
            for key, value in log.items():
                self.runner.message_hub.update_scalar(f'train/{key}', value)
        self._unread.clear()

    def _check_finite(self, log: dict[str, float], number: int) -> None:
        for key, player in (('imitation_loss', 'student'), ('generation_loss', 'generator')):
            if not math.isfinite(log.get(key, 0)):
                raise DistillError(
                    f'{key} is {log[key]} in round {number}: the {player} has diverged. The last checkpoint in '
                    f'{self.runner.work_dir} is good. Lower optim_wrapper.{player}.optimizer.lr, warm it up, or set '
                    f'optim_wrapper.{player}.clip_grad'
                )


@contextmanager
def _explained(batch_size: int, work_dir: str) -> Iterator[None]:
    """Say what to do about batch norm that has nothing to normalise over, and about other ranks that are gone."""
    try:
        yield
    except ValueError as error:
        if 'more than 1 value per channel' not in str(error):
            raise
        raise DistillError(
            f'a batch norm after global pooling, as in the heads of DeepLabV3 or PSPNet, cannot train on a batch of '
            f'{batch_size}: set train_dataloader.batch_size to 2 or more'
        ) from error
    except RuntimeError as error:
        if get_world_size() == 1 or not _is_lost_connection(error):
            raise
        raise DistillError(
            f'rank {get_rank()} of {get_world_size()} has lost the others: one of them has ended or cannot be reached '
            f'({str(error).splitlines()[0]}). See the first error in the output of the ranks. The last checkpoint in '
            f'{work_dir} is good: go on with --resume'
        ) from error


def _is_lost_connection(error: RuntimeError) -> bool:
    """Whether an error is of the communication between ranks; gloo raises plain ones."""
    return isinstance(error, torch.distributed.DistError) or 'gloo' in str(error)
