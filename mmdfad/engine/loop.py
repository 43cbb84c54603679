"""Rounds of phases (DFAD, arXiv 1912.11006, algorithm 1) as an mmengine training loop."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from mmengine.dist import all_reduce_params, broadcast_object_list, get_rank, get_world_size
from mmengine.hooks import EMAHook
from mmengine.runner import IterBasedTrainLoop, Runner, set_random_seed
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmdfad.datasets.noise import START_SEED, NoiseDataset
from mmdfad.models.distiller import AdversarialDistiller
from mmdfad.registry import LOOPS
from mmdfad.utils import DistillError, require_count
from mmdfad.utils.compat import forget_iterator, new_iterator, skip_samples
from mmdfad.utils.migration import refuse_keys
from mmdfad.utils.model import broadcast_state, unwrap

from .optim import match_layouts
from .phases import NOISE, Phase, parse_phases
from .round_log import RoundLog
from .run_record import RunRecord, last_checkpoint
from .stopwatch import Stopwatch
from .val_share import ValidationShare


class StopValidation(Exception):
    """Raised by a hook to end a validation before all of it is done."""


# The paper's: five student updates, each on fresh noise, then one of the generator.
DFAD_PHASES = (dict(name='imitation', steps=5), dict(name='generation', steps=1))


@LOOPS.register_module()
class AdversarialDistillLoop(IterBasedTrainLoop):
    """Runs rounds. A round runs the phases in their order.

    What mmengine calls an iteration is a round here: ``max_iters``, all intervals of hooks, and all schedulers (with
    ``by_epoch=False``) count rounds.

    Args:
        runner (Runner): The runner.
        dataloader (dict): Dataloader of a :class:`~mmdfad.datasets.NoiseDataset`.
        max_iters (int): Rounds to run.
        phases (Sequence[dict]): Each with ``name`` (``'imitation'`` or ``'generation'``), ``steps`` in a round, and
            optionally ``begin``, the first round (from 0), ``end``, the round before which it ends, and settings of
            its step. The generation phase takes ``student_bn_eval``. Defaults to the paper's: 5 imitation steps, then
            1 generation step.
        noise (str): Draw noise for each ``'step'`` (DFAD) or once a ``'round'`` (ZSKT). Defaults to ``'step'``.
        val_begin (int): First round that may be validated. Defaults to 1.
        val_interval (int): Rounds between validations. Defaults to 1000.
        val_share (float): A validation is left out if all of them would take more than this share of the time so far.
            The first and the last one never are. Defaults to 0.25. With 1 none is left out.
        dynamic_intervals (list[tuple[int, int]], optional): (round, validation interval from there on) pairs.
    """

    def __init__(
        self,
        runner: Runner,
        dataloader: dict,
        max_iters: int,
        phases: Sequence[dict] = DFAD_PHASES,
        noise: str = 'step',
        val_begin: int = 1,
        val_interval: int = 1000,
        val_share: float = 0.25,
        dynamic_intervals: list[tuple[int, int]] | None = None,
        **unknown: Any,
    ) -> None:
        refuse_keys('train_cfg', unknown, type(self))
        require_count('train_cfg.max_iters', max_iters, 1)
        if noise not in NOISE:
            raise DistillError(f'train_cfg.noise must be one of {", ".join(NOISE)}, but found {noise!r}')
        super().__init__(runner, dataloader, max_iters, val_begin, val_interval, dynamic_intervals)
        if not isinstance(self.distiller, AdversarialDistiller):
            raise DistillError(
                "train_cfg.type='mmdfad.AdversarialDistillLoop' trains a model of type='mmdfad.AdversarialDistiller', "
                f'but found {type(self.distiller).__name__}'
            )
        learns = self.distiller.generator.learns
        self.phases = [phase for phase in parse_phases(phases) if learns or phase.updates != 'generator']
        if not self.phases:
            raise DistillError('train_cfg.phases has only generation phases, but model.generator learns nothing')
        self.noise = noise
        self.exit_stack = ExitStack()
        self.round_log = RoundLog(runner.message_hub, runner.work_dir)
        self.stopwatch = Stopwatch(self.distiller.device)
        self.validation_share = ValidationShare(val_share, self.stopwatch)
        self.record = RunRecord(runner.work_dir)

    @property
    def distiller(self) -> AdversarialDistiller:
        """AdversarialDistiller: The distiller, without a wrapper for many ranks."""
        return unwrap(self.runner.model)

    def run(self) -> nn.Module:
        """Run all rounds that are left.

        Hooks may enter contexts into ``exit_stack`` before training; they are left however training ends.
        """
        with self.exit_stack:
            self.exit_stack.callback(self._close_stream)
            self.begin()
            self._make_up_validation()
            while self._iter < self._max_iters and not self.stop_training:
                with _explained(self.dataloader.batch_size, self.runner.work_dir):
                    self.run_round()
                self._decide_current_val_interval()
                if self._validates_now() and not self.stop_training:
                    last = self._iter == self._max_iters
                    if last or self.validation_share.allows_one_more(self.runner.logger):
                        self._validate()
                    else:
                        self.record.note_validation(self._iter)  # left out, not interrupted
            self.round_log.flush()
            self.runner.visualizer.add_scalars(self.stopwatch.scalars(), step=self._iter)
            self.runner.call_hook('after_train_epoch')
            self.runner.call_hook('after_train')
        return self.runner.model

    def begin(self) -> None:
        """Prepare the first round."""
        with self.stopwatch.timing('generation'):
            self.distiller.prepare()
        self.runner.call_hook('before_train')
        self.runner.call_hook('before_train_epoch')
        self.record.save()
        if self._iter >= self._max_iters:
            self.runner.logger.info(
                f'This run has finished its {self._max_iters} rounds. Raise train_cfg.max_iters to continue it'
            )
        self._open_stream()
        self._warn_of_late_parts()
        for name, optim_wrapper in self.runner.optim_wrapper.items():
            match_layouts(optim_wrapper)
            own = [phase for phase in self.phases if phase.updates == name]
            times = self.distiller.generator.steps_per_update if name == 'generator' else 1
            done, total = (times * sum(phase.steps_before(n) for phase in own) for n in (self._iter, self._max_iters))
            optim_wrapper.initialize_count_status(self.runner.model, done, total)
        # Schedulers count rounds, also those in which a phase that begins later updates nothing.
        warnings.filterwarnings('ignore', message='Detected call of `scheduler.step')

    def _warn_of_late_parts(self) -> None:
        """Warn of phases and a start that the run ends before."""
        late = [(f'the {phase.name} phase', phase.begin) for phase in self.phases]
        if self.distiller.start is not None:
            late.append(('the start of the student', self.distiller.start.begin))
        for what, begin in late:
            if begin >= self._max_iters:
                self.runner.logger.warning(
                    f'{what} begins in round {begin} (from 0), but the run has {self._max_iters} rounds: raise '
                    'train_cfg.max_iters'
                )

    def run_round(self) -> None:
        """Run one round."""
        self.runner.model.train()
        self._reseed()
        self._apply_start()
        self.runner.call_hook('before_train_iter', batch_idx=self._iter, data_batch=None)
        log, batch = {}, None
        for phase in self.phases:
            for _ in range(phase.steps_in(self._iter)):
                if batch is None or self.noise == 'step':
                    batch = next(self.dataloader_iterator)
                log |= self._run_step(phase, batch)
        self._average_statistics()
        self.round_log.add(self._iter + 1, log)
        self.runner.call_hook('after_train_iter', batch_idx=self._iter, data_batch=None, outputs=None)
        self._iter += 1

    def _run_step(self, phase: Phase, batch: Tensor | dict) -> dict[str, Tensor]:
        step = getattr(self.distiller, f'{phase.name}_step')
        optim_wrapper = self.runner.optim_wrapper[phase.updates]
        with self.stopwatch.timing(phase.name):
            return step(batch, optim_wrapper, self._iter, self._iter / self._max_iters, **phase.settings)

    def _open_stream(self) -> None:
        """Open the stream of noise where the last round left it, also after a resume."""
        loaders = [self.dataloader, getattr(self.runner.val_loop, 'dataloader', None)]
        for dataset in (loader.dataset for loader in loaders if loader is not None):
            if isinstance(dataset, NoiseDataset):
                # Only now: resuming has restored the seed of the run.
                dataset.complete(self.distiller.generator.noise_dim, self.runner.seed)
        sampler = self.dataloader.sampler
        if not skip_samples(sampler, self._batches_before(self._iter) * self.dataloader.batch_size):
            raise DistillError(
                'train_dataloader.sampler must be able to skip what a resumed run has already used, as '
                f'mmdfad.NoiseSampler does, but found {type(sampler).__name__}'
            )
        self.dataloader_iterator = new_iterator(self.dataloader)

    def _close_stream(self) -> None:
        """End the dataloader's workers. Once the runner is garbage, each would be waited for, for 5 seconds in vain."""
        self.dataloader_iterator = None
        forget_iterator(self.dataloader)

    def _batches_before(self, round_index: int) -> int:
        """Batches that the rounds before this one take from the dataloader."""
        if self.noise == 'round':
            return sum(any(phase.steps_in(i) for phase in self.phases) for i in range(round_index))
        return sum(phase.steps_before(round_index) for phase in self.phases)

    def _reseed(self) -> None:
        """Make random numbers in a round (of dropout, say) a function of seed, round and rank: resuming is exact."""
        sequence = np.random.SeedSequence((self.runner.seed, self._iter, get_rank()))
        set_random_seed(int(sequence.generate_state(1)[0]))

    def _apply_start(self) -> None:
        """Give the student its first weights, if this is the round for it.

        All ranks compute the same, in the time that one takes, so that a sharded teacher works, too. Then they take the
        weights of the first one: rounding may differ from device to device.
        """
        distiller = self.distiller
        if distiller.start is None or distiller.start.begin != self._iter:
            return
        noise, used = NoiseDataset(distiller.generator.noise_dim, START_SEED), 0

        def sample(count: int) -> Tensor:
            nonlocal used
            vectors = noise.__getitems__(range(used, used + count))
            used += count
            return distiller.generator.sample(vectors.to(distiller.device))[:count].float()  # wrappers may add some

        with self.stopwatch.timing('start'):
            distiller.apply_start(sample)
            broadcast_state(distiller.student)
        for hook in (h for h in self.runner.hooks if isinstance(h, EMAHook)):
            hook.ema_model.steps.zero_()  # its average begins again, as a copy

    def _average_statistics(self) -> None:
        """Average over the ranks what they keep beside the weights: the statistics of batch norms.

        All ranks are bitwise equal then, so that what the first of them saves is the state of all.
        """
        if get_world_size() > 1:
            student, generator = self.distiller.student, self.distiller.generator
            norms = [m for m in generator.modules() if isinstance(m, _BatchNorm)]
            buffers = (b for part in (student, *norms) for b in part.buffers() if b.is_floating_point())
            all_reduce_params(list(buffers), op='mean')

    def _validate(self) -> None:
        """Validate the student."""
        with self.stopwatch.timing('validation'):
            try:
                self.runner.val_loop.run()
            except StopValidation:
                for hook in (h for h in self.runner.hooks if isinstance(h, EMAHook)):
                    hook.after_val_epoch(self.runner)  # it lends the student averaged weights meanwhile
                self.runner.call_hook('after_val')
            else:
                self.record.note_validation(self._iter)

    def _make_up_validation(self) -> None:
        """Validate the student that the run resumes with, if that was interrupted. The first rank decides for all."""
        self._decide_current_val_interval()
        decision = [self._iter and self.record.validated < self._iter and self._validates_now()]
        broadcast_object_list(decision)
        if decision[0]:
            self.runner.logger.info(f'Validating the student of round {self._iter}, which the last run did not finish')
            self._validate()

    def _validates_now(self) -> bool:
        return (
            self.runner.val_loop is not None
            and self._iter >= self.val_begin
            and (self._iter % self.val_interval == 0 or self._iter == self._max_iters)
        )


@contextmanager
def _explained(batch_size: int, work_dir: str) -> Iterator[None]:
    """Explain noise that ends, batch norm with nothing to normalise over, and lost connections (gloo: plain errors)."""
    try:
        yield
    except StopIteration:
        raise DistillError('train_dataloader has no more batches: raise its dataset.length') from None
    except ValueError as error:
        if 'more than 1 value per channel' not in str(error):
            raise
        raise DistillError(
            'a batch norm cannot train on one image, as after pooling in the heads of DeepLabV3 or PSPNet, or in '
            f'a generator whose share of a batch is one image: raise train_dataloader.batch_size={batch_size}'
        ) from error
    except RuntimeError as error:
        if get_world_size() == 1 or not (isinstance(error, torch.distributed.DistError) or 'gloo' in str(error)):
            raise
        raise DistillError(
            f'rank {get_rank()} of {get_world_size()} has lost the others: one of them has ended or cannot be reached '
            f'({str(error).splitlines()[0]}). See the first error in the output of the ranks. '
            f'{last_checkpoint(work_dir)}. Run it again with --resume'
        ) from error
