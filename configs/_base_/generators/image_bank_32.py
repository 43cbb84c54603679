# A bank of images of 32x32 whose pixels are the parameters, and its noise.
model = dict(
    type='mmdfad.AdversarialDistiller',
    generator=dict(
        type='mmdfad.AugmentedGenerator',
        flip=0.5,
        shift=2,
        generator=dict(
            type='mmdfad.ImageBank', noise_dim=256, image_size=32, channels=3, count=1024, flip=0.5, shift=2
        ),
    ),
)
train_dataloader = dict(
    batch_size=128,
    num_workers=0,
    dataset=dict(type='mmdfad.NoiseDataset'),
    sampler=dict(type='mmdfad.NoiseSampler'),
)
auto_scale_lr = dict(enable=False, base_batch_size=128)
