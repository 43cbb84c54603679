# Images of 32x32 in two halves: a pool of what a decoder makes while it learns, and a bank whose pixels learn.
shape = dict(noise_dim=256, image_size=(32, 32), channels=3)
pool = dict(
    type='mmdfad.InversionPool',
    generator=dict(type='mmdfad.DecoderGenerator', **shape, upsamplings=3),
    capacity=2560,
    steps=5,
    shift=2,
)
bank = dict(type='mmdfad.ImageBank', **shape, count=512, shift=2)
model = dict(
    type='mmdfad.AdversarialDistiller',
    generator=dict(
        type='mmdfad.AugmentedGenerator',
        generator=dict(type='mmdfad.MixtureGenerator', generators=[pool, bank]),
        flip=0.5,
        shift=2,
    ),
)
train_dataloader = dict(
    batch_size=64,
    num_workers=0,
    dataset=dict(type='mmdfad.NoiseDataset'),
    sampler=dict(type='mmdfad.NoiseSampler'),
)
auto_scale_lr = dict(enable=False, base_batch_size=64)
