"""The training losses of Mask2Former.

Cheng, Misra, Schwing, Kirillov, Girdhar: Masked-attention Mask Transformer for Universal Image
Segmentation, CVPR 2022, section 3.3.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Literal, get_args

import torch
import torch.distributed
from torch import Tensor, nn

from freqfusion.modeling.mask2former.mask_losses import (
    PointSource,
    choose_uncertain_points,
    classification_loss,
    dice_loss,
    mask_cross_entropy,
    sample_points,
    uniform_points,
)
from freqfusion.modeling.mask2former.matcher import HungarianMatcher, Matches
from freqfusion.modeling.mask2former.structures import (
    DecoderOutput,
    MaskPredictions,
    MaskTargets,
    at_least_float32,
    check_targets,
    without_autocast,
)

LossPart = Literal["labels", "masks"]


class SetCriterion(nn.Module):
    """Compare predictions with the objects that they are matched with.

    Matched queries learn the class and the mask of their object, all others learn "no object".
    Auxiliary predictions are matched again and have the same losses.

    Args:
        num_classes: Number of classes K, "no object" not counted.
        matcher: Matches queries to objects.
        eos_coef: Weight of "no object" in the classification loss; the classes have 1.
        num_points: Points at which a mask is compared.
        oversample_ratio: So many times more candidates for uncertain points; at least 1.
        importance_sample_ratio: Part of the points that are uncertain ones, from 0 to 1.
        losses: The losses to compute: ``"labels"`` and ``"masks"``.
        draw_points: Source of all random points. Its calls are, for the last predictions and then
            for each auxiliary ones: one for each image from the matcher, and if masks have losses,
            one for the candidates and one for the other points (if there are any).
    """

    def __init__(
        self,
        *,
        num_classes: int,
        matcher: HungarianMatcher,
        eos_coef: float = 0.1,
        num_points: int = 12544,
        oversample_ratio: float = 3.0,
        importance_sample_ratio: float = 0.75,
        losses: Sequence[LossPart] = get_args(LossPart),
        draw_points: PointSource = uniform_points,
    ):
        super().__init__()
        _check_arguments(num_classes, num_points, eos_coef)
        _check_sampling(oversample_ratio, importance_sample_ratio, losses)
        self.num_classes, self.matcher = num_classes, matcher
        self.num_points = num_points
        self.oversample_ratio = oversample_ratio
        self.importance_sample_ratio = importance_sample_ratio
        self.losses = tuple(losses)
        self.draw_points = draw_points
        weights = torch.ones(num_classes + 1)
        weights[-1] = eos_coef
        self.register_buffer("empty_weight", weights)
        self.empty_weight: Tensor
        self.register_load_state_dict_pre_hook(  # type: ignore[no-untyped-call]
            partial(_keep_buffer, "empty_weight")
        )

    def forward(self, outputs: DecoderOutput, targets: Sequence[MaskTargets]) -> dict[str, Tensor]:
        """Compute the losses, each a scalar in float32 (float64 for such predictions).

        Args:
            outputs: Predictions, with auxiliary ones or without.
            targets: The objects of each image, masks padded as the images; possibly none.

        Returns:
            ``loss_ce``, ``loss_mask`` and ``loss_dice``, and ``loss_ce_0`` etc. for the auxiliary
            predictions; see :func:`weigh_losses` for their weights. Mask losses are sums over
            matched masks, divided by the objects of an average process (at least 1).

        Raises:
            ValueError: if the targets do not fit.
            RuntimeError: if the predictions are not finite.
        """
        logits = outputs["pred_logits"]
        if logits.shape[-1] != self.num_classes + 1:
            raise ValueError(
                f"pred_logits must have {self.num_classes + 1} channels, for {self.num_classes} "
                f"classes and no object; got {tuple(logits.shape)}"
            )
        check_targets(targets, batch_size=len(logits), num_classes=self.num_classes)
        num_masks = _mean_object_count(targets, logits.device)
        losses = self._losses(outputs, targets, num_masks)
        for index, auxiliary in enumerate(outputs.get("aux_outputs", [])):
            values = self._losses(auxiliary, targets, num_masks)
            losses.update({f"{name}_{index}": value for name, value in values.items()})
        return losses

    def _losses(
        self, outputs: MaskPredictions, targets: Sequence[MaskTargets], num_masks: Tensor
    ) -> dict[str, Tensor]:
        """Return the losses of one set of predictions."""
        matches = self.matcher(outputs, targets, draw_points=self.draw_points)
        losses = {}
        logits, masks = outputs["pred_logits"], outputs["pred_masks"]
        # Sums over thousands of points and logarithms of small probabilities need float32.
        with without_autocast(masks.device):
            if "labels" in self.losses:
                losses["loss_ce"] = self._class_loss(logits, targets, matches)
            if "masks" in self.losses:
                losses.update(self._mask_losses(masks, targets, matches, num_masks))
        return losses

    def _class_loss(
        self, logits: Tensor, targets: Sequence[MaskTargets], matches: Sequence[Matches]
    ) -> Tensor:
        labels = torch.full(logits.shape[:2], self.num_classes, device=logits.device)
        for row, target, (queries, objects) in zip(labels, targets, matches, strict=True):
            known = target["labels"]
            row[queries.to(row.device)] = known[objects.to(known.device)].to(row)
        return classification_loss(at_least_float32(logits), labels, self.empty_weight)

    def _mask_losses(
        self,
        masks: Tensor,
        targets: Sequence[MaskTargets],
        matches: Sequence[Matches],
        num_masks: Tensor,
    ) -> dict[str, Tensor]:
        chosen = zip(masks, matches, strict=True)
        predicted = torch.cat([rows[queries.to(rows.device)] for rows, (queries, _) in chosen])
        points = choose_uncertain_points(
            predicted,
            num_points=self.num_points,
            oversample_ratio=self.oversample_ratio,
            importance_sample_ratio=self.importance_sample_ratio,
            draw_points=self.draw_points,
        )
        logits = sample_points(predicted[:, None], points)[:, 0]
        true = _sample_targets(targets, matches, points).to(logits)
        return {
            "loss_mask": mask_cross_entropy(logits, true).sum() / num_masks.to(logits),
            "loss_dice": dice_loss(logits, true).sum() / num_masks.to(logits),
        }

    def extra_repr(self) -> str:
        """Show the settings in ``repr``."""
        return (
            f"num_classes={self.num_classes}, num_points={self.num_points}, "
            f"oversample_ratio={self.oversample_ratio}, "
            f"importance_sample_ratio={self.importance_sample_ratio}, losses={self.losses}"
        )


def weigh_losses(losses: Mapping[str, Tensor], weights: Mapping[str, float]) -> dict[str, Tensor]:
    """Multiply each loss, auxiliary ones included, by the weight of its name without the number.

    Raises:
        ValueError: if a loss has no weight.
    """
    weighted = {}
    for name, loss in losses.items():
        head, _, number = name.rpartition("_")
        base = head if number.isdecimal() else name
        if base not in weights:
            raise ValueError(f"no weight for {name}: there are weights for {', '.join(weights)}")
        weighted[name] = weights[base] * loss
    return weighted


@torch.no_grad()
def _sample_targets(
    targets: Sequence[MaskTargets], matches: Sequence[Matches], points: Tensor
) -> Tensor:
    """Return the values (M, P) of the matched masks, in order of images, at points (M, P, 2)."""
    parts = points.split([len(objects) for _, objects in matches])
    sampled = []
    for target, (_, objects), part in zip(targets, matches, parts, strict=True):
        # In the order of the objects, so that large masks are not copied where all are matched.
        ascending = objects.argsort()
        masks, order = target["masks"], ascending.to(part.device)
        if len(objects) < len(masks):
            masks = masks[objects[ascending].to(masks.device)]
        values = sample_points(masks[:, None].to(part.device), part[order])[:, 0]
        sampled.append(values[order.argsort()])
    return torch.cat(sampled)


def _mean_object_count(targets: Sequence[MaskTargets], device: torch.device) -> Tensor:
    """Return the number of objects in this batch, averaged over the processes; at least 1."""
    count = torch.tensor(float(sum(len(target["labels"]) for target in targets)), device=device)
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(count)
        count = count / torch.distributed.get_world_size()
    return count.clamp(min=1)


def _keep_buffer(
    name: str, module: nn.Module, state_dict: dict[str, Tensor], prefix: str, *_: Any
) -> None:
    """Accept a buffer that published weights have, but let the constructor's values hold."""
    if prefix + name in state_dict:
        state_dict[prefix + name] = getattr(module, name).detach().clone()


def _check_arguments(num_classes: int, num_points: int, eos_coef: float) -> None:
    for name, value in (("num_classes", num_classes), ("num_points", num_points)):
        if value < 1:
            raise ValueError(f"{name} must be positive, got {value}")
    if eos_coef < 0:
        raise ValueError(f"eos_coef must not be negative, got {eos_coef}")


def _check_sampling(
    oversample_ratio: float, importance_sample_ratio: float, losses: Sequence[str]
) -> None:
    if oversample_ratio < 1:
        raise ValueError(f"oversample_ratio must be at least 1, got {oversample_ratio}")
    if not 0 <= importance_sample_ratio <= 1:
        raise ValueError(
            f"importance_sample_ratio must be from 0 to 1, got {importance_sample_ratio}"
        )
    unknown = [name for name in losses if name not in get_args(LossPart)]
    if unknown or not losses:
        raise ValueError(f"losses must be some of {get_args(LossPart)}, got {tuple(losses)}")
