# ILS for segmentors: larger images, and fewer of them.
_base_ = 'ils.py'
model = dict(
    generator=dict(shift=4, generator=dict(image_size=(96, 128), count=256, shift=4)),
    imitation=[dict(type='mmdfad.KLDiscrepancy'), dict(type='mmdfad.StageImitation', weight=3.0)],
)
train_dataloader = dict(batch_size=32)
auto_scale_lr = dict(base_batch_size=32)
