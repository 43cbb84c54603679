# ILS (inversion and least squares) for classifiers of 32x32: images with the teacher's batch norm statistics. Then the
# student gets its weights by least squares. Then it imitates logits and stages.
from mmengine.config import read_base

from mmdfad.models.objectives import BNStatisticsPrior, KLDiscrepancy, SpectrumPrior, StageImitation
from mmdfad.models.starts import LeastSquaresStart

with read_base():
    from ..generators.inversion_32 import *
    from ..schedules.ils_280 import *

model.generator.update(cut=0.5)
model.update(
    generation=[dict(type=BNStatisticsPrior, distance='kl'), dict(type=SpectrumPrior, weight=0.02)],
    start=dict(type=LeastSquaresStart, images=256, residual='sum', begin=180),
    imitation=[dict(type=KLDiscrepancy, temperature=4.0), dict(type=StageImitation, weight=20.0)],
)
