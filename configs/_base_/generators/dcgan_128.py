# Generator B of the DFAD paper, for 128x128 images, and its noise.
model = dict(
    type='mmdfad.AdversarialDistiller',
    generator=dict(type='mmdfad.DCGANGenerator', noise_dim=256, image_size=128, channels=3),
)
train_dataloader = dict(
    batch_size=64,
    num_workers=0,
    dataset=dict(type='mmdfad.NoiseDataset'),
    sampler=dict(type='mmdfad.NoiseSampler'),
)
auto_scale_lr = dict(enable=False, base_batch_size=64)
