"""The contract of objectives, and their weighted sum in a phase."""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor, nn

from mmdfad.models.network import Network
from mmdfad.models.parts import build_part
from mmdfad.models.step import Step, Tap
from mmdfad.utils import DistillError, require_count

LABELS = {True: 'multi-label (a sigmoid for each class)', False: 'single-label (one softmax)'}


class Objective(nn.Module):
    """A scalar to minimise in a phase.

    It may have buffers, but no parameters. It returns a plain value: signs and weights are applied in
    :class:`Objectives`.

    Args:
        weight (float): Factor of the value in the sum of its phase. Defaults to 1.
        begin (int): Round from which on it counts. Defaults to 0.

    Raises:
        DistillError: If weight or begin is not a number or is negative.

    Attributes:
        name (str): Its name in the log. A value that is not a loss does not have "loss" in its name.
        roles (tuple[str, ...]): Which of ``'teacher'`` and ``'student'`` have to see the images.
        needs_softmax (bool): Whether it reads the logits as those of one softmax. Multi-label models have none.
    """

    name = 'objective'
    roles: tuple[str, ...] = ('teacher', 'student')
    needs_softmax = False

    def __init__(self, weight: float = 1.0, begin: int = 0) -> None:
        super().__init__()
        kind = type(self).__name__
        if not isinstance(weight, int | float) or not weight >= 0:
            raise DistillError(f'weight of {kind} must be a number, 0 or more, but found {weight!r}')
        require_count(f'begin of {kind}', begin)
        self.weight = weight
        self.begin = begin

    def bind(self, teacher: Network, student: Network) -> set[Tap]:
        """Choose what to record in the two networks. It is called once, before they are compiled or copied.

        Raises:
            DistillError: If the networks do not have what the objective needs.
        """
        return set()

    def replacements(self, step: Step) -> dict[Tap, Tensor]:
        """Inputs for modules of the student in place of its own, given what the teacher showed (teacher forcing)."""
        return {}

    def forward(self, step: Step) -> Tensor:
        """The value, a scalar."""
        raise NotImplementedError


class Discrepancy(Objective):
    """How far the student's logits are from the teacher's: zero if they are equal, else positive.

    The student minimises it. The generator maximises it: it is the adversary.
    """

    def compare(self, student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
        """Both [N, K] or [N, K, H, W], with K classes, to a scalar."""
        raise NotImplementedError

    def forward(self, step: Step) -> Tensor:
        """The value, a scalar."""
        return self.compare(step.student.logits, step.teacher.logits)


class Objectives(nn.ModuleList):
    """The weighted sum of a phase's objectives.

    Args:
        cfgs (Sequence[dict]): Configs of the objectives.
        phase (str): ``'imitation'`` or ``'generation'``.
        adversarial (bool): Whether discrepancies are maximised.

    Raises:
        DistillError: If it is not a list of objectives, or the student does not learn from one for imitation.
    """

    def __init__(self, cfgs: Sequence[dict], phase: str, adversarial: bool) -> None:
        if isinstance(cfgs, str) or not isinstance(cfgs, Sequence):
            raise DistillError(f'model.{phase} must be a list of objectives, but found {cfgs!r}')
        super().__init__(build_part(cfg, f'model.{phase}[{i}]', Objective) for i, cfg in enumerate(cfgs))
        for i, objective in enumerate(self):
            if phase == 'imitation' and 'student' not in objective.roles:
                raise DistillError(
                    f'model.imitation[{i}]={type(objective).__name__} does not depend on the student, which cannot '
                    'learn from it; it belongs in model.generation'
                )
        self.phase = phase
        self.adversarial = adversarial
        self._taps: list[set[Tap]] = [set() for _ in self]
        self._names = _distinct([objective.name for objective in self])

    def bind(self, teacher: Network, student: Network) -> None:
        """Let each objective choose its taps, and install them."""
        self._taps = [objective.bind(teacher, student) for objective in self]
        for network in (teacher, student):
            network.install({tap for taps in self._taps for tap in taps if tap.role == network.role})

    def check_labels(self, teacher: Network) -> None:
        """Check that the objectives suit a teacher's kind of labels.

        Raises:
            DistillError: If the teacher is multi-label and an objective needs a softmax.
        """
        for i, objective in enumerate(self):
            if teacher.logits.multi_label and objective.needs_softmax:
                raise DistillError(
                    f'model.{self.phase}[{i}]={type(objective).__name__} takes a softmax over classes, but the teacher '
                    f'is {LABELS[True]}; use L1Discrepancy or MSEDiscrepancy, which compare the logits'
                )

    def active(self, round_index: int) -> list[tuple[str, Objective, set[Tap]]]:
        """Those that count in a round, with their names and taps."""
        return [e for e in zip(self._names, self, self._taps, strict=True) if e[1].begin <= round_index]

    def needs(self, role: str, round_index: int) -> bool:
        """Whether any that counts has to see what a network makes of the images."""
        return any(role in objective.roles for _, objective, _ in self.active(round_index))

    @contextmanager
    def recording(self, teacher: Network, student: Network, round_index: int) -> Iterator[None]:
        """Record what the objectives of a round want to see. Keep it open during the backward pass."""
        taps = {tap for _, _, taps in self.active(round_index) for tap in taps}
        own = {network.role: {tap for tap in taps if tap.role == network.role} for network in (teacher, student)}
        with teacher.recording(own['teacher']), student.recording(own['student']):
            yield

    def replacements(self, step: Step) -> dict[Tap, Tensor]:
        """All replaced inputs of the student."""
        return {
            tap: value
            for _, objective, _ in self.active(step.round)
            for tap, value in objective.replacements(step).items()
        }

    def forward(self, step: Step) -> tuple[Tensor, dict[str, Tensor]]:
        """Add up.

        Returns:
            tuple[Tensor, dict[str, Tensor]]: The sum, and the values to log: the sum, and if there are several
            objectives each of them without sign and weight.
        """
        total, values = None, {}
        for name, objective, _ in self.active(step.round):
            value = objective(step)
            term = objective.weight * value
            if self.adversarial and isinstance(objective, Discrepancy):
                term = -term
            total = term if total is None else total + term
            values[f'{self.phase}_{name}'] = value.detach()
        if total is None:
            raise DistillError(
                f'no objective of model.{self.phase} counts in round {step.round}; lower the `begin` of one, or the '
                f'phase should begin later (train_cfg.phases)'
            )
        return total, {f'{self.phase}_loss': total.detach(), **(values if len(values) > 1 else {})}


def _distinct(names: list[str]) -> list[str]:
    """Names with a number behind the second and later ones of a kind."""
    seen: Counter[str] = Counter()
    distinct = []
    for name in names:
        seen[name] += 1
        distinct.append(name if seen[name] == 1 else f'{name}_{seen[name]}')
    return distinct
