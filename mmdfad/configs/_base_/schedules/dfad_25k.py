# The DFAD paper's schedule for CIFAR: 25,000 rounds, which the paper counts as 500 epochs.
from mmengine.optim import MultiStepLR
from torch.optim import SGD, Adam

from mmdfad.engine import AdversarialDistillLoop, DistillOptimWrapperConstructor

optim_wrapper = dict(
    constructor=DistillOptimWrapperConstructor,
    student=dict(optimizer=dict(type=SGD, lr=0.1, momentum=0.9, weight_decay=5e-4)),
    generator=dict(optimizer=dict(type=Adam, lr=1e-3)),
)
schedule = [dict(type=MultiStepLR, by_epoch=False, milestones=[5000, 10000], gamma=0.1)]
param_scheduler = dict(student=schedule, generator=schedule)
train_cfg = dict(type=AdversarialDistillLoop, max_iters=25000, val_interval=500)
