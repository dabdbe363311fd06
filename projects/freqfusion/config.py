"""Every configuration key of this project, with its default; the defaults give the baselines."""

from typing import Any

from detectron2.config import CfgNode, get_cfg


def get_freqfusion_cfg() -> CfgNode:
    """Detectron2's configuration with the keys of this project."""
    cfg = get_cfg()
    add_freqfusion_config(cfg)
    return cfg


def add_freqfusion_config(cfg: CfgNode) -> None:
    """Add the keys of this project to a Detectron2 configuration, in place."""
    # Keep weights and maps with channels innermost (torch.channels_last), in training and
    # inference: often faster for convolutions, above all in bfloat16. Results differ by rounding.
    cfg.MODEL.CHANNELS_LAST = False
    _add_fusion_keys(cfg)
    _add_resnet_keys(cfg)
    _add_timm_keys(cfg)
    _add_swin_keys(cfg)
    _add_internimage_keys(cfg)
    _add_segnext_keys(cfg)
    _add_sfm_keys(cfg)
    _add_mask2former_keys(cfg)
    _add_data_keys(cfg)
    _add_solver_keys(cfg)
    _add_training_keys(cfg)


def value_of(node: CfgNode, key: str) -> Any:
    """Return the value of a key that is written with dots."""
    for name in key.split("."):
        node = node[name]
    return node


def is_supervised(cfg: CfgNode) -> bool:
    """Return whether the model is one whose attention is supervised."""
    return bool(cfg.MODEL.META_ARCHITECTURE == "SFMSegmentor")


def inner_architecture(cfg: CfgNode) -> str:
    """Return the name of the model itself, which ``SFMSegmentor`` finds in ``MODEL.SFM``."""
    return str((cfg.MODEL.SFM if is_supervised(cfg) else cfg.MODEL).META_ARCHITECTURE)


def modulates(builder: str) -> bool:
    """Return whether a backbone of this name reads ``MODEL.SFM``."""
    return "_sfm_" in builder


def inner_backbone(cfg: CfgNode) -> str:
    """Return the name of the backbone itself, which those of SFM find in ``MODEL.SFM``."""
    name = str(cfg.MODEL.BACKBONE.NAME)
    return str(cfg.MODEL.SFM.BACKBONE) if modulates(name) else name


def _add_fusion_keys(cfg: CfgNode) -> None:
    cfg.MODEL.FREQFUSION = node = CfgNode()
    # False gives Detectron2's own FPN: same keys, same numbers.
    node.ENABLED = False
    # How a coarse level joins a finer one: "freqfusion", or a baseline to compare with,
    # "nearest", "bilinear", "carafe" or "dysample".
    node.FUSE_TYPE = "freqfusion"
    # The level above the last backbone stage is a strided 3 x 3 convolution of that stage and takes
    # part in the top-down path, as in published FreqFusion detectors, instead of being pooled from
    # the last output. RetinaNet's two levels become two of them, the second one on the first.
    node.FUSED_TOP_LEVEL = False

    # FreqFusionSemSegHead and LightHamHead predict the kernels of each step from maps of this
    # fraction of the channels that the step joins; it replaces COMPRESSED_CHANNELS there.
    node.COMPRESS_RATIO = 8

    # The arguments of freqfusion.layers.FreqFusion, under their names. "carafe" also reads
    # LOWPASS_KERNEL, COMPRESSED_CHANNELS, ENCODER_KERNEL and PADDING_MODE; "dysample" reads
    # FEATURE_RESAMPLE_GROUP.
    # Odd widths of the low-pass and high-pass kernels.
    node.LOWPASS_KERNEL = 5
    node.HIGHPASS_KERNEL = 3
    # Width of the maps that kernels and offsets are predicted from, with the width and dilation of
    # the convolutions that predict them.
    node.COMPRESSED_CHANNELS = 64
    node.ENCODER_KERNEL = 3
    node.ENCODER_DILATION = 1
    # How the coarse map is upsampled without SEMI_CONV or USE_LOW_PASS: "nearest", "bilinear" or
    # "bicubic".
    node.UPSAMPLE_MODE = "nearest"
    node.ALIGN_CORNERS = False
    # The offset generator: on or off, channel groups that move independently, normalized inputs.
    node.FEATURE_RESAMPLE = True
    node.FEATURE_RESAMPLE_GROUP = 4
    node.FEATURE_RESAMPLE_NORM = True
    # Upsample the coarse logits with predicted kernels.
    node.COMP_FEAT_UPSAMPLE = True
    # The low-pass filter; without it the coarse map is only interpolated, as UPSAMPLE_MODE says.
    node.USE_LOW_PASS = True
    # The high-pass filter, and whether its result is added to the fine map.
    node.USE_HIGH_PASS = True
    node.HR_RESIDUAL = True
    # Predict kernels on both resolutions and sum the logits.
    node.SEMI_CONV = True
    # Weight the kernels with a Hamming window.
    node.HAMMING_WINDOW = True
    # "zeros", which published weights were trained with, or "reflect".
    node.PADDING_MODE = "zeros"
    # What offsets are predicted from: "sim_concat" or "sim".
    node.SAMPLER_FEATURES = "sim_concat"
    # Where training starts: "published", as published weights did (kernels that blur, random
    # offsets), or "identity", from nearest upsampling and an unchanged fine map. "carafe" reads it
    # too.
    node.INIT = "published"
    # Recompute the fusion in the backward pass: less memory, more time.
    node.USE_CHECKPOINT = False


