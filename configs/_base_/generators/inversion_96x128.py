# The pool for images of 96x128.
_base_ = './inversion_32.py'
model = dict(
    generator=dict(
        generator=dict(generator=dict(image_size=(96, 128), upsamplings=4), capacity=1920, shift=4),
        shift=4,
    ),
)
train_dataloader = dict(batch_size=16)
auto_scale_lr = dict(base_batch_size=16)
