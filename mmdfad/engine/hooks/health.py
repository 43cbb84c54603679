"""Detects common training failures."""

import math
from typing import Any

import torch
from mmengine.dist import broadcast_object_list
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import Tensor, nn

from mmdfad.engine.probe import must_probe, probe_noise
from mmdfad.models.base_distiller import BaseDistiller
from mmdfad.registry import HOOKS
from mmdfad.utils import DistillError
from mmdfad.utils.model import unwrap


@HOOKS.register_module()
class TrainingHealthHook(Hook):
    """Measures teacher, student and generator on fixed noise, and warns of the ways in which training fails.

    All three run in eval mode on the same noise every time. The metrics are logged. Each problem is reported once, with
    the likely remedy. Before the first imitation step only values that are not finite are a problem. The hook does not
    change the run.

    ==================  ============================================================  ========================
    metric              meaning                                                       a problem if
    ==================  ============================================================  ========================
    nonfinite           share of pixels and logits that are NaN or infinite           above 0
    pixel_std           standard deviation of all pixels, in normalised units         below ``min_spread``
    diversity           root mean square distance of two images, as a share of that   below ``min_diversity``
                        of two unrelated images
    class_entropy       of the teacher's mean prediction, as a share of the largest   below ``min_entropy``
    student_change      change of the student's weights since the last check, as a    below ``min_change``
                        share of their norm
    gap                 mean distance of the logits to the teacher's, as a share of   above ``max_gap``
                        that of a student that prefers no class
    ==================  ============================================================  ========================

    Args:
        interval (int): Rounds between checks. Defaults to 100.
        num_images (int): Images to generate. Defaults to 64.
        patience (int): Checks in a row that must find a problem before it is reported: an untrained generator makes
            images of one class, too. Values that are not finite and a student that does not move are reported at once.
            Defaults to 3.
        min_spread (float): See above. Defaults to 0.02.
        min_diversity (float): See above. Defaults to 0.2.
        min_entropy (float): See above. Defaults to 0.05.
        min_change (float): See above. Defaults to 1e-7.
        max_gap (float): See above. Defaults to 10.
        stop (bool): End training with an error where there would be a warning. Defaults to False.
    """

    # Before the checkpoint: with ``stop`` a bad state is not saved over a good one.
    priority = 'LOW'

    def __init__(
        self,
        interval: int = 100,
        num_images: int = 64,
        patience: int = 3,
        min_spread: float = 0.02,
        min_diversity: float = 0.2,
        min_entropy: float = 0.05,
        min_change: float = 1e-7,
        max_gap: float = 10.0,
        stop: bool = False,
    ) -> None:
        self.interval = interval
        self.num_images = num_images
        self.patience = patience
        self.min_spread = min_spread
        self.min_diversity = min_diversity
        self.min_entropy = min_entropy
        self.min_change = min_change
        self.max_gap = max_gap
        self.stop = stop
        self._streaks: dict[str, int] = {}

    def before_train(self, runner: Runner) -> None:
        """Draw the noise once, and remember the student's weights."""
        distiller = unwrap(runner.model)
        self.noise = probe_noise(distiller, self.num_images)
        self._weights = _weights(distiller.student)
        self._updates = _student_updates(runner, runner.iter)

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict | None = None
    ) -> None:
        """Check when it is time.

        Raises:
            DistillError: If something is wrong and ``stop`` is set.
        """
        if not self.every_n_train_iters(runner, self.interval):
            return
        found = self._check(runner) if must_probe(unwrap(runner.model)) else []
        for warning in found:
            runner.logger.warning(f'Round {runner.iter + 1}: {warning}')
        if self.stop:
            broadcast_object_list(shared := [found])
            if shared[0]:
                raise DistillError(
                    f'training is not healthy in round {runner.iter + 1}: {" ".join(shared[0])} The checkpoints in '
                    f'{runner.work_dir} were saved before. Set stop=False of TrainingHealthHook to continue regardless'
                )

    def _check(self, runner: Runner) -> list[str]:
        """Measure, log, and return what is newly wrong."""
        distiller = unwrap(runner.model)
        weights = _weights(distiller.student)
        metrics = measure(distiller, self.noise)
        metrics['student_change'] = float((weights - self._weights).norm() / self._weights.norm().clamp(min=1e-12))
        self._weights = weights
        before, self._updates = self._updates, _student_updates(runner, runner.iter + 1)
        for name, value in metrics.items():
            runner.message_hub.update_scalar(f'train/health/{name}', value)
        judged = {'finite'}
        if self._updates > before:
            judged.add('student')
        if self._updates and distiller.generator.learns:  # if it does not, its images cannot be improved
            judged |= {'images', 'classes', 'gap'}
        return [
            text
            for name, wrong, patience, text in self._judge(metrics)
            if name in judged and self._is_new(name, wrong, patience)
        ]

    def _is_new(self, name: str, wrong: bool, patience: int) -> bool:
        """Whether a problem has now lasted for this many checks, for the first time."""
        streak = self._streaks.get(name, 0)
        if streak < patience:
            self._streaks[name] = streak + 1 if wrong else 0
            return self._streaks[name] == patience
        return False

    def _judge(self, found: dict[str, float]) -> list[tuple[str, bool, int, str]]:
        """Each possible problem: its name, whether it is there, the checks to wait, and the warning."""
        generator_remedy = (
            'Lower optim_wrapper.generator.optimizer.lr, or add a prior such as BNStatisticsPrior to model.generation.'
        )
        return [
            (
                'finite',
                found['nonfinite'] > 0,
                1,
                f'{found["nonfinite"]:.1%} of the pixels and logits on fixed noise are not finite. Go back to an '
                'earlier checkpoint; lower the learning rates in optim_wrapper or set clip_grad there.',
            ),
            (
                'images',
                found['pixel_std'] < self.min_spread or found['diversity'] < self.min_diversity,
                self.patience,
                f'the generator has collapsed: it makes nearly the same image from any noise (pixel_std '
                f'{found["pixel_std"]:.3g}, diversity {found["diversity"]:.3g} of 1). {generator_remedy}',
            ),
            (
                'classes',
                found['class_entropy'] < self.min_entropy,
                self.patience,
                f'the teacher gives nearly all generated images the same label (class_entropy '
                f'{found["class_entropy"]:.3g} of 1), so the student learns no other class. {generator_remedy} '
                'BalancePrior or a ReplayGenerator can bring the other classes back.',
            ),
            (
                'student',
                found['student_change'] < self.min_change,
                1,
                f'the student does not move: its weights changed by {found["student_change"]:.1g} of their norm in '
                f'{self.interval} rounds. Raise optim_wrapper.student.optimizer.lr, or check whether param_scheduler '
                'or clip_grad has made its steps too small.',
            ),
            (
                'gap',
                found['gap'] > self.max_gap,
                self.patience,
                f'the discrepancy diverges: the student is {found["gap"]:.3g} times as far from the teacher as one '
                "that prefers no class. Lower optim_wrapper.student.optimizer.lr or the generator's, set clip_grad, or "
                'raise the steps of the imitation phase in train_cfg.phases.',
            ),
        ]


