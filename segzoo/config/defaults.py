"""The configuration keys that segzoo adds to Detectron2's, each with its meaning.

Detectron2's own keys keep their names and meaning; where a default suits segmentation better, it is
changed here and nowhere else. Keys of a single method are added by that method's `config.py`.
"""

from detectron2.config import CfgNode, get_cfg


def default_config() -> CfgNode:
    """Return Detectron2's defaults with the keys shared by all methods."""
    cfg = get_cfg()
    add_segzoo_config(cfg)
    return cfg


def add_segzoo_config(cfg: CfgNode) -> None:
    """Add the keys shared by all methods, in place."""
    # What the model is trained for: semantic | panoptic | entity | instance. Picks the mapper's targets.
    cfg.TASK = "semantic"
    # Python modules to import first, so that what they register (backbones, methods, ...) can be named here.
    cfg.IMPORTS = ()
    # Trainer | ... (registry TRAINER): the class that trains, and builds what is needed for evaluation.
    cfg.TRAINER = "Trainer"
    # Where a run writes; empty: output/<config>/<n>, and for an evaluation a folder beside the weights.
    cfg.OUTPUT_DIR = ""

    _add_dataset_keys(cfg)
    _add_input_keys(cfg)
    _add_backbone_keys(cfg)
    _add_head_keys(cfg)
    _add_per_pixel_keys(cfg)
    _add_mask_classification_keys(cfg)
    _add_solver_keys(cfg)
    _add_test_keys(cfg)


def _add_dataset_keys(cfg: CfgNode) -> None:
    # Dataset YAML files to register beside the built-in ones; `segzoo check-data --keys` explains them.
    cfg.DATASETS.FILES = ()
    # The dataset whose classes the model predicts; empty: the first of TRAIN, else of TEST.
    cfg.DATASETS.CLASSES_FROM = ""
    # What a broken image or label does, in training and evaluation: stop | skip (counted and listed).
    cfg.DATALOADER.ON_ERROR = "stop"
    # Detectron2's grouping of images by aspect ratio is off: a batch depends on seed and iteration alone.
    cfg.DATALOADER.ASPECT_RATIO_GROUPING = False
    # Drop training images without any usable annotation. Segmentation learns from them too.
    cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS = False


