"""What ``benchmarks.operators`` measures: cases in our form and in a plain one, and their floors.

A floor is the least work of a case. Bytes count every input as read once and every result as
written once, in float32, and nothing in between, as if all else stayed in the cache. Operations
count a multiply-add as two. With C channels, p pixels of the coarse map and q = 4 p of the fine
one; no machine can do with less.
"""

from __future__ import annotations

import atexit
import math
import runpy
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.documents import CHECKOUT
from freqfusion.layers import FreqFusion, deformable_attention, normalize_kernels, reassemble
from freqfusion.layers.sampling import lattice_pixels
from freqfusion.layers.sfm.displacement import saliency_to_displacement
from freqfusion.layers.sfm.mapping import Mapping as LatticeMapping
from freqfusion.layers.sfm.mapping import MappingStack
from freqfusion.layers.sfm.upsampling import NonUniformUpsample

Call = Callable[[], tuple[Tensor, ...]]
# ``case(size, ours=...)`` builds inputs and returns the call, in our form or in the plain one.
# Picklable, so that memory can be measured in another process.
Case = Callable[..., Call]


@dataclass(frozen=True)
class Size:
    """Channels and size of the coarse map; the fine one is twice as large."""

    channels: int
    height: int
    width: int

    def __str__(self) -> str:
        fine = f"{2 * self.height}x{2 * self.width}"
        return f"{self.channels} channels, {self.height}x{self.width} to {fine}"

    @property
    def image(self) -> tuple[int, int]:
        """Height and width of the image whose map at stride 4 is the fine map."""
        return 8 * self.height, 8 * self.width

    @property
    def pixels(self) -> tuple[int, int]:
        """Numbers of pixels of the coarse and of the fine map."""
        return self.height * self.width, 4 * self.height * self.width


WARM_UP = Size(16, 4, 4)


class Floor(NamedTuple):
    """Bytes moved and operations done, at least."""

    bytes: int
    operations: int


@dataclass(frozen=True)
class Suite:
    """Cases by their names.

    Attributes:
        cases: What is measured.
        reference: What the plain form is.
        floor: The least that a case must move and compute, for a size and the case's name.
        is_same: Both forms compute the same, which is checked before they are timed.
        of_images: The size is that of the image, not of maps.
    """

    cases: Mapping[str, Case]
    reference: str
    floor: Callable[[Size, str], Floor] | None = None
    is_same: bool = True
    of_images: bool = False


def load_plain(module: str, function: str) -> Callable[..., Any]:
    """Return a plain form, a function of ``tests/oracles``."""
    path = CHECKOUT / "tests" / "oracles" / f"{module}.py"
    form: Callable[..., Any] = runpy.run_path(str(path))[function]
    return form


def reassembly(size: Size, *, ours: bool, backward: bool) -> Call:
    """Return the operator: kernel 5, scale 2."""
    torch.manual_seed(0)
    features = torch.randn(1, size.channels, size.height, size.width, requires_grad=backward)
    logits = torch.randn(1, 25, 2 * size.height, 2 * size.width)
    kernels = normalize_kernels(logits).requires_grad_(backward)
    form = reassemble if ours else load_plain("unfold", "reassemble")

    def forward() -> tuple[Tensor, ...]:
        return (form(features, kernels, kernel_size=5, scale=2),)

    return differentiable(forward, (features, kernels), backward)


def reassembly_floor(size: Size, case: str) -> Floor:
    """Forward: C p features and 25 q kernels in, C q values out; a multiply-add per tap and value.

    Backward: C q gradients and both inputs in, both gradients out; two products of the same size.
    """
    coarse, fine = size.pixels
    inputs, values = size.channels * coarse + 25 * fine, size.channels * fine
    numbers, operations = inputs + values, 2 * 25 * values
    if "backward" in case:
        numbers, operations = numbers + values + 2 * inputs, 3 * operations
    return Floor(4 * numbers, operations)


def fusion(size: Size, *, ours: bool, backward: bool) -> Call:
    """Return the module: resampling in 4 groups, 64 compressed channels."""
    torch.manual_seed(0)
    module = FreqFusion(
        hr_channels=size.channels,
        lr_channels=size.channels,
        compressed_channels=64,
        feature_resample=True,
        feature_resample_group=4,
    ).requires_grad_(backward)
    fine = torch.randn(1, size.channels, 2 * size.height, 2 * size.width, requires_grad=backward)
    coarse = torch.randn(1, size.channels, size.height, size.width, requires_grad=backward)
    form = module if ours else partial(load_plain("unfold", "freqfusion"), module)
    wanted = (fine, coarse, *module.parameters())
    return differentiable(lambda: form(fine, coarse)[1:], wanted, backward)