def _add_resnet_keys(cfg: CfgNode) -> None:
    # For MODEL.BACKBONE.NAME "build_dilated_resnet_backbone": stride of its coarsest maps, 32, or
    # by dilation 16 or 8; RES5_DILATION stays 1.
    cfg.MODEL.RESNETS.OUTPUT_STRIDE = 32


def _add_timm_keys(cfg: CfgNode) -> None:
    cfg.MODEL.TIMM = node = CfgNode()
    # Name of the model in timm, for example "convnext_tiny.fb_in1k" or
    # "swin_tiny_patch4_window7_224.ms_in1k".
    node.NAME = "resnet50"
    # Load timm's own weights, which needs a network. MODEL.WEIGHTS is loaded afterwards.
    node.PRETRAINED = False
    # Stages to return; stage n has stride 2 ** n.
    node.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
    # Stochastic depth; 0 leaves the model's default.
    node.DROP_PATH_RATE = 0.0
    # A layer normalization of each stage's map, as Swin has in Mask2Former.
    node.OUT_NORM = False
    # Recompute the stages in the backward pass: less memory, more time.
    node.USE_CHECKPOINT = False


def _add_swin_keys(cfg: CfgNode) -> None:
    # For MODEL.BACKBONE.NAME "build_swin_backbone", the Swin of Mask2Former's published models; the
    # arguments of freqfusion.modeling.SwinTransformer, under their names. These are Swin-T's.
    cfg.MODEL.SWIN = node = CfgNode()
    # Channels of the first stage, each further one having twice as many; blocks and heads of each.
    node.EMBED_DIM = 96
    node.DEPTHS = [2, 2, 6, 2]
    node.NUM_HEADS = [3, 6, 12, 24]
    # Side of the windows, in pixels of the map.
    node.WINDOW_SIZE = 7
    # Width of the perceptrons, in channels.
    node.MLP_RATIO = 4.0
    # A bias of queries, keys and values; a normalization of the embedded patches.
    node.QKV_BIAS = True
    node.PATCH_NORM = True
    # Stochastic depth of the last block; it grows from 0, block by block.
    node.DROP_PATH_RATE = 0.3
    # Stages to return; stage n has stride 2 ** n.
    node.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
    # Recompute the blocks in the backward pass: less memory, more time.
    node.USE_CHECKPOINT = False


def _add_internimage_keys(cfg: CfgNode) -> None:
    # For MODEL.BACKBONE.NAME "build_internimage_backbone" and the pyramid on it; the arguments of
    # freqfusion.modeling.InternImage, under their names. These are InternImage-T's.
    cfg.MODEL.INTERNIMAGE = node = CfgNode()
    # Channels of the first stage, each further one having twice as many; blocks of each, and groups
    # of channels that sample at places of their own (16 channels in a group, T, S and B).
    node.CHANNELS = 64
    node.DEPTHS = [4, 4, 18, 4]
    node.GROUPS = [4, 8, 16, 32]
    # Width of the perceptrons, in channels.
    node.MLP_RATIO = 4.0
    # Stochastic depth of the last block; it grows from 0, block by block.
    node.DROP_PATH_RATE = 0.2
    # Where the learned factors of the blocks' branches start; 0 leaves them out.
    node.LAYER_SCALE = 1.0
    # Normalize what a branch gives (S, B) instead of what it gets (T).
    node.POST_NORM = False
    # Widens the kernels and their offsets: 2 in L and XL.
    node.OFFSET_SCALE = 1.0
    # What H and G have: a depthwise kernel of 5, the map itself mixed into the convolution, a
    # second normalization of the branches (H), and one behind these blocks of the third stage.
    node.DEPTHWISE_KERNEL = 3
    node.CENTER_FEATURE_SCALE = False
    node.RES_POST_NORM = False
    node.POST_NORM_BLOCKS = []
    # Normalization of stem, steps and depthwise convolutions: "LN" or "BN".
    node.NORM = "LN"
    # Stages to return; stage n has stride 2 ** n.
    node.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
    # Recompute the blocks in the backward pass: less memory, more time.
    node.USE_CHECKPOINT = False


