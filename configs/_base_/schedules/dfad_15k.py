# The DFAD paper's schedule for 128x128 images: 15,000 rounds, which the paper counts as 300 epochs.
_base_ = 'dfad_25k.py'
optim_wrapper = dict(student=dict(optimizer=dict(lr=0.05)))
train_cfg = dict(max_iters=15000)