def fusion_floor(size: Size, case: str) -> Floor:
    """Both maps in, both filtered maps and the low-pass kernels out; backward as for reassembly.

    Multiply-adds: compression to 64 channels; 3 x 3 convolutions to 25 + 9 logits on both maps;
    filtering the compressed fine map (9), the coarse logits (25 taps of 34 maps), the coarse map
    (25) and the fine map (9); similarities with 8 neighbours and the norm; 3 x 3 convolutions to 64
    (coarse) and 16 (fine) offsets and scales; 4 corners of each sample. Three times that with
    gradients.
    """
    coarse, fine = size.pixels
    inputs = size.channels * (coarse + fine)
    results = 2 * size.channels * fine + 25 * fine
    both = coarse + fine
    products = (
        size.channels * 64 * both
        + 9 * 64 * 34 * both
        + (9 * 64 + 25 * 34) * fine
        + 34 * size.channels * fine
        + 9 * 64 * both
        + 9 * (64 + 8) * (64 * coarse + 16 * fine)
        + 4 * size.channels * fine
    )
    numbers, operations = inputs + results, 2 * products
    if "backward" in case:
        numbers, operations = numbers + results + 2 * inputs, 3 * operations
    return Floor(4 * numbers, operations)


def deformable(size: Size, *, ours: bool, backward: bool) -> Call:
    """Return deformable attention: every pixel of three maps samples 4 points of each, per head.

    The maps are the coarse one, its half and its double.
    """
    torch.manual_seed(0)
    shapes = [(math.ceil(size.height * f), math.ceil(size.width * f)) for f in (0.5, 1, 2)]
    heads, levels, points = math.gcd(size.channels, 8), len(shapes), 4
    centres = torch.cat([_pixel_centres(height, width) for height, width in shapes])
    queries = len(centres)
    samples = (1, queries, heads, levels, points)
    sizes = torch.tensor([(width, height) for height, width in shapes])[:, None]
    pixels = centres[:, None, None, None] * sizes + 2 * torch.randn(*samples, 2)
    # Away from the pixels' centres, where the gradient jumps and rounding decides.
    pixels = pixels.floor() + 0.6 + 0.8 * torch.rand(*samples, 2)
    locations = (pixels / sizes).requires_grad_(backward)
    weights = torch.randn(samples).flatten(3).softmax(-1).view(samples).requires_grad_(backward)
    value = torch.randn(1, queries, heads, size.channels // heads, requires_grad=backward)
    form = deformable_attention if ours else load_plain("deformable", "sampled")

    def forward() -> tuple[Tensor, ...]:
        return (form(value, shapes, locations, weights),)

    return differentiable(forward, (value, locations, weights), backward)


def deformable_floor(size: Size, case: str) -> Floor:
    """Values in and out, three numbers for each of 12 samples in 8 heads; 4 corners per sample.

    Backward: the gradient and the inputs in, gradients of all inputs out.
    """
    coarse, fine = size.pixels
    queries = coarse // 4 + coarse + fine
    values, samples = size.channels * queries, 8 * 12 * 3 * queries
    numbers, operations = 2 * values + samples, 2 * 4 * 12 * values
    if "backward" in case:
        numbers, operations = numbers + values + 2 * (values + samples), 3 * operations
    return Floor(4 * numbers, operations)


def demodulation(size: Size, *, ours: bool, backward: bool) -> Call:
    """Return the upsampling of a modulated map: the inverse of its lattice, or scipy's Delaunay.

    The lattice and the output have the size of the fine map. The two forms interpolate differently
    between nodes. Both reproduce what is affine in the original position, so that is what every
    channel holds; the gradients are those of the slopes.
    """
    torch.manual_seed(0)
    lattice = (2 * size.height, 2 * size.width)
    noise = F.avg_pool2d(torch.randn(1, 1, *lattice), 7, 1, 3, count_include_pad=False)
    displacement = saliency_to_displacement((2 * torch.tanh(10 * noise)).exp())
    nodes = lattice_pixels(lattice).permute(2, 0, 1)[None] + displacement
    basis = torch.cat([nodes / max(lattice), torch.ones_like(noise)], dim=1)
    slopes = torch.randn(size.channels, 3, requires_grad=backward)
    stack = MappingStack([LatticeMapping(displacement, False, 1, 0.0, lattice)])
    upsample = NonUniformUpsample()
    reference = None if ours else load_plain("demodulation", "delaunay")

    def forward() -> tuple[Tensor, ...]:
        features = torch.einsum("cn,bnhw->bchw", slopes, basis)
        if reference is None:
            return (upsample(features, stack, lattice),)
        return (reference(features, displacement),)

    return differentiable(forward, (slopes,), backward)


def demodulation_floor(size: Size, case: str) -> Floor:
    """Two numbers of displacement and C of features in, C out, for every pixel of the fine map.

    Operations: inverting one point takes one step of Newton's at least, about 40; sampling there
    takes 4 corners. Backward: gradients in and out, and the corners once more.
    """
    fine = size.pixels[1]
    numbers = (2 + 2 * size.channels) * fine
    operations = (40 + 8 * size.channels) * fine
    if "backward" in case:
        numbers += 2 * size.channels * fine
        operations += 8 * size.channels * fine
    return Floor(4 * numbers, operations)


def panoptic_quality(size: Size, *, ours: bool) -> Call:
    """Return the counts of one image with about forty segments on either side.

    Segments are the pixels nearest to random points; the prediction's have been moved a little.
    """
    from freqfusion.metrics import PanopticQuality

    generator = np.random.default_rng(0)
    height, width = size.image
    points = generator.random((40, 2)) * (height, width)
    gt = _nearest(points, height, width)
    prediction = _nearest(points + 0.02 * height * generator.normal(size=(40, 2)), height, width)
    categories = [{"id": number, "isthing": int(number > 8)} for number in range(20)]
    segments = [
        [{"id": int(one), "category_id": int(one) % len(categories)} for one in np.unique(ids)]
        for ids in (prediction, gt)
    ]
    loop = None if ours else load_plain("panoptic", "count_by_masks")

    def call() -> tuple[Tensor, ...]:
        if loop is not None:
            found = loop([(prediction, segments[0], gt, segments[1])])
            counts = [found.get(category["id"], [0] * 4) for category in categories]
            return tuple(torch.tensor(counts, dtype=torch.float64).unbind(1))
        quality = PanopticQuality(categories)
        quality.update(prediction, segments[0], gt, segments[1])
        counted = (quality.tp, quality.fp, quality.fn, quality.iou_sum)
        return tuple(torch.from_numpy(count.astype(float)) for count in counted)

    return call


def panoptic_quality_floor(size: Size, case: str) -> Floor:
    """Two maps of 32-bit ids in; one comparison of each pixel with the one before, on both."""
    height, width = size.image
    return Floor(2 * 4 * height * width, 2 * height * width)


def mapping(size: Size, *, ours: bool) -> Call:
    """Return a mapper's work on a generated image: read, flip or not, resize, with its labels."""
    from detectron2.data import DatasetMapper

    from freqfusion import get_freqfusion_cfg
    from freqfusion.data.mapper import SegmentationMapper

    cfg = get_freqfusion_cfg()
    length = min(size.image)
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN = (length,), max(size.image)
    cfg.MODEL.MASK_ON = True
    record = _scene(size.image)
    mapper = (SegmentationMapper if ours else DatasetMapper)(cfg, is_train=True)

    def call() -> tuple[Tensor, ...]:
        np.random.seed(0)
        result = mapper(record)
        boxes = result["instances"].gt_boxes.tensor
        return result["image"].float(), result["sem_seg"].float(), boxes

    return call


def mapping_floor(size: Size, case: str) -> Floor:
    """Three bytes of color in and out and one byte of label in, eight out; nothing to compute.

    The files are compressed, and unpacking them takes most of the time.
    """
    height, width = size.image
    return Floor((3 + 3 + 1 + 8) * height * width, 0)


def model(
    size: Size, *, ours: bool, config: str, switch: str, training: bool, device: str = "cpu"
) -> Call:
    """Return inference or a training step of a narrow ResNet-18 model on one image of noise.

    ``switch`` is the prefix of the configuration with the method. A step is the losses, their
    gradients and an update by AdamW.
    """
    from detectron2.utils.events import EventStorage

    folder, _, name = config.rpartition("/")
    network, inputs = build_network(f"{folder}/{switch if ours else ''}{name}", size, device)
    network.train(training)
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.0)

    def step() -> tuple[Tensor, ...]:
        optimizer.zero_grad()
        with EventStorage():
            loss = sum(network(inputs).values())
        loss.backward()
        optimizer.step()
        return (loss.detach(),)

    def infer() -> tuple[Tensor, ...]:
        with torch.no_grad():
            network(inputs)
        return ()

    return step if training else infer


