# MAD (arXiv 2209.10359): DFQ, whose student also learns from a slow copy of the generator.
_base_ = 'dfq.py'
model = dict(
    generator=dict(
        _delete_=True,
        type='mmdfad.EMAGenerator',
        decay=0.95,
        generator=dict(type='mmdfad.UpsampleGenerator', noise_dim=256, image_size=32, channels=3),
    ),
)
