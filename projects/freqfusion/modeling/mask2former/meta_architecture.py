"""Mask2Former as a Detectron2 model.

Cheng, Misra, Schwing, Kirillov, Girdhar: Masked-attention Mask Transformer for Universal Image
Segmentation, CVPR 2022.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.data import MetadataCatalog
from detectron2.layers import ShapeSpec
from detectron2.modeling import (
    META_ARCH_REGISTRY,
    SEM_SEG_HEADS_REGISTRY,
    Backbone,
    build_backbone,
    build_sem_seg_head,
)
from detectron2.modeling.postprocessing import sem_seg_postprocess
from detectron2.structures import ImageList
from torch import Tensor, nn

from freqfusion.modeling.mask2former.criterion import SetCriterion, weigh_losses
from freqfusion.modeling.mask2former.inference import (
    InstanceBoxes,
    instance_inference,
    panoptic_inference,
    semantic_inference,
)
from freqfusion.modeling.mask2former.matcher import HungarianMatcher
from freqfusion.modeling.mask2former.structures import DecoderOutput, mask_targets
from freqfusion.modeling.mask2former.transformer_decoder import MaskedAttentionDecoder


@SEM_SEG_HEADS_REGISTRY.register()
class Mask2FormerHead(nn.Module):
    """From the maps of a backbone to the classes and masks of the queries.

    Args:
        pixel_decoder: Gives mask features, its coarsest map and three maps, coarse to fine.
        predictor: The transformer decoder.
    """

    @configurable
    def __init__(self, *, pixel_decoder: nn.Module, predictor: nn.Module):
        super().__init__()
        self.pixel_decoder = pixel_decoder
        self.predictor = predictor

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: Mapping[str, ShapeSpec]) -> dict[str, Any]:
        """Return arguments from ``MODEL.MASK2FORMER`` and ``MODEL.SEM_SEG_HEAD.NUM_CLASSES``."""
        node = cfg.MODEL.MASK2FORMER
        return {
            "pixel_decoder": SEM_SEG_HEADS_REGISTRY.get(node.PIXEL_DECODER)(cfg, input_shape),
            "predictor": MaskedAttentionDecoder(
                in_channels=node.CONV_DIM,
                num_classes=cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES,
                hidden_dim=node.HIDDEN_DIM,
                num_queries=node.NUM_QUERIES,
                nheads=node.NHEADS,
                dim_feedforward=node.DECODER_FEEDFORWARD,
                dec_layers=node.DECODER_LAYERS,
                pre_norm=node.PRE_NORM,
                mask_dim=node.MASK_DIM,
                enforce_input_project=node.ENFORCE_INPUT_PROJ,
            ),
        }

    def forward(self, features: Mapping[str, Tensor]) -> DecoderOutput:
        """Return predictions of every query; auxiliary ones in training only."""
        mask_features, _, maps = self.pixel_decoder(features)
        output: DecoderOutput = self.predictor(maps, mask_features, auxiliary=self.training)
        return output


@META_ARCH_REGISTRY.register()
class Mask2Former(nn.Module):
    """One model for semantic, instance and panoptic segmentation.

    In training it returns losses; otherwise, for each image, ``sem_seg`` (classes, height, width),
    ``panoptic_seg`` (ids and segments) and ``instances``, those that are switched on.

    Args:
        backbone: Gives the maps.
        sem_seg_head: From the maps to predictions.
        criterion: The losses.
        loss_weights: Weight of ``loss_ce``, ``loss_mask`` and ``loss_dice``.
        thing_ids: Classes whose objects are counted.
        ignore_value: Label of pixels that have none.
        pixel_mean: Of each channel, subtracted.
        pixel_std: Of each channel, divided by.
        size_divisibility: Images are padded to a multiple of this; below 1 that of the backbone.
        semantic_on: Give ``sem_seg``.
        instance_on: Give ``instances``.
        panoptic_on: Give ``panoptic_seg``; instances are of ``thing_ids`` only then.
        object_mask_threshold: Smallest score of a panoptic segment.
        overlap_threshold: Smallest part of its own mask that a panoptic segment must win.
        topk: Most instances of an image.
        instance_boxes: "zeros" as in published models, or "masks": around the masks.
    """

    @configurable
    def __init__(
        self,
        *,
        backbone: Backbone,
        sem_seg_head: nn.Module,
        criterion: SetCriterion,
        loss_weights: Mapping[str, float],
        thing_ids: Collection[int],
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        ignore_value: int = 255,
        size_divisibility: int = 32,
        semantic_on: bool = True,
        instance_on: bool = False,
        panoptic_on: bool = False,
        object_mask_threshold: float = 0.8,
        overlap_threshold: float = 0.8,
        topk: int = 100,
        instance_boxes: InstanceBoxes = "masks",
    ):
        super().__init__()
        if not (semantic_on or instance_on or panoptic_on):
            raise ValueError(
                "switch on one of MODEL.MASK2FORMER.TEST.SEMANTIC_ON, INSTANCE_ON and PANOPTIC_ON"
            )
        self.backbone, self.sem_seg_head, self.criterion = backbone, sem_seg_head, criterion
        self.loss_weights = dict(loss_weights)
        self.thing_ids = frozenset(thing_ids)
        self.ignore_value = ignore_value
        divisor = size_divisibility if size_divisibility > 0 else backbone.size_divisibility
        self.size_divisibility = divisor
        self.semantic_on, self.instance_on = semantic_on, instance_on
        self.panoptic_on = panoptic_on
        self.object_mask_threshold = object_mask_threshold
        self.overlap_threshold = overlap_threshold
        self.topk, self.instance_boxes = topk, instance_boxes
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(-1, 1, 1), False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(-1, 1, 1), False)
        self.pixel_mean: Tensor
        self.pixel_std: Tensor

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Arguments from ``MODEL.MASK2FORMER``; things are those of the first training set."""
        node = cfg.MODEL.MASK2FORMER
        backbone = build_backbone(cfg)
        return {
            "backbone": backbone,
            "sem_seg_head": build_sem_seg_head(cfg, backbone.output_shape()),
            "criterion": _build_criterion(cfg),
            "loss_weights": {
                "loss_ce": node.CLASS_WEIGHT,
                "loss_mask": node.MASK_WEIGHT,
                "loss_dice": node.DICE_WEIGHT,
            },
            "thing_ids": _thing_ids(cfg),
            "ignore_value": cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE,
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
            "size_divisibility": node.SIZE_DIVISIBILITY,
            "semantic_on": node.TEST.SEMANTIC_ON,
            "instance_on": node.TEST.INSTANCE_ON,
            "panoptic_on": node.TEST.PANOPTIC_ON,
            "object_mask_threshold": node.TEST.OBJECT_MASK_THRESHOLD,
            "overlap_threshold": node.TEST.OVERLAP_THRESHOLD,
            "topk": cfg.TEST.DETECTIONS_PER_IMAGE,
            "instance_boxes": node.TEST.INSTANCE_BOXES,
        }

    @property
    def device(self) -> torch.device:
        """Return the device of the model."""
        return self.pixel_mean.device

    def forward(self, batched_inputs: Sequence[Mapping[str, Any]]) -> Any:
        """Return losses, or a dict of results for each image.

        Args:
            batched_inputs: For each image ``image`` (channels, H, W) with values from 0 to 255, in
                training one of the mapper's targets (see ``mask_targets``), otherwise optionally
                ``height`` and ``width``, the size of the results.
        """
        images = self.preprocess(batched_inputs)
        outputs: DecoderOutput = self.sem_seg_head(self.backbone(images.tensor))
        if self.training:
            return self._weighted_losses(outputs, batched_inputs, images)
        return self._results(outputs, batched_inputs, images)

    def preprocess(self, batched_inputs: Sequence[Mapping[str, Any]]) -> ImageList:
        """Return the images, normalized, padded and stacked."""
        images = [
            (image["image"].to(self.device) - self.pixel_mean) / self.pixel_std
            for image in batched_inputs
        ]
        return ImageList.from_tensors(images, self.size_divisibility)

    def _weighted_losses(
        self,
        outputs: DecoderOutput,
        batched_inputs: Sequence[Mapping[str, Any]],
        images: ImageList,
    ) -> dict[str, Tensor]:
        height, width = images.tensor.shape[-2:]
        targets = mask_targets(
            batched_inputs, (height, width), self.device, ignore_value=self.ignore_value
        )
        return weigh_losses(self.criterion(outputs, targets), self.loss_weights)

    def _results(
        self,
        outputs: DecoderOutput,
        batched_inputs: Sequence[Mapping[str, Any]],
        images: ImageList,
    ) -> list[dict[str, Any]]:
        """Return the results; masks of one image at a time are held at its full size."""
        padded = images.tensor.shape[-2:]
        results = []
        for logits, masks, given, size in zip(
            outputs["pred_logits"],
            outputs["pred_masks"],
            batched_inputs,
            images.image_sizes,
            strict=True,
        ):
            wanted = given.get("height", size[0]), given.get("width", size[1])
            at_padded = F.interpolate(masks[None], size=padded, mode="bilinear")[0]
            results.append(self.predictions(logits, sem_seg_postprocess(at_padded, size, *wanted)))
        return results

    def predictions(self, logits: Tensor, masks: Tensor) -> dict[str, Any]:
        """Results of one image from class logits (Q, K + 1) and mask logits (Q, H, W)."""
        result: dict[str, Any] = {}
        if self.semantic_on:
            result["sem_seg"] = semantic_inference(logits, masks)
        if self.panoptic_on:
            result["panoptic_seg"] = panoptic_inference(
                logits,
                masks,
                thing_ids=self.thing_ids,
                object_mask_threshold=self.object_mask_threshold,
                overlap_threshold=self.overlap_threshold,
            )
        if self.instance_on:
            result["instances"] = instance_inference(
                logits,
                masks,
                topk=self.topk,
                thing_ids=self.thing_ids if self.panoptic_on else None,
                boxes=self.instance_boxes,
            )
        return result