def _add_input_keys(cfg: CfgNode) -> None:
    cfg.INPUT.FORMAT = "RGB"
    # What the mapper gives a model to learn from: segments (map or masks of the targets, and their classes),
    # boxes, instances (Detectron2's Instances), sem_seg, ... (registry TARGETS); (): what the model asks for.
    cfg.INPUT.TARGETS = ()
    # Values [low, high] of images of more than 8 bits that become 0 and 255, as (0, 4095) for 12 bits, where
    # the dataset's YAML has no image_range. (): by the brightest pixel, of the dataset, else of the file; a
    # training takes that of its datasets with such images, where they agree, and saves it here.
    cfg.INPUT.IMAGE_RANGE = ()
    cfg.MODEL.PIXEL_MEAN = [123.675, 116.280, 103.530]
    cfg.MODEL.PIXEL_STD = [58.395, 57.120, 57.375]
    # The training augmentations by family:
    #   semantic: resize by short edge -> category-capped crop -> color -> flip -> pad
    #   lsj:      large-scale jitter: flip -> resize by U(LSJ_SCALE) of LSJ_SIZE -> fixed-size crop -> pad
    #   detr:     flip -> resize, half of the time with a crop and another resize
    #   semseg:      resize by U(SCALE_RANGE) -> rotate -> blur (BLUR_KERNEL) -> flip -> pad around, crop
    #   gluon_short: flip -> short edge in SCALE_RANGE x BASE_SIZE -> pad, crop -> blur (BLUR_RADIUS)
    #   gluon_long:  the same with the long edge
    #   segformer:   fit into MAX_SIZE_TRAIN x BASE_SIZE, times U(SCALE_RANGE) -> category-capped crop -> flip
    #                -> color -> pad
    cfg.INPUT.AUGMENTATION = "semantic"
    # Size (height, width) of the training crop in pixels; () for no crop (family "semantic" only).
    cfg.INPUT.CROP_SIZE = ()
    # A crop is redrawn, 10 times at most, while one category covers more than this share of its labels.
    cfg.INPUT.CROP_SINGLE_CATEGORY_MAX = 1.0
    # Detectron2's SSD-like color jitter: brightness, contrast, saturation, hue.
    cfg.INPUT.COLOR_AUG = False
    # Pad the training image (with PAD_VALUE, before normalization) and labels (with ignore) to CROP_SIZE.
    cfg.INPUT.PAD_TO_CROP = True
    cfg.INPUT.PAD_VALUE = 128
    # Pad with MODEL.PIXEL_MEAN instead, which is 0 after normalization. A rotation always does so.
    cfg.INPUT.PAD_WITH_MEAN = False
    # Families semseg, gluon_* and segformer: range of the random resize factor, and the side it applies to.
    cfg.INPUT.SCALE_RANGE = (0.5, 2.0)
    cfg.INPUT.BASE_SIZE = 520
    # Family semseg: range of the rotation in degrees, and its probability.
    cfg.INPUT.ROTATION = (-10.0, 10.0)
    cfg.INPUT.ROTATION_PROB = 0.5
    # Probability of a Gaussian blur; side of its kernel (semseg), range of its standard deviation (gluon_*).
    cfg.INPUT.BLUR_PROB = 0.5
    cfg.INPUT.BLUR_KERNEL = 5
    cfg.INPUT.BLUR_RADIUS = (0.0, 1.0)
    # Flip probability; labels with left and right classes are swapped as the dataset's flip_pairs say.
    cfg.INPUT.FLIP_PROB = 0.5
    # Large-scale jitter: side of the square output, and the range of the resize factor.
    cfg.INPUT.LSJ_SIZE = 1024
    cfg.INPUT.LSJ_SCALE = (0.1, 2.0)
    # DETR-style crop: short edges of the first resize, and the range of the crop's sides. The second is
    # INPUT.CROP.SIZE in MaskFormer's files for COCO.
    cfg.INPUT.DETR_CROP_SHORT_EDGE = (400, 500, 600)
    cfg.INPUT.DETR_CROP_SIZE = (384, 600)
    # The resolution of evaluation has Detectron2's keys and values: INPUT.MIN_SIZE_TEST, the short edge (0:
    # images as they are), and INPUT.MAX_SIZE_TEST, the cap of the long edge. TEST.PROTOCOL resizes by itself.


def _add_backbone_keys(cfg: CfgNode) -> None:
    # Which variant of the backbone NAME: "tiny", "r50", ... ; sizes stand in a table in the backbone's file.
    cfg.MODEL.BACKBONE.VARIANT = ""
    # Ratio of input to res5 size: 8 | 16 | 32 (dilated where the backbone can).
    cfg.MODEL.BACKBONE.OUTPUT_STRIDE = 32
    # What a ResNet dilates for that: uniform (semseg, Detectron2) | contract (GluonCV, timm, torchvision) |
    # mmseg | mmseg_strided; weights need the style they were trained with. See `block_dilations` in
    # modeling/backbones/resnet.py.
    cfg.MODEL.BACKBONE.DILATION_STYLE = "uniform"
    cfg.MODEL.BACKBONE.DROP_PATH_RATE = 0.0
    # FrozenBN | BN | SyncBN for convolutional backbones.
    cfg.MODEL.BACKBONE.NORM = "FrozenBN"
    # Recompute activations in the backward pass instead of storing them.
    cfg.MODEL.BACKBONE.CHECKPOINT = False
    # Stages with frozen weights: 0 none, 1 the stem, 2 the stem and res2, ...
    cfg.MODEL.BACKBONE.FREEZE_AT = 0
    # The feature maps handed to the head.
    cfg.MODEL.BACKBONE.OUT_FEATURES = ("res2", "res3", "res4", "res5")


