# Baseline RANDOM: the same student, loop and number of updates, on random noise instead of generated images.
_base_ = '../dfad/dfad_deeplabv3-r18-half_1xb8_camvid-96x128.py'
model = dict(generator=dict(_delete_=True, type='mmdfad.RandomImageGenerator', image_size=(96, 128)))