def _build_criterion(cfg: CfgNode) -> SetCriterion:
    node = cfg.MODEL.MASK2FORMER
    matcher = HungarianMatcher(
        cost_class=node.CLASS_WEIGHT,
        cost_mask=node.MASK_WEIGHT,
        cost_dice=node.DICE_WEIGHT,
        num_points=node.TRAIN_NUM_POINTS,
    )
    return SetCriterion(
        num_classes=cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES,
        matcher=matcher,
        eos_coef=node.NO_OBJECT_WEIGHT,
        num_points=node.TRAIN_NUM_POINTS,
        oversample_ratio=node.OVERSAMPLE_RATIO,
        importance_sample_ratio=node.IMPORTANCE_SAMPLE_RATIO,
    )


def _thing_ids(cfg: CfgNode) -> tuple[int, ...]:
    """Return contiguous ids of the things, for which only panoptic segmentation asks."""
    names = cfg.DATASETS.TRAIN or cfg.DATASETS.TEST
    if not (cfg.MODEL.MASK2FORMER.TEST.PANOPTIC_ON and names):
        return ()
    known = MetadataCatalog.get(names[0]).get("thing_dataset_id_to_contiguous_id")
    if known is None:
        raise ValueError(
            f"the metadata of {names[0]} has no thing_dataset_id_to_contiguous_id, which panoptic "
            "segmentation needs: switch MODEL.MASK2FORMER.TEST.PANOPTIC_ON off"
        )
    return tuple(known.values())