def _add_head_keys(cfg: CfgNode) -> None:
    # 0: as many classes as the dataset has (the rule; a number is checked against the dataset).
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 0
    # Label of void pixels as the model sees it; label maps are converted to it when they are read.
    cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE = 255
    cfg.MODEL.SEM_SEG_HEAD.CONVS_DIM = 256
    cfg.MODEL.SEM_SEG_HEAD.MASK_DIM = 256
    cfg.MODEL.SEM_SEG_HEAD.NORM = "GN"
    cfg.MODEL.SEM_SEG_HEAD.IN_FEATURES = ["res2", "res3", "res4", "res5"]
    # FPNPixelDecoder | TransformerFPNPixelDecoder | MSDeformAttnPixelDecoder | ... (registry PIXEL_DECODER)
    cfg.MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME = "FPNPixelDecoder"
    # How a pyramid enlarges a level to the next finer one: nearest (MaskFormer) | bilinear (Mask2Former).
    cfg.MODEL.SEM_SEG_HEAD.TOP_DOWN_UPSAMPLE = "nearest"
    # Encoder layers of a transformer pixel decoder.
    cfg.MODEL.SEM_SEG_HEAD.TRANSFORMER_ENC_LAYERS = 0


def _add_per_pixel_keys(cfg: CfgNode) -> None:
    head = cfg.MODEL.SEM_SEG_HEAD
    # Inputs are zero-padded to a multiple of this after normalization; 0: only to the largest of the batch.
    head.SIZE_DIVISIBILITY = 0
    # Bilinear resizing with corner pixels aligned: True in semseg's and GluonCV's families, False elsewhere.
    head.ALIGN_CORNERS = False
    # Before the classifier: probability, and whether whole channels or single elements are dropped.
    head.DROPOUT = 0.1
    head.DROPOUT_KIND = "channel"  # channel | element
    # Convolutions of an FCNHead, and whether its input joins their output before the classifier.
    head.NUM_CONVS = 1
    head.CONCAT_INPUT = False
    head.LOSS = CfgNode()
    # CrossEntropy | OHEMCrossEntropy | BoundaryRelaxedCrossEntropy (registry PIXEL_LOSS)
    head.LOSS.NAME = "CrossEntropy"
    # What the sum over the pixels is divided by: valid, those that count (semseg, pytorch-cv, torchvision,
    # GluonCV) | all, ignored ones too (SegFormer, mmsegmentation): the loss is smaller by their share.
    head.LOSS.AVERAGE_OVER = "valid"
    # Weight of each class in the order of the classes; (): all 1.
    head.LOSS.CLASS_WEIGHTS = ()
    # Logits are compared with labels at (side - 1) / 8 * ZOOM_FACTOR + 1 pixels a side; 8: at full size.
    head.LOSS.ZOOM_FACTOR = 8
    # Online hard example mining keeps the pixels whose true class has at most this probability, ...
    head.LOSS.OHEM_THRESHOLD = 0.7
    # ... and at least 1 / OHEM_KEEP_FRACTION of all pixels.
    head.LOSS.OHEM_KEEP_FRACTION = 16

    # Between backbone and head: JPU | ... (registry NECK); "" for none.
    cfg.MODEL.NECK = CfgNode()
    cfg.MODEL.NECK.NAME = ""

    # A second head that is supervised in training and not used afterwards; "" for none.
    cfg.MODEL.AUX_HEAD = CfgNode()
    cfg.MODEL.AUX_HEAD.NAME = ""
    cfg.MODEL.AUX_HEAD.IN_FEATURES = ["res4"]
    cfg.MODEL.AUX_HEAD.CONVS_DIM = 256
    cfg.MODEL.AUX_HEAD.NUM_CONVS = 1
    cfg.MODEL.AUX_HEAD.CONCAT_INPUT = False
    cfg.MODEL.AUX_HEAD.DROPOUT = 0.1
    cfg.MODEL.AUX_HEAD.LOSS_WEIGHT = 0.4