def _add_segnext_keys(cfg: CfgNode) -> None:
    # For MODEL.BACKBONE.NAME "build_mscan_backbone"; the arguments of freqfusion.modeling.MSCAN,
    # under their names. These are SegNeXt-T's.
    cfg.MODEL.MSCAN = node = CfgNode()
    # Channels and blocks of each stage, and width of their perceptrons, in channels.
    node.EMBED_DIMS = [32, 64, 160, 256]
    node.DEPTHS = [3, 3, 5, 2]
    node.MLP_RATIOS = [8.0, 8.0, 4.0, 4.0]
    # Stochastic depth of the last block; it grows from 0, block by block.
    node.DROP_PATH_RATE = 0.1
    # Normalization of stem, steps and blocks: "BN", "SyncBN" or another of Detectron2's.
    node.NORM = "BN"
    # Stages to return; stage n has stride 2 ** n.
    node.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
    # Recompute the blocks in the backward pass: less memory, more time.
    node.USE_CHECKPOINT = False
    # For MODEL.SEM_SEG_HEAD.NAME "LightHamHead"; with FREQFUSION.ENABLED maps join by FreqFusion.
    cfg.MODEL.LIGHT_HAM = node = CfgNode()
    # Channels of the factorized maps, and rank of the matrix that approximates them (16 in T and S,
    # 64 in B and L). 0 channels are as many as there are before the classifier,
    # SEM_SEG_HEAD.CONVS_DIM, as in all published models.
    node.CHANNELS = 0
    node.RANK = 64
    # Share of the channels that training leaves out before the classifier.
    node.DROPOUT = 0.1


def _add_sfm_keys(cfg: CfgNode) -> None:
    # For MODEL.BACKBONE.NAME "build_sfm_backbone" and "build_sfm_freqfusion_fpn_backbone", and for
    # the heads and the meta-architecture of Spatial Frequency Modulation.
    cfg.MODEL.SFM = node = CfgNode()
    # False gives the backbone that BACKBONE names: same keys, same numbers.
    node.ENABLED = False
    # The builder of the backbone that is modulated, for example "build_resnet_backbone",
    # "build_swin_backbone", "build_timm_backbone" or "build_internimage_backbone".
    node.BACKBONE = "build_resnet_backbone"
    # For MODEL.META_ARCHITECTURE "SFMSegmentor": the model whose attention is supervised.
    node.META_ARCHITECTURE = "SemanticSegmentor"
    # For MODEL.SEM_SEG_HEAD.NAME "SFMSemSegHead": the head that classifies, "FCNHead",
    # "SemSegFPNHead" or "FreqFusionSemSegHead", with its own keys.
    node.HEAD = "FCNHead"
    # Where maps are resampled: "auto", before every step to a smaller map from stride 4 on, or
    # features with the modules that make their maps smaller, "res2=res3.0, res3=res4.0"; with
    # "@0.5" behind a module for the phase of its strides where the branches disagree.
    node.POINTS = "auto"
    # "exit": all maps return to the image's own space, for any head. "head": a head that knows the
    # mappings does that. "none": nobody does; maps are taken for the image's own, to measure what
    # the way back is worth.
    node.DEMODULATE = "exit"
    # The Gaussian that draws samples towards the attention: full width at half maximum and reach,
    # in pixels of each map.
    node.FWHM = 3.0
    node.RADIUS = 5
    # Bound of the attention's logits; above 2 samples may pass each other.
    node.LOGIT_BOUND = 2.0
    # How far samples move: 0 (not at all) to 1. With 0 and EDGE_LOSS_WEIGHT 0 there is no
    # attention.
    node.STRENGTH = 1.0
    # The attention: channels of its pyramid of pooled maps, as a fraction, and a learnable
    # high-pass filter.
    node.PSP_RATIO = 16
    node.HIGHPASS = True
    # Let only the edge loss teach the attention.
    node.DETACH_GRID = False
    # Supervision of the attention by edges of the label maps: its weight, and "kl" or "mse".
    node.EDGE_LOSS_WEIGHT = 0.4
    node.EDGE_LOSS = "kl"
    # Upsampling in the head: dilations of the cascade that relates pixels, [] without a cascade;
    # stride of its lattice.
    node.MSAU = CfgNode()
    node.MSAU.DILATIONS = [1, 2, 4, 8, 16]
    node.MSAU.OUT_STRIDE = 4
    # How mappings are inverted: "newton" (at most so many steps) or "search", the slow reference.
    node.SOLVER = "newton"
    node.SOLVER_ITERS = 20
    # What gets gradients in demodulation: "values", or "implicit": the mappings too.
    node.GRAD = "values"
    # Learning rate of the modules that are new, as a multiple of the others'.
    node.LR_MULT = 2.0


