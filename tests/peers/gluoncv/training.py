"""What is trained on both sides, see `make_training_cases.py`."""

# Images of a batch, the seed of the first, and iterations, by segmentation network. One device then divides
# its mean gradient by as much as 16 images on 4 GPUs do with ADE20K, or on 8 GPUs with Cityscapes. The second
# step of DANet differs by the float noise of its channel affinities.
SEGMENTATION = {
    "fcn": (4, 0, 2),
    "psp": (4, 0, 2),
    "deeplab": (4, 0, 2),
    "danet": (2, 5, 1),
    "deeplab_v3b_plus": (2, 0, 2),
}

# Detectors learn from one image once. Numbers of proposals, and of samples of the second stage.
PROPOSALS, SAMPLES = 60, 32
# Classes of the image's objects.
OBJECTS = (3, 17, 0, 79, 41)

# Regions, true boxes and number of samples, of which GluonCV has no more than regions and true boxes.
_TRUE = ([0, 0, 20, 20], [30, 10, 50, 40])
_NEAR = [[0, 0, 20, 20 - index] for index in range(1, 6)] + [
    [30, 10 + index, 50, 40] for index in range(1, 6)
]
_FAR = [[60, index, 70 + index, 30 + index] for index in range(30)]
SAMPLING = {
    "plenty": (_NEAR[:2] + _FAR, _TRUE, 16),
    "many_positive": (_NEAR + _FAR, _TRUE, 16),
    "few_negative": (_NEAR + _FAR[:4], _TRUE, 16),
    "all_taken": (_NEAR[:6] + _FAR[:4], _TRUE, 12),
    "few_positive": (_NEAR[:1] + _FAR[:5], _TRUE, 8),
}

# Number of iterations of the schedule, and the iterations at which it is compared.
SCHEDULE = (151560, (0, 1, 1000, 75000, 140000, 151559))