def _add_mask_classification_keys(cfg: CfgNode) -> None:
    cfg.MODEL.MASK_FORMER = CfgNode()
    node = cfg.MODEL.MASK_FORMER
    # MaskFormerTransformerDecoder | MultiScaleMaskedTransformerDecoder | ... (registry TRANSFORMER_DECODER)
    node.TRANSFORMER_DECODER_NAME = "MaskFormerTransformerDecoder"
    # What the transformer attends to: "res5" (backbone), "transformer_encoder" (the pixel decoder's encoded
    # coarsest level) or "multi_scale_pixel_decoder" (its levels res5, res4, res3; masked-attention decoders).
    node.TRANSFORMER_IN_FEATURE = "res5"
    # Project that feature even where it has HIDDEN_DIM channels already. MaskFormer's and Mask2Former's files
    # have this key and PRE_NORM, at False.
    node.ENFORCE_INPUT_PROJ = False
    node.HIDDEN_DIM = 256
    node.NUM_OBJECT_QUERIES = 100
    node.NHEADS = 8
    node.DIM_FEEDFORWARD = 2048
    # Layers of the transformer decoder. Mask2Former's own key of this name is one more.
    node.DEC_LAYERS = 6
    node.DROPOUT = 0.1
    # Layer norms before attention and feed-forward networks instead of after them.
    node.PRE_NORM = False
    # Supervise the prediction of every decoder layer.
    node.DEEP_SUPERVISION = True
    # MSDeformAttnPixelDecoder, which has SEM_SEG_HEAD.TRANSFORMER_ENC_LAYERS layers: the features it encodes,
    # the points that a head reads in each of them, and the width of its feed-forward networks. Mask2Former's
    # DEFORMABLE_TRANSFORMER_ENCODER_IN_FEATURES and _N_POINTS; files of its family have others.
    node.DEFORMABLE_FEATURES = ("res3", "res4", "res5")
    node.DEFORMABLE_POINTS = 4
    node.DEFORMABLE_FEEDFORWARD = 1024
    # FusedSetCriterion | SetCriterion | ... (registry CRITERION). The first gives the losses of the second in
    # less time and memory.
    node.CRITERION_NAME = "FusedSetCriterion"
    # What the loss and the matching cost are made of (registries LOSS_TERM and MATCHING_COST).
    node.LOSS_TERMS = ("ClassTerm", "MaskTerm", "DiceTerm")
    node.MATCHING_COSTS = ("ClassCost", "MaskCost", "DiceCost")
    # Matcher and criterion: weights of the class, mask (focal or binary cross-entropy) and dice terms.
    node.MASK_LOSS = "focal"  # focal (MaskFormer) | bce (Mask2Former)
    node.CLASS_WEIGHT = 1.0
    node.MASK_WEIGHT = 20.0
    node.DICE_WEIGHT = 1.0
    node.NO_OBJECT_WEIGHT = 0.1
    # Points on which masks are compared; 0: every pixel.
    node.TRAIN_NUM_POINTS = 0
    node.OVERSAMPLE_RATIO = 3.0
    node.IMPORTANCE_SAMPLE_RATIO = 0.75
    # Inputs are zero-padded to a multiple of this after normalization; 0: only to the largest of the batch.
    node.SIZE_DIVISIBILITY = 32
    node.TEST = CfgNode()
    # Panoptic: a query below this score is dropped; a segment that keeps less of its mask than this is, too.
    node.TEST.OBJECT_MASK_THRESHOLD = 0.8
    node.TEST.OVERLAP_THRESHOLD = 0.8
    # Panoptic: of the pixels it won, a segment takes those where its mask's probability is at least one half
    # (Mask2Former); otherwise all of them (MaskFormer).
    node.TEST.CONFIDENT_PIXELS_ONLY = False
    # Semantic: what is resized to the size of the image: scores of the classes, or the masks that make them.
    # "": as the published models were evaluated, scores for TASK semantic and masks for the others.
    node.TEST.SEMANTIC_RESIZING = ""  # scores | masks


