# ILS for segmentors: larger images, and fewer of them.
from mmengine.config import read_base

from mmdfad.models.objectives import BNStatisticsPrior, KLDiscrepancy, SpectrumPrior, StageImitation
from mmdfad.models.starts import LeastSquaresStart

with read_base():
    from ..generators.inversion_96x128 import *
    from ..schedules.ils_280 import *

model.update(
    generation=[dict(type=BNStatisticsPrior, distance='kl'), dict(type=SpectrumPrior, weight=0.02)],
    start=dict(type=LeastSquaresStart, images=256, residual='sum', begin=180),
    imitation=[dict(type=KLDiscrepancy), dict(type=StageImitation, weight=6.0)],
)
optim_wrapper.student.optimizer.update(lr=1e-3)
