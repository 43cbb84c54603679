# ILS (inversion and least squares) for classifiers of 32x32: images with the teacher's batch norm statistics. Then the
# student gets its weights by least squares. Then it imitates logits and stages.
_base_ = ['../generators/inversion_32.py', '../schedules/ils_280.py']
model = dict(
    generator=dict(cut=0.5),
    generation=[
        dict(type='mmdfad.BNStatisticsPrior', distance='kl'),
        dict(type='mmdfad.SpectrumPrior', weight=0.02),
    ],
    start=dict(type='mmdfad.LeastSquaresStart', images=256, residual='sum', begin=180),
    imitation=[
        dict(type='mmdfad.KLDiscrepancy', temperature=4.0),
        dict(type='mmdfad.StageImitation', weight=20.0),
    ],
)
