"""How often student and teacher agree."""

from collections.abc import Sequence

from mmengine.evaluator import BaseMetric

from mmdfad.registry import METRICS
from mmdfad.utils import DistillError


@METRICS.register_module()
class AgreementMetric(BaseMetric):
    """The share of images, or pixels, that student and teacher label alike, as ``agreement`` in [0, 1].

    It needs no ground truth. So it works with ``save_best`` if there is no data: use a validation dataloader of noise.
    Probe images do not count.
    On real data the distiller must have ``val_agreement=True``.
    """

    default_prefix = ''

    def process(self, data_batch: object, data_samples: Sequence[dict]) -> None:
        """Count a batch.

        Args:
            data_batch (object): Ignored.
            data_samples (Sequence[dict]): Predictions with ``student_label`` and ``teacher_label``.

        Raises:
            DistillError: If the labels are not there.
        """
        for sample in data_samples:
            if 'probe' in sample:
                continue
            if 'teacher_label' not in sample:
                raise DistillError(
                    'AgreementMetric needs the labels of student and teacher. On real data the distiller adds them '
                    'with model.val_agreement=True'
                )
            same = sample['student_label'] == sample['teacher_label']
            self.results.append((int(same.sum()), same.numel()))

    def compute_metrics(self, results: list[tuple[int, int]]) -> dict[str, float]:
        """The share over everything that was processed."""
        same, total = (sum(column) for column in zip(*results, strict=True))
        return dict(agreement=same / total)
