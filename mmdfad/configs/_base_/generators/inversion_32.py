# Images of 32x32: a pool of what decoders make while they learn. Each learns in 60 rounds, and the pool keeps the
# images of the last 40.
from mmdfad.datasets import NoiseDataset, NoiseSampler
from mmdfad.models import AdversarialDistiller
from mmdfad.models.generators import AugmentedGenerator, DecoderGenerator, InversionPool

decoder = dict(type=DecoderGenerator, noise_dim=256, image_size=(32, 32), channels=3, upsamplings=3)
model = dict(
    type=AdversarialDistiller,
    generator=dict(
        type=AugmentedGenerator,
        generator=dict(type=InversionPool, generator=decoder, capacity=7680, steps=5, shift=2, renew=60, warmup=20),
        flip=0.5,
        shift=2,
    ),
)
train_dataloader = dict(batch_size=64, num_workers=0, dataset=dict(type=NoiseDataset), sampler=dict(type=NoiseSampler))
auto_scale_lr = dict(enable=False, base_batch_size=64)
