"""Is the game still a game?"""

import math
from typing import Any

import torch
from mmengine.dist import broadcast_object_list
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import Tensor, nn

from mmdfad.datasets import NoiseDataset
from mmdfad.registry import HOOKS
from mmdfad.utils import DistillError
from mmdfad.utils.model import evaluating, has_to_probe, unwrap

from .synthetic import PROBE_SEED


@HOOKS.register_module()
class TrainingHealthHook(Hook):
    """Looks, now and then, whether training has gone wrong in one of the ways that data-free distillation goes wrong.

    The players are run in eval mode on the same noise every time. What is found is logged; of what is wrong the user is
    warned once, with the likely remedy. Looking changes nothing.

    ==================  ============================================================  ========================
    metric              meaning                                                       wrong
    ==================  ============================================================  ========================
    nonfinite           share of pixels and logits that are NaN or infinite           above 0
    pixel_std           standard deviation of all pixels, in normalised units         below ``min_spread``
    diversity           root mean square distance of two images, as a share of that   below ``min_diversity``
                        of two images that have nothing in common
    class_entropy       of the teacher's mean prediction, as a share of the largest   below ``min_entropy``
    student_change      change of the student's weights since the last look, a share  below ``min_change``
    gap                 mean distance of the logits to the teacher's, as a share of   above ``max_gap``
                        that of a student that prefers no class
    ==================  ============================================================  ========================

    Args:
        interval (int): Rounds between looks. Defaults to 100.
        num_images (int): Images to look at. Defaults to 64.
        patience (int): Looks in a row that must find the same, before anything but values that are not finite or a
            student that does not move is called wrong: an untrained generator knows one class, too. Defaults to 3.
        min_spread (float): See above. Defaults to 0.02.
        min_diversity (float): See above. Defaults to 0.2.
        min_entropy (float): See above. Defaults to 0.05.
        min_change (float): See above. Defaults to 1e-7.
        max_gap (float): See above. Defaults to 10.
        stop (bool): End training with an error where there would be a warning. Defaults to False.
    """

    # Before the checkpoint: with ``stop`` a sick state is not saved over a good one.
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
        """Draw the noise once, and remember the student."""
        distiller = unwrap(runner.model)
        self.noise = NoiseDataset(distiller.generator.noise_dim, PROBE_SEED).__getitems__(range(self.num_images))
        self._weights = _weights(distiller.student)

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict | None = None
    ) -> None:
        """Look when it is time.

        Raises:
            DistillError: If something is wrong and ``stop`` is set.
        """
        if not self.every_n_train_iters(runner, self.interval):
            return
        found = self._look(runner) if has_to_probe(unwrap(runner.model)) else []
        for warning in found:
            runner.logger.warning(f'Round {runner.iter + 1}: {warning}')
        if self.stop:
            broadcast_object_list(shared := [found])
            if shared[0]:
                raise DistillError(
                    f'training is not healthy in round {runner.iter + 1}: {" ".join(shared[0])} The checkpoints in '
                    f'{runner.work_dir} were saved before. Set stop=False of TrainingHealthHook to go on regardless'
                )

    def _look(self, runner: Runner) -> list[str]:
        """Measure, log, and return what is newly wrong."""
        distiller = unwrap(runner.model)
        weights = _weights(distiller.student)
        metrics = measure(distiller, self.noise)
        metrics['student_change'] = float((weights - self._weights).norm() / self._weights.norm().clamp(min=1e-12))
        self._weights = weights
        for name, value in metrics.items():
            runner.message_hub.update_scalar(f'train/health/{name}', value)
        learned = any(True for _ in distiller.generator.parameters())  # as in no baseline
        return [
            text
            for name, wrong, patience, text in self._judge(metrics)
            if (learned or name in ('finite', 'student')) and self._is_new(name, wrong, patience)
        ]

    def _is_new(self, name: str, wrong: bool, patience: int) -> bool:
        """Whether something has been wrong for just so many looks, and was never before."""
        streak = self._streaks.get(name, 0)
        if streak < patience:
            self._streaks[name] = streak + 1 if wrong else 0
            return self._streaks[name] == patience
        return False

    def _judge(self, found: dict[str, float]) -> list[tuple[str, bool, int, str]]:
        """What may be wrong: a name, whether it is, the looks to wait, and the warning."""
        generator_remedy = (
            'Lower optim_wrapper.generator.optimizer.lr, or add model.generation_priors such as BNStatisticsPrior.'
        )
        return [
            (
                'finite',
                found['nonfinite'] > 0,
                1,
                f'{found["nonfinite"]:.1%} of the pixels and logits on probe noise are not finite. Go back to a '
                'checkpoint from before; lower the learning rates in optim_wrapper or set clip_grad there.',
            ),
            (
                'images',
                found['pixel_std'] < self.min_spread or found['diversity'] < self.min_diversity,
                self.patience,
                f'the generator has collapsed: it makes nearly the same image of any noise (pixel_std '
                f'{found["pixel_std"]:.3g}, diversity {found["diversity"]:.3g} of 1). {generator_remedy}',
            ),
            (
                'classes',
                found['class_entropy'] < self.min_entropy,
                self.patience,
                f'the teacher sees one class in nearly all that the generator makes (class_entropy '
                f'{found["class_entropy"]:.3g} of 1), so the student learns no other. {generator_remedy} '
                'BalancePrior, or model.replay, bring the other classes back.',
            ),
            (
                'student',
                found['student_change'] < self.min_change,
                1,
                f'the student does not move: its weights changed by {found["student_change"]:.1g} of their norm in '
                f'{self.interval} rounds. Raise optim_wrapper.student.optimizer.lr, or see whether param_scheduler or '
                'clip_grad has brought it to nothing.',
            ),
            (
                'gap',
                found['gap'] > self.max_gap,
                self.patience,
                f'the discrepancy diverges: the student is {found["gap"]:.3g} times as far from the teacher as one '
                "that prefers no class. Lower optim_wrapper.student.optimizer.lr or the generator's, set clip_grad, or "
                'raise train_cfg.imitation_steps.',
            ),
        ]


@torch.no_grad()
def measure(distiller: nn.Module, noise: Tensor) -> dict[str, float]:
    """The metrics of :class:`TrainingHealthHook` that need no memory.

    Args:
        distiller (nn.Module): An :class:`~mmdfad.models.AdversarialDistiller`.
        noise (Tensor): Noise [N, noise_dim], two vectors or more.
    """
    with evaluating(distiller):
        images = distiller.generator(noise.to(distiller.device)).float()
        teacher = distiller.teacher(images)
        student = distiller.student_logits(images)
    finite = torch.cat([t.isfinite().flatten() for t in (images, teacher, student)])
    probabilities = teacher.softmax(1).transpose(0, 1).flatten(1).mean(1)
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


def _weights(student: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in student.parameters()]).cpu()
