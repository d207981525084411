"""Define the configuration keys that segzoo adds to Detectron2's, each with its meaning.

Detectron2's own keys keep their names and meaning; all defaults that differ from Detectron2's are set here.
Keys of a single method are added by that method's `config.py`.
"""

from detectron2.config import CfgNode, get_cfg


def default_config() -> CfgNode:
    """Return Detectron2's defaults with the keys shared by all methods."""
    cfg = get_cfg()
    add_segzoo_config(cfg)
    return cfg


def add_segzoo_config(cfg: CfgNode) -> None:
    """Add the keys shared by all methods, in place."""
    # Task that the model is trained for: semantic | panoptic | entity | instance; it chooses the targets.
    cfg.TASK = "semantic"
    # Python modules to import first; the backbones, methods, ... that they register can be named here.
    cfg.IMPORTS = ()
    # Trainer | ... (registry TRAINER): the class that trains, and builds the evaluators.
    cfg.TRAINER = "Trainer"
    # Detectron2's CUDNN_BENCHMARK True lets cuDNN measure its algorithms for each size of an image. A
    # training whose images all have one size, such as a crop, does so with False, too.
    # Folder of a run's output; "": output/<config>/<n>, and for an evaluation a folder beside the weights.
    cfg.OUTPUT_DIR = ""

    # Parts of the model to compile for training by torch.compile, such as ("backbone",) or
    # ("sem_seg_head.predictor",), and its mode: default | reduce-overhead | max-autotune. The first
    # iterations then take a minute or more.
    cfg.MODEL.COMPILE = CfgNode()
    cfg.MODEL.COMPILE.PARTS = ()
    cfg.MODEL.COMPILE.MODE = "default"

    _add_dataset_keys(cfg)
    _add_input_keys(cfg)
    _add_backbone_keys(cfg)
    _add_neck_keys(cfg)
    _add_head_keys(cfg)
    _add_per_pixel_keys(cfg)
    _add_mask_classification_keys(cfg)
    _add_solver_keys(cfg)
    _add_test_keys(cfg)


def _add_dataset_keys(cfg: CfgNode) -> None:
    # Dataset YAML files to register beside the built-in ones; `segzoo check-data --keys` explains them.
    cfg.DATASETS.FILES = ()
    # The dataset whose classes the model predicts; "": the first of TRAIN, else of TEST.
    cfg.DATASETS.CLASSES_FROM = ""
    # At a broken image or label, in training and evaluation: stop | skip (counted and listed).
    cfg.DATALOADER.ON_ERROR = "stop"
    # Detectron2's grouping of images by aspect ratio is off: a batch depends only on seed and iteration.
    cfg.DATALOADER.ASPECT_RATIO_GROUPING = False
    # Drop training images without any usable annotation. Segmentation learns from them too.
    cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS = False