def _add_mask2former_keys(cfg: CfgNode) -> None:
    # For MODEL.META_ARCHITECTURE "Mask2Former" with MODEL.SEM_SEG_HEAD.NAME "Mask2FormerHead"; the
    # number of classes is MODEL.SEM_SEG_HEAD.NUM_CLASSES.
    cfg.MODEL.MASK2FORMER = node = CfgNode()
    # "FreqFusionPixelDecoder" is the original one with MODEL.FREQFUSION.ENABLED False.
    node.PIXEL_DECODER = "FreqFusionPixelDecoder"
    node.IN_FEATURES = ["res2", "res3", "res4", "res5"]
    # Widths of all maps and of the mask features, normalization of the feature pyramid, stride of
    # the masks.
    node.CONV_DIM = 256
    node.MASK_DIM = 256
    node.NORM = "GN"
    node.COMMON_STRIDE = 4
    # The encoder of deformable attention: which maps go through it, layers, width of the
    # feed-forward networks, points that a head looks at in a map; recompute it in the backward
    # pass (less memory, more time).
    node.ENCODER_FEATURES = ["res3", "res4", "res5"]
    node.ENCODER_LAYERS = 6
    node.ENCODER_FEEDFORWARD = 1024
    node.ENCODER_POINTS = 4
    node.CHECKPOINT_ENCODER = False
    # Heads and dropout of the encoder; the decoder has as many heads and no dropout.
    node.NHEADS = 8
    node.DROPOUT = 0.0
    # The transformer decoder. Its layers are counted as such: published files say 10 for 9.
    node.HIDDEN_DIM = 256
    node.NUM_QUERIES = 100
    node.DECODER_LAYERS = 9
    node.DECODER_FEEDFORWARD = 2048
    node.PRE_NORM = False
    node.ENFORCE_INPUT_PROJ = False
    # Weights of the losses, which are also those of the matching; that of "no object" among the
    # classes.
    node.CLASS_WEIGHT = 2.0
    node.MASK_WEIGHT = 5.0
    node.DICE_WEIGHT = 5.0
    node.NO_OBJECT_WEIGHT = 0.1
    # Points at which masks are compared, how many times more are drawn to choose uncertain ones
    # from, and which part of the points is chosen so.
    node.TRAIN_NUM_POINTS = 12544
    node.OVERSAMPLE_RATIO = 3.0
    node.IMPORTANCE_SAMPLE_RATIO = 0.75
    # Images are padded to a multiple of this; 0 takes that of the backbone.
    node.SIZE_DIVISIBILITY = 32
    node.TEST = CfgNode()
    # What the model gives.
    node.TEST.SEMANTIC_ON = True
    node.TEST.INSTANCE_ON = False
    node.TEST.PANOPTIC_ON = False
    # Smallest score of a panoptic segment, and smallest part of its mask that it must win.
    node.TEST.OBJECT_MASK_THRESHOLD = 0.8
    node.TEST.OVERLAP_THRESHOLD = 0.8
    # Boxes of instances: around their "masks", or "zeros" as published models have them.
    node.TEST.INSTANCE_BOXES = "masks"