def _add_solver_keys(cfg: CfgNode) -> None:
    # AdamW | SGD | ... (registry OPTIMIZER), in upper or lower case
    cfg.SOLVER.OPTIMIZER = "AdamW"
    cfg.SOLVER.BASE_LR = 0.0001
    cfg.SOLVER.WEIGHT_DECAY = 0.0001
    # Weight decay of norm layers; None: WEIGHT_DECAY.
    cfg.SOLVER.WEIGHT_DECAY_NORM = 0.0
    # Weight decay of embeddings (queries, ...), position and relative-bias tables; None: WEIGHT_DECAY.
    cfg.SOLVER.WEIGHT_DECAY_EMBED = 0.0
    # Weight decay of norm layers outside the backbone; None: WEIGHT_DECAY_NORM, as for all others.
    cfg.SOLVER.WEIGHT_DECAY_HEAD_NORM = None
    # Weight decay by regular expression: the first that is found in a parameter's name decides, and not the
    # keys above. [["norm", 0.0], ["", None]]: 0 where the name contains "norm", WEIGHT_DECAY for all others.
    cfg.SOLVER.WEIGHT_DECAY_BY_NAME = []
    # Learning-rate factors of the backbone, and of all that is not: heads, neck.
    cfg.SOLVER.BACKBONE_MULTIPLIER = 1.0
    cfg.SOLVER.HEAD_MULTIPLIER = 1.0
    # Learning-rate factors by parameter-name prefix, longest match wins: [["sem_seg_head", 10.0], ...]
    cfg.SOLVER.LR_MULTIPLIERS = []
    # Learning-rate factors by regular expression: the first that is found in a parameter's name decides, and
    # not the three keys above: [["sampling_offsets|reference_points", 0.1]].
    cfg.SOLVER.LR_MULTIPLIERS_BY_NAME = []
    # Layer-wise decay (BEiT, MAE): parameters of the backbone have the factor LAYER_DECAY^n besides, n the
    # layers from their own to the end: L + 1 for the embedding of a transformer of L blocks, 1 for its last.
    cfg.SOLVER.LAYER_DECAY = 1.0
    # WarmupPolyLR | WarmupMultiStepLR | WarmupCosineLR | ... (registry LR_SCHEDULER)
    cfg.SOLVER.LR_SCHEDULER_NAME = "WarmupPolyLR"
    cfg.SOLVER.POLY_LR_POWER = 0.9
    cfg.SOLVER.POLY_LR_CONSTANT_ENDING = 0.0
    cfg.SOLVER.WARMUP_ITERS = 0
    cfg.SOLVER.WARMUP_FACTOR = 1.0
    # Forward-backward passes per optimizer step; IMS_PER_BATCH stays the images of one optimizer step. Losses
    # are normalized within each pass (over its segments, its pixels), and the step takes their mean.
    cfg.SOLVER.ACCUMULATE = 1
    # Each of several processes keeps the optimizer moments of its share of the parameters (ZeRO stage 1), for
    # networks whose AdamW state is a burden. Weights and checkpoints are those of a run without it.
    cfg.SOLVER.SHARD_OPTIMIZER = False
    # full_model clips the norm of all gradients together; value and norm are Detectron2's.
    cfg.SOLVER.CLIP_GRADIENTS.CLIP_TYPE = "full_model"
    cfg.SOLVER.CLIP_GRADIENTS.CLIP_VALUE = 0.01
    cfg.SOLVER.CLIP_GRADIENTS.ENABLED = False
    # float16 | bfloat16, when SOLVER.AMP.ENABLED. A CPU always uses bfloat16.
    cfg.SOLVER.AMP.DTYPE = "float16"
    # Iterations between progress lines, which are also the points in metrics.json and TensorBoard.
    cfg.SOLVER.LOG_PERIOD = 20
    # Keep the last so many periodic checkpoints; 0 keeps all. The best and the final one always stay.
    cfg.SOLVER.CHECKPOINT_KEEP = 3


