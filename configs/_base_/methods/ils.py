# ILS (inversion and least squares) for classifiers of 32x32: images with the teacher's batch norm statistics. Then the
# student gets its weights by least squares. Then it imitates logits and stages.
_base_ = ['../generators/inversion_32.py', '../schedules/ils_260.py']
model = dict(
    generation=[
        dict(type='mmdfad.BNStatisticsPrior', distance='kl'),
        dict(type='mmdfad.TotalVariationPrior', weight=0.05),
    ],
    start=dict(type='mmdfad.LeastSquaresStart', images=256, residual='sum', begin=60),
    imitation=[
        dict(type='mmdfad.KLDiscrepancy', temperature=4.0),
        dict(type='mmdfad.StageImitation', weight=6.0),
    ],
)
# Adam moves the pixels of the bank by .06.
optim_wrapper = dict(generator=dict(paramwise_cfg=dict(custom_keys=dict(pixels=dict(lr_mult=30.0)))))