def _add_input_keys(cfg: CfgNode) -> None:
    cfg.INPUT.FORMAT = "RGB"
    # Detectron2's MASK_FORMAT is the form of the masks in the target `instances`, where labels are polygons:
    # polygon (transformed with the image, drawn for each region) | bitmask (drawn at the size of the image).
    # Targets that the mapper makes: segments (map or masks of the targets, and their classes), segment_map
    # (the same without sem_seg), class_map (sem_seg in few bytes), boxes
    # (whole_boxes: as they were before a crop cut the masks), instances (Detectron2's Instances), entities
    # (EntitySeg), sem_seg, ... (registry TARGETS); (): those that the model requests.
    cfg.INPUT.TARGETS = ()
    # Pixel values (low, high) that map to 0 and 255 in images of more than 8 bits, such as (0, 4095) for 12
    # bits, if the dataset's YAML has no image_range. (): from the brightest pixel of the dataset, else of the
    # file; training takes the range of its datasets with such images, if they agree, and saves it here.
    cfg.INPUT.IMAGE_RANGE = ()
    cfg.MODEL.PIXEL_MEAN = [123.675, 116.280, 103.530]
    cfg.MODEL.PIXEL_STD = [58.395, 57.120, 57.375]
    # The training augmentations by family:
    #   semantic: resize by short edge -> category-capped crop -> color -> flip -> pad
    #   lsj:      large-scale jitter: flip -> resize by U(LSJ_SCALE) of LSJ_SIZE -> fixed-size crop -> pad
    #   lsj_padded: the same with the flip last, as in Detectron2's from-scratch models
    #   detr:     flip -> resize, half of the time with a crop and another resize
    #   semseg:      resize by U(SCALE_RANGE) -> rotate -> blur (BLUR_KERNEL) -> flip -> pad around, crop
    #   gluon_short: flip -> short edge in SCALE_RANGE x BASE_SIZE -> pad, crop -> blur (BLUR_RADIUS)
    #   gluon_long:  likewise with the long edge
    #   segformer:   fit into MAX_SIZE_TRAIN x BASE_SIZE, times U(SCALE_RANGE) -> category-capped crop -> flip
    #                -> color -> pad
    cfg.INPUT.AUGMENTATION = "semantic"
    # Size (height, width) of the training crop in pixels; () for no crop (family "semantic" only).
    cfg.INPUT.CROP_SIZE = ()
    # A crop is redrawn, at most 10 times, while one category covers more than this share of its labels.
    cfg.INPUT.CROP_SINGLE_CATEGORY_MAX = 1.0
    # Detectron2's SSD-like color jitter: brightness, contrast, saturation, hue.
    cfg.INPUT.COLOR_AUG = False
    # Pad the training image (with PAD_VALUE, before normalization) and labels (with PAD_LABEL) to CROP_SIZE.
    cfg.INPUT.PAD_TO_CROP = True
    cfg.INPUT.PAD_VALUE = 128
    # Class of the pixels added, for TASK semantic; -1: the ignore label. GluonCV trains on them as background
    # in the datasets that have this class (PASCAL VOC, COCO-21), where it is 0.
    cfg.INPUT.PAD_LABEL = -1
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
    # Flip probability; left and right classes are swapped according to the dataset's flip_pairs.
    cfg.INPUT.FLIP_PROB = 0.5
    # Large-scale jitter: side of the square output, and the range of the resize factor.
    cfg.INPUT.LSJ_SIZE = 1024
    cfg.INPUT.LSJ_SCALE = (0.1, 2.0)
    # DETR-style crop: short edges of the first resize, and the range of the crop's sides (INPUT.CROP.SIZE in
    # MaskFormer's files for COCO).
    cfg.INPUT.DETR_CROP_SHORT_EDGE = (400, 500, 600)
    cfg.INPUT.DETR_CROP_SIZE = (384, 600)
    # The resolution of evaluation is set by Detectron2's keys: INPUT.MIN_SIZE_TEST, the short edge (0: no
    # resizing), and INPUT.MAX_SIZE_TEST, the maximum of the long edge. TEST.PROTOCOL resizes by itself.


def _add_backbone_keys(cfg: CfgNode) -> None:
    # Variant of the backbone NAME: "tiny", "r50", ...; the table of sizes is in the backbone's file.
    cfg.MODEL.BACKBONE.VARIANT = ""
    # Ratio of input to res5 size: 8 | 16 | 32 (by dilation, if the backbone supports it).
    cfg.MODEL.BACKBONE.OUTPUT_STRIDE = 32
    # Convolutions that a dilated ResNet dilates: uniform (semseg, Detectron2) | contract (GluonCV, timm,
    # torchvision) | mmseg | mmseg_strided; weights need the style they were trained with. See
    # `block_dilations` in modeling/backbones/resnet.py.
    cfg.MODEL.BACKBONE.DILATION_STYLE = "uniform"
    # Bottlenecks of a ResNet stride in their first 1x1 convolution (Detectron2's MSRA weights: R-50.pkl,
    # R-101.pkl) or in the 3x3 one (torchvision, timm).
    cfg.MODEL.BACKBONE.STRIDE_IN_1X1 = False
    # Stages of a ResNet with bottlenecks whose 3x3 convolutions are deformable, such as ("res3", "res4",
    # "res5"); whether they are modulated (DCNv2); groups of channels with offsets of their own.
    cfg.MODEL.BACKBONE.DEFORM_STAGES = ()
    cfg.MODEL.BACKBONE.DEFORM_MODULATED = False
    cfg.MODEL.BACKBONE.DEFORM_GROUPS = 1
    cfg.MODEL.BACKBONE.DROP_PATH_RATE = 0.0
    # What dropout in WideResNet38 sets to 0: channel (the paper, VPLR) | element (GluonCV).
    cfg.MODEL.BACKBONE.DROPOUT_KIND = "channel"
    # FrozenBN | BN | SyncBN for convolutional backbones.
    cfg.MODEL.BACKBONE.NORM = "FrozenBN"
    # Activation checkpointing: recompute activations in the backward pass instead of storing them.
    cfg.MODEL.BACKBONE.CHECKPOINT = False
    # Stages with frozen weights: 0 none, 1 the stem, 2 the stem and res2, ...
    cfg.MODEL.BACKBONE.FREEZE_AT = 0
    # The feature maps passed to the head.
    cfg.MODEL.BACKBONE.OUT_FEATURES = ("res2", "res3", "res4", "res5")


