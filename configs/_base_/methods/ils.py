# ILS (inversion and least squares) for classifiers of 32x32: images move towards the teacher's batch norm statistics.
# Then the student gets its weights by least squares. Then it imitates logits and stages.
_base_ = ['../generators/image_bank_32.py', '../schedules/ils_240.py']
model = dict(
    generation=[
        dict(type='mmdfad.BNStatisticsPrior', distance='kl'),
        dict(type='mmdfad.TotalVariationPrior', weight=0.05),
    ],
    start=dict(type='mmdfad.LeastSquaresStart', begin=40, images=256),
    imitation=[
        dict(type='mmdfad.KLDiscrepancy', temperature=4.0),
        dict(type='mmdfad.StageImitation', weight=3.0),
    ],
)
