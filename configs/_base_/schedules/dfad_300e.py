# The paper's schedule for 128x128 images. Everything counts rounds; an "epoch" of the paper is 50.
_base_ = 'dfad_500e.py'
optim_wrapper = dict(student=dict(optimizer=dict(lr=0.05)))
train_cfg = dict(max_iters=15000)
