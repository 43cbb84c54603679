# MAD for the segmentation of scenes: DFQ for them, whose student also learns from a slow copy of the generator.
_base_ = 'dfq_seg.py'
model = dict(
    generator=dict(
        _delete_=True,
        type='mmdfad.EMAGenerator',
        decay=0.95,
        generator=dict(type='mmdfad.DCGANGenerator', noise_dim=256, image_size=128, channels=3),
    ),
)