def segnext(size: Size, *, ours: bool) -> Call:
    """Return inference of a SegNeXt whose fusions are in our form or in the plain one.

    For the plain one the maps must be exact doubles.
    """
    config = "ade20k/semantic-segmentation/freqfusion_segnext_t"
    network, inputs = build_network(config, size)
    join = network.sem_seg_head.join
    if not ours:
        join.fusions = nn.ModuleList(Unfolded(fusion) for fusion in join.fusions)

    @torch.no_grad()
    def infer() -> tuple[Tensor, ...]:
        return (network(inputs)[0]["sem_seg"],)

    return infer


class Unfolded(nn.Module):
    """A FreqFusion that computes in the plain form."""

    def __init__(self, fusion: FreqFusion):
        super().__init__()
        self.fusion, self.form = fusion, load_plain("unfold", "freqfusion")

    def forward(self, hr_feat: Tensor, lr_feat: Tensor) -> Any:
        """Return the kernels and both maps, as the module itself does."""
        return self.form(self.fusion, hr_feat, lr_feat)


def build_network(config: str, size: Size, device: str = "cpu") -> tuple[Any, list[dict[str, Any]]]:
    """Return the model of a configuration in evaluation mode, and an image of noise for it."""
    from detectron2.modeling import build_model

    from freqfusion.data.registration import register_datasets
    from freqfusion.model_zoo import get_config
    from freqfusion.tools.analyze import random_image, with_targets

    register_datasets()
    cfg = get_config(config, ["MODEL.DEVICE", device])
    torch.manual_seed(0)
    return build_model(cfg).eval(), [with_targets(random_image(cfg, size.image), cfg)]


