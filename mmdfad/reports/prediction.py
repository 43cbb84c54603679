"""How often the student will agree with its teacher on real images."""

from mmdfad.evaluation.prediction import Prediction
from mmdfad.models.base_distiller import BaseDistiller


def predict(distiller: BaseDistiller) -> Prediction | None:
    """Predict the agreement on real images from the agreement on probe images.

    Args:
        distiller (BaseDistiller): The distiller, with the student of the report.

    Returns:
        Prediction | None: The prediction, or None if there is none.
    """
    return None
