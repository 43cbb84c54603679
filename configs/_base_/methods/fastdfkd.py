# FastDFKD (arXiv 2112.06253): each round a copy of the generator learns one batch of images, which is kept in a memory.
_base_ = ['../generators/upsample_32.py', '../schedules/fastdfkd_220.py']
model = dict(
    generator=dict(
        _delete_=True,
        type='mmdfad.AugmentedGenerator',
        flip=0.5,
        shift=4,
        generator=dict(
            type='mmdfad.MetaGenerator',
            capacity=25600,
            steps=10,
            generator_lr=2e-3,
            noise_lr=1e-2,
            generator=dict(type='mmdfad.UpsampleGenerator', noise_dim=256, image_size=32, channels=3),
        ),
    ),
    generation=[
        dict(type='mmdfad.BNStatisticsPrior', distance='l2', weight=10.0),
        dict(type='mmdfad.DrawnLabelPrior', weight=0.5),
        dict(type='mmdfad.KLDiscrepancy', only_agreed=True, weight=1.33, begin=19),
    ],
    imitation=[dict(type='mmdfad.KLDiscrepancy', temperature=20.0)],
)
