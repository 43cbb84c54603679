# ILS for segmentors: larger images, and fewer of them.
_base_ = ['../generators/inversion_96x128.py', '../schedules/ils_280.py']
model = dict(
    generation=[
        dict(type='mmdfad.BNStatisticsPrior', distance='kl'),
        dict(type='mmdfad.SpectrumPrior', weight=0.02),
    ],
    start=dict(type='mmdfad.LeastSquaresStart', images=256, residual='sum', begin=180),
    imitation=[dict(type='mmdfad.KLDiscrepancy'), dict(type='mmdfad.StageImitation', weight=6.0)],
)
optim_wrapper = dict(student=dict(optimizer=dict(lr=1e-3)))
