"""Whether the players fit together, and what to change where they do not."""

from collections.abc import Iterable, Mapping

from torch import Tensor, nn

from mmdfad.models.logits import LogitModel
from mmdfad.models.losses import GenerationPrior
from mmdfad.utils import DistillError

LABELS = {True: 'multi-label (a sigmoid for each class)', False: 'single-label (one softmax)'}


def probe_logits(model: LogitModel, images: Tensor, role: str) -> Tensor:
    """Logits of some images.

    Args:
        model (LogitModel): Teacher or student, in eval mode.
        images (Tensor): Images [N, C, H, W] in its pixel space and at its size.
        role (str): ``'teacher'`` or ``'student'``, for messages.

    Raises:
        DistillError: If the model cannot take them, or gives something else.
    """
    try:
        return model(images)
    except DistillError as error:
        raise DistillError(f'model.{role}: {error}') from error
    except Exception as error:  # each model has its own way to refuse images
        other = 'model.student.image_size' if role == 'student' else 'model.generator.channels'
        raise DistillError(
            f'model.{role} cannot take images of shape {list(images.shape[1:])} ({type(error).__name__}: {error}); '
            f'change model.generator.image_size or {other}'
        ) from error


def check_labels(
    teacher: LogitModel, student: LogitModel, losses: Mapping[str, nn.Module], priors: Iterable[GenerationPrior]
) -> None:
    """Check that both players give an image one label, or both several, and that the losses suit that.

    Args:
        teacher (LogitModel): The teacher.
        student (LogitModel): The student.
        losses (Mapping[str, nn.Module]): The discrepancies in use, by their key in ``model``.
        priors (Iterable[GenerationPrior]): The priors in use.

    Raises:
        DistillError: If they do not.
    """
    if teacher.multi_label != student.multi_label:
        raise DistillError(
            f'model.teacher is {LABELS[teacher.multi_label]} and model.student is {LABELS[student.multi_label]}; give '
            f"the student a head of the teacher's kind, such as "
            f'{"MultiLabelLinearClsHead" if teacher.multi_label else "LinearClsHead"}'
        )
    if not teacher.multi_label:
        return
    for key, loss in losses.items():
        if getattr(loss, 'of_softmax', False):
            raise DistillError(
                f'model.{key}={type(loss).__name__} compares softmaxes, but the teacher is {LABELS[True]}; set '
                f"model.{key}=dict(type='L1Discrepancy') or MSEDiscrepancy, which compare the logits"
            )
    for prior in priors:
        if prior.of_softmax:
            raise DistillError(
                f'{type(prior).__name__} takes a softmax over classes, but the teacher is {LABELS[True]}; remove it '
                'from model.generation_priors'
            )
