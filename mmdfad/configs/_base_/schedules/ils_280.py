# The schedule of ILS: 180 rounds in which generators learn, then 100 in which the student imitates.
from mmengine.optim import CosineAnnealingLR
from torch.optim import Adam, AdamW

from mmdfad.engine import AdversarialDistillLoop, DistillOptimWrapperConstructor

optim_wrapper = dict(
    constructor=DistillOptimWrapperConstructor,
    amp_dtype='auto',
    student=dict(optimizer=dict(type=AdamW, lr=2e-3, weight_decay=0.01), clip_grad=dict(max_norm=5.0)),
    generator=dict(optimizer=dict(type=Adam, lr=2e-3, betas=(0.5, 0.999))),
)
param_scheduler = dict(
    student=[dict(type=CosineAnnealingLR, by_epoch=False, begin=180, end=281)],
    generator=[],  # constant
)
train_cfg = dict(
    type=AdversarialDistillLoop,
    max_iters=280,
    phases=[dict(name='generation', end=180), dict(name='imitation', steps=10, begin=180)],
    val_begin=181,  # before its start there is nothing to validate
    val_interval=20,
)