def _add_test_keys(cfg: CfgNode) -> None:
    # What the network is asked for in evaluation: semantic, panoptic, entity, instance; () means (TASK,).
    cfg.TEST.TASKS = ()
    # Evaluators beside the standard ones, by the names they are registered under: "boundary" (boundary AP,
    # boundary PQ, mean boundary IoU); see `segzoo.evaluation.register_evaluator`.
    cfg.TEST.EVALUATORS = ()
    # Width of a boundary as a share of the image's diagonal; 0: the published one, 0.02, of Cityscapes 0.005.
    cfg.TEST.BOUNDARY_DILATION = 0.0
    # Images per batch of a process. Results do not depend on it: only images of like size run together.
    cfg.TEST.IMS_PER_BATCH = 1
    # Threads that score each task while the model computes; 0: scored in between.
    cfg.TEST.SCORING_THREADS = 2
    # Images of the first test set that TensorBoard shows with ground truth and prediction at every evaluation
    # of a training; 0: none.
    cfg.TEST.NUM_PICTURES = 4
    # Write predictions (index, color and panoptic PNG, JSON) to OUTPUT_DIR/inference.
    cfg.TEST.SAVE_PREDICTIONS = False
    # Metric by which model_best.pth is chosen, e.g. "sem_seg/mIoU", "panoptic_seg/PQ"; "" for none.
    cfg.TEST.BEST_METRIC = ""
    # Stop after so many evaluations without a better BEST_METRIC; 0: never.
    cfg.TEST.EARLY_STOP_PATIENCE = 0
    # Entity and instance predictions kept per image.
    cfg.TEST.DETECTIONS_PER_IMAGE = 100
    # Entity: a prediction below this score is dropped.
    cfg.TEST.ENTITY_SCORE_THRESHOLD = 0.0
    # How a semantic model is tested: a preset, see modeling/protocols/presets.py (semseg_ss, semseg_ms,
    # gluon_val, gluon_testval, gluon_ms, segformer, segformer_ms, segformer_cityscapes,
    # segformer_cityscapes_ms, mmseg_whole, mmseg_whole_ms, mmseg_slide, mmseg_slide_ms), or maskformer_tta
    # (TEST.AUG's sizes); "": one forward pass at INPUT.MIN_SIZE_TEST.
    cfg.TEST.PROTOCOL = ""
    # What differs from the preset; None: as the preset has it.
    node = cfg.TEST.INFERENCE = CfgNode()
    node.MODE = None  # whole | slide | center_crop
    # none | long_edge | long_edge_up | short_edge | box: the side that is BASE_SIZE times the scale, with its
    # rounding; box: the largest that fits into MAX_SIZE x BASE_SIZE.
    node.RESIZE = None
    node.BASE_SIZE = None
    node.MAX_SIZE = None
    # Copies are stretched to multiples of this.
    node.ROUND_TO = None
    # float | corners | opencv | pillow: how the image is resized.
    node.INTERPOLATION = None
    # Of the window or center crop: (height, width).
    node.CROP_SIZE = None
    # Of the window: (height, width) in pixels; or the fraction of the crop, rounded up or down.
    node.STRIDE = None
    node.STRIDE_FRACTION = None
    node.STRIDE_ROUNDING = None
    # clamped to the border | padded beyond it
    node.LAST_WINDOW = None
    # none (the window shrinks) | centered | right_bottom: of copies smaller than the window; mean | black.
    node.PADDING = None
    node.PAD_VALUE = None
    # Factors of the copies that are averaged, and whether mirrored ones join them.
    node.SCALES = None
    node.FLIP = None
    # window | pair | copy | never: what the softmax is taken of before averages are.
    node.SOFTMAX = None
    # Of the resize of scores to the original size.
    node.ALIGN_CORNERS = None
    # Windows that run together, for speed and memory only; 0: as bounded memory allows, on a CPU one.
    node.WINDOW_BATCH = 0
    # With train_net.py --shard: images after which what is done is saved.
    cfg.TEST.SHARD_PERIOD = 20