def differentiable(forward: Call, wanted: tuple[Tensor, ...], backward: bool) -> Call:
    """Return the call, with the gradients of ``wanted`` after its results if ``backward``."""
    if not backward:
        return torch.no_grad()(forward)
    weights = [torch.randn_like(output) for output in forward()]

    def both() -> tuple[Tensor, ...]:
        outputs = forward()
        return (*outputs, *torch.autograd.grad(outputs, wanted, weights))

    return both


def _pixel_centres(height: int, width: int) -> Tensor:
    """(H * W, 2), x and y in [0, 1]."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([(x + 0.5) / width, (y + 0.5) / height], dim=-1).flatten(0, 1)


def _nearest(points: np.ndarray[Any, Any], height: int, width: int) -> np.ndarray[Any, Any]:
    """Return the number, from 1, of the nearest point to each pixel, int32."""
    y, x = np.mgrid[:height, :width].astype(np.float32)
    rows, columns = points.astype(np.float32).T[..., None, None]
    ids: np.ndarray[Any, Any] = ((y - rows) ** 2 + (x - columns) ** 2).argmin(0) + 1
    return ids.astype(np.int32)


def _scene(size: tuple[int, int]) -> dict[str, Any]:
    """Return the dict of one generated image; its files are removed when Python ends."""
    from detectron2.data.datasets import load_coco_json

    from freqfusion.data.synthetic import write_coco

    folder = tempfile.TemporaryDirectory(prefix="freqfusion-benchmark-")
    atexit.register(folder.cleanup)
    root = Path(folder.name) / "scenes"
    write_coco(root, num_train=1, num_val=0, size=size, progress=False, workers=1)
    annotations = root / "annotations" / "instances_train.json"
    record: dict[str, Any] = load_coco_json(str(annotations), str(root / "train"))[0]
    labels = root / "panoptic_semseg_train" / Path(record["file_name"]).with_suffix(".png").name
    return {**record, "sem_seg_file_name": str(labels)}


def _both_ways(case: Case) -> dict[str, Case]:
    return {
        "forward": partial(case, backward=False),
        "forward + backward": partial(case, backward=True),
    }


_MODELS = {
    "semantic FPN with FreqFusion": ("semantic-segmentation/semantic_fpn_r18", "freqfusion_"),
    "semantic FPN with SFM": ("semantic-segmentation/semantic_fpn_r18", "sfm_"),
    "Mask R-CNN with FreqFusion": ("instance-segmentation/mask_rcnn_r18", "freqfusion_"),
    "panoptic FPN with FreqFusion": ("panoptic-segmentation/panoptic_fpn_r18", "freqfusion_"),
    "Mask2Former with FreqFusion": ("panoptic-segmentation/mask2former_r18", "freqfusion_"),
}
MODEL_CASES: dict[str, Case] = {
    f"{name}, {'training step' if training else 'inference'}": partial(
        model, config=f"synthetic/{config}", switch=switch, training=training
    )
    for name, (config, switch) in _MODELS.items()
    for training in (False, True)
}
SUITES: dict[str, Suite] = {
    "reassemble": Suite(_both_ways(reassembly), "unfold form", reassembly_floor),
    "fusion": Suite(_both_ways(fusion), "unfold form", fusion_floor),
    "deformable": Suite(_both_ways(deformable), "grid_sample of each level", deformable_floor),
    "demodulation": Suite(
        _both_ways(demodulation), "scipy's Delaunay interpolation", demodulation_floor
    ),
    "panoptic-quality": Suite(
        {"one image": panoptic_quality},
        "a loop over masks of segments",
        panoptic_quality_floor,
        of_images=True,
    ),
    "data": Suite({"one image": mapping}, "Detectron2's mapper", mapping_floor, of_images=True),
    "models": Suite(MODEL_CASES, "the same model without", is_same=False, of_images=True),
    "segnext": Suite(
        {"SegNeXt-T with FreqFusion, inference": segnext},
        "the same model in the unfold form",
        of_images=True,
    ),
}
