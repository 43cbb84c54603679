"""How often student and teacher will agree on real images."""

from collections.abc import Sequence
from itertools import chain

from mmengine.evaluator import BaseMetric

from mmdfad.registry import METRICS
from mmdfad.utils import DistillError

from .prediction import predict_agreement


@METRICS.register_module()
class PredictedAgreementMetric(BaseMetric):
    """The share of real images, or pixels, that student and teacher will label alike, predicted without data.

    It needs a validation dataloader of :class:`~mmdfad.datasets.ProbeDataset`. It reports ``predicted_agreement`` in
    [0, 1], what the fit gives also if there is only a range; the ends ``predicted_agreement_low`` and
    ``predicted_agreement_high`` of its 90% interval; and the agreement on each set of images as ``agreement/<set>``.
    """

    default_prefix = ''

    def process(self, data_batch: object, data_samples: Sequence[dict]) -> None:
        """Count a batch.

        Args:
            data_batch (object): Ignored.
            data_samples (Sequence[dict]): Predictions with ``student_label`` and ``teacher_label``; those on probe
                images also have the name of their set as ``probe``.
        """
        # mmengine keeps as many results as there are images in the dataset. So a batch is one result.
        self.results.append(
            [
                (sample['probe'], int(same.sum()), same.numel())
                for sample in data_samples
                if 'probe' in sample
                for same in [sample['student_label'] == sample['teacher_label']]
            ]
        )

    def compute_metrics(self, results: list[list[tuple[str, int, int]]]) -> dict[str, float]:
        """The prediction from everything that was processed.

        Raises:
            DistillError: If no probe image was.
        """
        sums: dict[str, tuple[int, int]] = {}
        for name, same, total in chain(*results):
            before = sums.get(name, (0, 0))
            sums[name] = (before[0] + same, before[1] + total)
        if not sums:
            raise DistillError(
                "PredictedAgreementMetric needs probe images: set type='mmdfad.ProbeDataset' of val_dataloader.dataset"
            )
        probes = {name: same / total for name, (same, total) in sums.items()}
        found = predict_agreement(probes)
        return dict(
            predicted_agreement=found.fitted,
            predicted_agreement_low=found.low,
            predicted_agreement_high=found.high,
            **{f'agreement/{name}': share for name, share in probes.items()},
        )