def _add_neck_keys(cfg: CfgNode) -> None:
    # Between backbone and heads, of meta-architectures that have one: FPN | JPU | ... (registry NECK); "" for
    # none.
    cfg.MODEL.NECK = CfgNode()
    cfg.MODEL.NECK.NAME = ""
    # Besides Detectron2's MODEL.FPN.IN_FEATURES (empty: all of the backbone's maps), OUT_CHANNELS, NORM and
    # FUSE_TYPE. Levels above the backbone's: max_pool (every second pixel) | p6 | p6p7 (3 x 3 convolutions of
    # stride 2) | "" for none.
    cfg.MODEL.FPN.TOP_BLOCK = "max_pool"
    # The map that they are computed from: p5, a map of the backbone such as res5, or lateral (of the coarsest
    # level, GluonCV); "" for the coarsest level of the pyramid.
    cfg.MODEL.FPN.TOP_IN_FEATURE = ""
    # The maps passed to the heads; layers of the pyramid that none of them needs do not exist. A map of the
    # backbone is passed on if it is named. Empty: all levels of the pyramid.
    cfg.MODEL.FPN.OUT_FEATURES = ()


def _add_head_keys(cfg: CfgNode) -> None:
    # 0: the dataset's number of classes (recommended); another value is checked against the dataset.
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 0
    # Label of void pixels in the model's input; label maps are converted to it when they are read.
    cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE = 255
    cfg.MODEL.SEM_SEG_HEAD.CONVS_DIM = 256
    cfg.MODEL.SEM_SEG_HEAD.MASK_DIM = 256
    cfg.MODEL.SEM_SEG_HEAD.NORM = "GN"
    cfg.MODEL.SEM_SEG_HEAD.IN_FEATURES = ["res2", "res3", "res4", "res5"]
    # FPNPixelDecoder | TransformerFPNPixelDecoder | MSDeformAttnPixelDecoder | ... (registry PIXEL_DECODER)
    cfg.MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME = "FPNPixelDecoder"
    # Upsampling of a pyramid level to the next finer one: nearest (MaskFormer) | bilinear (Mask2Former).
    cfg.MODEL.SEM_SEG_HEAD.TOP_DOWN_UPSAMPLE = "nearest"
    # Encoder layers of a transformer pixel decoder.
    cfg.MODEL.SEM_SEG_HEAD.TRANSFORMER_ENC_LAYERS = 0


