# The pool for images of 96x128.
from mmengine.config import read_base

with read_base():
    from .inversion_32 import *

decoder.update(image_size=(96, 128), upsamplings=4)
model.generator.update(generator=dict(generator=decoder, capacity=1920, shift=4), shift=4)
train_dataloader.update(batch_size=16)
auto_scale_lr.update(base_batch_size=16)