def measure(distiller: BaseDistiller, noise: Tensor) -> dict[str, float]:
    """The metrics of :class:`TrainingHealthHook`, except ``student_change``.

    Args:
        distiller (BaseDistiller): The distiller.
        noise (Tensor): Noise [N, noise_dim], two vectors or more.
    """
    images, student, teacher = distiller.probe(noise)
    finite = torch.cat([t.isfinite().flatten() for t in (images, teacher, student)])
    probabilities = distiller.teacher.logits.probabilities(teacher).transpose(0, 1).flatten(1).mean(1)
    probabilities = probabilities / probabilities.sum().clamp(min=1e-12)  # several labels do not add up to 1
    entropy = torch.special.entr(probabilities).sum() / math.log(max(teacher.shape[1], 2))
    indifferent = teacher.mean(1, keepdim=True)
    distance, pixel_std = (images - images.roll(1, dims=0)).square().mean().sqrt(), images.std()
    return dict(
        nonfinite=1 - float(finite.float().mean()),
        pixel_std=float(pixel_std),
        diversity=float(distance / (math.sqrt(2) * pixel_std).clamp(min=1e-12)),
        class_entropy=float(entropy),
        gap=float((student - teacher).abs().mean() / (indifferent - teacher).abs().mean().clamp(min=1e-12)),
    )


def _student_updates(runner: Runner, round_index: int) -> int:
    """Imitation steps in the rounds before this one."""
    phases = getattr(runner.train_loop, 'phases', ())  # the distiller refuses other loops
    return sum(phase.steps_before(round_index) for phase in phases if phase.updates == 'student')


def _weights(student: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in student.parameters()]).cpu()