def _add_per_pixel_keys(cfg: CfgNode) -> None:
    head = cfg.MODEL.SEM_SEG_HEAD
    # Inputs are zero-padded to a multiple of this after normalization; 0: only to the batch's largest image.
    head.SIZE_DIVISIBILITY = 0
    # Bilinear resizing with corner pixels aligned: True in semseg's and GluonCV's families, False elsewhere.
    head.ALIGN_CORNERS = False
    # Dropout before the classifier: probability, and whether whole channels or single elements are dropped.
    head.DROPOUT = 0.1
    head.DROPOUT_KIND = "channel"  # channel | element
    # Number of convolutions of an FCNHead, and whether its input is concatenated to their output.
    head.NUM_CONVS = 1
    head.CONCAT_INPUT = False
    head.LOSS = CfgNode()
    # CrossEntropy | OHEMCrossEntropy | BoundaryRelaxedCrossEntropy (registry PIXEL_LOSS)
    head.LOSS.NAME = "CrossEntropy"
    # Pixels that the loss is averaged over: valid (semseg, pytorch-cv, torchvision, GluonCV) | all, including
    # ignored ones, which makes the loss smaller (SegFormer, mmsegmentation).
    head.LOSS.AVERAGE_OVER = "valid"
    # Weight of each class in the order of the classes; (): all 1.
    head.LOSS.CLASS_WEIGHTS = ()
    # Logits are compared with labels at (side - 1) / 8 * ZOOM_FACTOR + 1 pixels per side; 8: at full size.
    head.LOSS.ZOOM_FACTOR = 8
    # Online hard example mining keeps the pixels whose true class has at most this probability, and at least
    # 1 / OHEM_KEEP_FRACTION of all pixels.
    head.LOSS.OHEM_THRESHOLD = 0.7
    head.LOSS.OHEM_KEEP_FRACTION = 16

    # A second head that is used in training only; "" for none.
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
    # Features that the transformer attends to: "res5" (backbone), "transformer_encoder" (the pixel decoder's
    # encoded coarsest level) or "multi_scale_pixel_decoder" (its levels res5 to res3, for masked attention).
    node.TRANSFORMER_IN_FEATURE = "res5"
    # Project that feature even if it already has HIDDEN_DIM channels. MaskFormer's and Mask2Former's files
    # set this key and PRE_NORM to False.
    node.ENFORCE_INPUT_PROJ = False
    node.HIDDEN_DIM = 256
    node.NUM_OBJECT_QUERIES = 100
    node.NHEADS = 8
    node.DIM_FEEDFORWARD = 2048
    # Layers of the transformer decoder; Mask2Former's own key of this name is larger by one.
    node.DEC_LAYERS = 6
    node.DROPOUT = 0.1
    # Layer norms before attention and feed-forward networks instead of after them.
    node.PRE_NORM = False
    # Supervise the prediction of every decoder layer.
    node.DEEP_SUPERVISION = True
    # MSDeformAttnPixelDecoder, with SEM_SEG_HEAD.TRANSFORMER_ENC_LAYERS layers: the features it encodes, the
    # points that a head samples in each of them, and the width of its feed-forward networks. The first two
    # are Mask2Former's DEFORMABLE_TRANSFORMER_ENCODER_IN_FEATURES and _N_POINTS.
    node.DEFORMABLE_FEATURES = ("res3", "res4", "res5")
    node.DEFORMABLE_POINTS = 4
    node.DEFORMABLE_FEEDFORWARD = 1024
    # Round the values that it samples to bfloat16, half of the memory traffic of its largest kernel; outputs
    # change in the third digit. The published models were trained without.
    node.DEFORMABLE_HALF_VALUES = False
    # FusedSetCriterion | SetCriterion | ... (registry CRITERION). The first computes the same losses as the
    # second in less time and memory.
    node.CRITERION_NAME = "FusedSetCriterion"
    # Terms of the loss and of the matching cost (registries LOSS_TERM and MATCHING_COST).
    node.LOSS_TERMS = ("ClassTerm", "MaskTerm", "DiceTerm")
    node.MATCHING_COSTS = ("ClassCost", "MaskCost", "DiceCost")
    # Matcher and criterion: the mask loss, and the weights of the class, mask and dice terms.
    node.MASK_LOSS = "focal"  # focal (MaskFormer) | bce (Mask2Former)
    node.CLASS_WEIGHT = 1.0
    node.MASK_WEIGHT = 20.0
    node.DICE_WEIGHT = 1.0
    node.NO_OBJECT_WEIGHT = 0.1
    # Number of points at which masks are compared; 0: every pixel.
    node.TRAIN_NUM_POINTS = 0
    node.OVERSAMPLE_RATIO = 3.0
    node.IMPORTANCE_SAMPLE_RATIO = 0.75
    # Inputs are zero-padded to a multiple of this after normalization; 0: only to the batch's largest image.
    node.SIZE_DIVISIBILITY = 32
    node.TEST = CfgNode()
    # Panoptic: queries with a score below the first threshold are dropped, and segments that keep a smaller
    # share of their mask than the second.
    node.TEST.OBJECT_MASK_THRESHOLD = 0.8
    node.TEST.OVERLAP_THRESHOLD = 0.8
    # Panoptic: a segment keeps only those of its pixels whose mask probability is at least one half
    # (Mask2Former), or all of them (MaskFormer).
    node.TEST.CONFIDENT_PIXELS_ONLY = False
    # Semantic: resize class scores, or the masks before they are combined, to the size of the image.
    # "": as the published models were evaluated, scores for TASK semantic and masks for other tasks.
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
    # Weight decay of norm layers outside the backbone; None: WEIGHT_DECAY_NORM.
    cfg.SOLVER.WEIGHT_DECAY_HEAD_NORM = None
    # Weight decay by regular expression: the first one found in a parameter's name replaces the keys above.
    # [["norm", 0.0], ["", None]]: 0 if the name contains "norm", WEIGHT_DECAY for all others.
    cfg.SOLVER.WEIGHT_DECAY_BY_NAME = []
    # Learning-rate factors of the backbone, and of all other parts: heads, neck.
    cfg.SOLVER.BACKBONE_MULTIPLIER = 1.0
    cfg.SOLVER.HEAD_MULTIPLIER = 1.0
    # Learning-rate factors by parameter-name prefix, longest match wins: [["sem_seg_head", 10.0], ...]
    cfg.SOLVER.LR_MULTIPLIERS = []
    # Learning-rate factors by regular expression: the first one found in a parameter's name replaces the keys
    # above: [["sampling_offsets|reference_points", 0.1]].
    cfg.SOLVER.LR_MULTIPLIERS_BY_NAME = []
    # Layer-wise decay (BEiT, MAE): learning rates of the backbone are also multiplied by LAYER_DECAY^n, where
    # n is L + 1 for the embedding of a transformer with L blocks, and 1 for its last block.
    cfg.SOLVER.LAYER_DECAY = 1.0
    # WarmupPolyLR | WarmupMultiStepLR | WarmupCosineLR | ... (registry LR_SCHEDULER)
    cfg.SOLVER.LR_SCHEDULER_NAME = "WarmupPolyLR"
    cfg.SOLVER.POLY_LR_POWER = 0.9
    cfg.SOLVER.POLY_LR_CONSTANT_ENDING = 0.0
    cfg.SOLVER.WARMUP_ITERS = 0
    cfg.SOLVER.WARMUP_FACTOR = 1.0
    # Forward-backward passes per optimizer step; IMS_PER_BATCH is the number of images of one step. Losses
    # are normalized within each pass (over its segments, its pixels), and the step takes their mean.
    cfg.SOLVER.ACCUMULATE = 1
    # Shard the optimizer's moments across processes (ZeRO stage 1), for networks with a large AdamW state.
    # Weights and checkpoints are the same as without it.
    cfg.SOLVER.SHARD_OPTIMIZER = False
    # full_model clips the joint norm of all gradients; value and norm are Detectron2's.
    cfg.SOLVER.CLIP_GRADIENTS.CLIP_TYPE = "full_model"
    cfg.SOLVER.CLIP_GRADIENTS.CLIP_VALUE = 0.01
    cfg.SOLVER.CLIP_GRADIENTS.ENABLED = False
    # float16 | bfloat16, when SOLVER.AMP.ENABLED. A CPU always uses bfloat16.
    cfg.SOLVER.AMP.DTYPE = "float16"
    # Training on an NVIDIA GPU rounds the factors of single-precision products to 10 bits of mantissa (TF32),
    # which is several times faster. Evaluation, prediction and export never do; a CPU is not concerned.
    cfg.SOLVER.TF32 = True
    # Iterations between log lines, which are also written to metrics.json and TensorBoard.
    cfg.SOLVER.LOG_PERIOD = 20
    # Number of periodic checkpoints to keep; 0 keeps all. The best and the final one are always kept.
    cfg.SOLVER.CHECKPOINT_KEEP = 3