def _add_data_keys(cfg: CfgNode) -> None:
    # YAML files that declare data sets (see freqfusion.data.declared); they are registered before
    # DATASETS.TRAIN and DATASETS.TEST are looked up.
    cfg.DATASETS.DECLARED = ()
    # What happens to an image that cannot be used, or whose ground truth cannot, in training and in
    # evaluation: "refuse" ends the run with a sentence that names the file, "skip" leaves it out,
    # names it once in the log and in results.json and, in training, takes the next good one.
    cfg.DATALOADER.BAD_SAMPLES = "refuse"
    # More bad images than this end the run all the same: below 1 a share of the data set, rounded
    # up, and from 1.0 on a number.
    cfg.DATALOADER.MAX_BAD_SAMPLES = 0.01
    # What the mapper adds to an image where the data set has it: "instances", "semantic",
    # "panoptic".
    cfg.INPUT.TARGETS = ("instances", "semantic")
    # Crop after the resize, as semantic segmentation does, instead of before; and the largest part
    # of a crop that one class may take (1.0: all of it), for which ten crops are tried.
    cfg.INPUT.CROP.AFTER_RESIZE = False
    cfg.INPUT.CROP.SINGLE_CATEGORY_MAX_AREA = 1.0
    # In place of MIN_SIZE_TRAIN and CROP: any scale of a range, relative to SIZE (height, width),
    # then a window of SIZE, filled up where the image is smaller.
    cfg.INPUT.SCALE_JITTER = node = CfgNode()
    node.ENABLED = False
    node.SIZE = (1024, 1024)
    node.MIN_SCALE = 0.1
    node.MAX_SCALE = 2.0
    # Changes of color, each in half of the images: largest shift of 0..255, largest relative
    # changes, largest turn in degrees.
    cfg.INPUT.COLOR_JITTER = node = CfgNode()
    node.ENABLED = False
    node.BRIGHTNESS = 32.0
    node.CONTRAST = 0.5
    node.SATURATION = 0.5
    node.HUE = 18.0


def _add_solver_keys(cfg: CfgNode) -> None:
    # "SGD" as Detectron2 has it, or "ADAMW".
    cfg.SOLVER.OPTIMIZER = "SGD"
    # Factor of the learning rate of the bottom-up network.
    cfg.SOLVER.BACKBONE_MULTIPLIER = 1.0
    # Weight decay of embeddings and position tables.
    cfg.SOLVER.WEIGHT_DECAY_EMBED = 0.0
    # LR_SCHEDULER_NAME may also be "WarmupPolyLR", with this exponent. CLIP_GRADIENTS.CLIP_TYPE may
    # also be "full_model", which clips the norm of all gradients together.
    cfg.SOLVER.POLY_LR_POWER = 0.9
    # Mixed precision (SOLVER.AMP.ENABLED) in "float16", on a GPU, or "bfloat16", anywhere.
    cfg.SOLVER.AMP.DTYPE = "float16"
    # How many numbered checkpoints stay, the newest (0: all).
    cfg.SOLVER.CHECKPOINT = node = CfgNode()
    node.KEEP_LAST = 0
    # For training in several processes: look in each iteration for parameters without a gradient,
    # as models have that leave parts of them out. It takes time.
    cfg.SOLVER.FIND_UNUSED_PARAMETERS = False
    # Split the batch of each process into so many parts and add up their gradients: the memory of
    # a part. IMS_PER_BATCH stays the number of images of a step.
    cfg.SOLVER.ACCUMULATE_STEPS = 1
    # The number of images that BASE_LR is meant for: with another IMS_PER_BATCH it is multiplied by
    # their ratio. 0 takes it as it is.
    cfg.SOLVER.REFERENCE_BATCH = 0
    # An exponential moving average of the weights, written to model_ema.pth in the end; evaluated,
    # and judged for the best checkpoint, in place of the weights.
    cfg.SOLVER.EMA = node = CfgNode()
    node.ENABLED = False
    node.DECAY = 0.9999
    # A step whose losses or gradients are not finite: "stop" the run or "skip" the step, at most so
    # many times in a row.
    cfg.SOLVER.NON_FINITE = "stop"
    cfg.SOLVER.NON_FINITE_PATIENCE = 10


def _add_training_keys(cfg: CfgNode) -> None:
    # Keep the weights of the best evaluation so far in model_best.pth: the score to judge by, such
    # as "panoptic_seg/PQ", behind "<data set>/" where DATASETS.TEST names several. A name with
    # "loss" in it is better when it is smaller. "" keeps none.
    cfg.TEST.BEST_CHECKPOINT = ""
    # With each evaluation, measure the training losses on images of DATASETS.TEST, at the sizes of
    # a test, and write them as validation/<loss>.
    cfg.TEST.VALIDATION_LOSS = node = CfgNode()
    node.ENABLED = False
    # At most so many images, spread evenly over the data set.
    node.MAX_IMAGES = 200
    # With each evaluation, write the panoptic predictions as COCO's JSON and PNG files to
    # inference/ of the output folder: for a submission, or for other programs.
    cfg.TEST.WRITE_PANOPTIC = False