def _add_test_keys(cfg: CfgNode) -> None:
    # Tasks to evaluate: semantic, panoptic, entity, instance; () means (TASK,).
    cfg.TEST.TASKS = ()
    # Evaluators beside the standard ones, by the names they are registered under: "boundary" (boundary AP,
    # boundary PQ, mean boundary IoU); see `segzoo.evaluation.register_evaluator`.
    cfg.TEST.EVALUATORS = ()
    # Width of a boundary relative to the image's diagonal; 0: as published, 0.02, and 0.005 for Cityscapes.
    cfg.TEST.BOUNDARY_DILATION = 0.0
    # Box AP beside mask AP, "bbox/AP", for COCO's rules: predicted (for models that predict boxes) | always
    # (otherwise by the boxes of masks) | never. A BEST_METRIC "bbox/..." is always computed.
    cfg.TEST.BOX_AP = "predicted"
    # Size of a true entity in entity AP by size (APs, APm, APl): the area of its mask | box, the latter as in
    # EntitySeg's own evaluation.
    cfg.TEST.ENTITY_AREA = "mask"
    # Images per batch and process. Results do not depend on it: a batch holds images of similar size only.
    cfg.TEST.IMS_PER_BATCH = 1
    # Scoring threads per task, which run beside the model; 0: predictions are scored between batches.
    cfg.TEST.SCORING_THREADS = 2
    # Number of images of the first test set that TensorBoard shows with ground truth and prediction at every
    # evaluation during training; 0: none.
    cfg.TEST.NUM_PICTURES = 4
    # Write predictions (index, color and panoptic PNG, JSON) to OUTPUT_DIR/inference.
    cfg.TEST.SAVE_PREDICTIONS = False
    # Metric by which model_best.pth is chosen, e.g. "sem_seg/mIoU", "panoptic_seg/PQ"; "" for none.
    cfg.TEST.BEST_METRIC = ""
    # Stop after this number of evaluations without a better BEST_METRIC; 0: never.
    cfg.TEST.EARLY_STOP_PATIENCE = 0
    # Entity and instance predictions kept per image.
    cfg.TEST.DETECTIONS_PER_IMAGE = 100
    # Entity: a prediction below this score is dropped.
    cfg.TEST.ENTITY_SCORE_THRESHOLD = 0.0
    # Test protocol of a semantic model: a preset of modeling/protocols/presets.py (semseg_ss, semseg_ms,
    # gluon_val, gluon_testval, gluon_ms, segformer, segformer_ms, segformer_cityscapes,
    # segformer_cityscapes_ms, mmseg_whole, mmseg_whole_ms, mmseg_slide, mmseg_slide_ms), or maskformer_tta
    # (TEST.AUG's sizes); "": one forward pass at INPUT.MIN_SIZE_TEST.
    cfg.TEST.PROTOCOL = ""
    # Changes to the preset; None: the preset's value.
    node = cfg.TEST.INFERENCE = CfgNode()
    node.MODE = None  # whole | slide | center_crop
    # none | long_edge | long_edge_up | short_edge | box: the side that is resized to BASE_SIZE times the
    # scale, rounded (_up: up); box: the largest size that fits into MAX_SIZE x BASE_SIZE.
    node.RESIZE = None
    node.BASE_SIZE = None
    node.MAX_SIZE = None
    # Copies are resized to multiples of this.
    node.ROUND_TO = None
    # Interpolation of the image: float | corners | opencv | pillow.
    node.INTERPOLATION = None
    # Size of the window or center crop: (height, width).
    node.CROP_SIZE = None
    # Stride of the window: (height, width) in pixels; or the fraction of the crop, rounded up or down.
    node.STRIDE = None
    node.STRIDE_FRACTION = None
    node.STRIDE_ROUNDING = None
    # The last window is clamped to the border | padded beyond it.
    node.LAST_WINDOW = None
    # Padding of copies smaller than the window: none (the window shrinks) | centered | right_bottom; its
    # value: mean | black.
    node.PADDING = None
    node.PAD_VALUE = None
    # Scales of the copies that are averaged, and whether flipped copies are added.
    node.SCALES = None
    node.FLIP = None
    # window | pair | copy | never: the scores that softmax is applied to before averaging.
    node.SOFTMAX = None
    # Corner alignment when scores are resized to the original size.
    node.ALIGN_CORNERS = None
    # Windows per batch, for speed and memory only; 0: as many as a memory bound allows, one on a CPU.
    node.WINDOW_BATCH = 0
    # With `segzoo evaluate --shard`: number of images after which progress is saved.
    cfg.TEST.SHARD_PERIOD = 20
