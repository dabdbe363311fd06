"""Random predictions and objects for the tests of the matcher and the criterion."""

import torch


def seeded(seed=0):
    """A source of uniform points, the same ones for a seed."""
    generator = torch.Generator().manual_seed(seed)
    return lambda sets, points, device: torch.rand(sets, points, 2, generator=generator)


def random_outputs(batch, queries, classes, size, dtype=torch.float32, scale=2.0, auxiliary=0):
    """Predictions as a decoder gives them, with so many auxiliary ones."""

    def one():
        return {
            "pred_logits": (scale * torch.randn(batch, queries, classes + 1)).to(dtype),
            "pred_masks": (scale * torch.randn(batch, queries, *size)).to(dtype),
        }

    return one() | {"aux_outputs": [one() for _ in range(auxiliary)]}


def random_targets(counts, classes, size):
    """For each image so many objects of random rectangles."""
    targets = []
    for count in counts:
        masks = torch.zeros(count, *size, dtype=torch.bool)
        for mask in masks:
            y, x = (torch.randint(0, max(1, side // 2), ()) for side in size)
            mask[y : y + size[0] // 2 + 1, x : x + size[1] // 2 + 1] = True
        targets.append({"labels": torch.randint(0, classes, (count,)), "masks": masks})
    return targets


def recorded_outputs(case):
    """Predictions of a criterion case of the reference data, final ones and auxiliary ones."""
    values = case.group("in")
    outputs = {name: values[name] for name in ("pred_logits", "pred_masks")}
    outputs["aux_outputs"] = []
    while f"aux{len(outputs['aux_outputs'])}_pred_logits" in values:
        prefix = f"aux{len(outputs['aux_outputs'])}_"
        outputs["aux_outputs"].append(
            {name: values[prefix + name] for name in ("pred_logits", "pred_masks")}
        )
    return outputs


def recorded_targets(case):
    """Objects of a criterion case of the reference data."""
    values = case.group("in")
    return [
        {"labels": values[f"target{i}_labels"], "masks": values[f"target{i}_masks"]}
        for i in range(len(values["pred_logits"]))
    ]


def named_predictions(outputs):
    """The sets of predictions under the names of the reference data."""
    auxiliary = {f"aux{i}": output for i, output in enumerate(outputs["aux_outputs"])}
    return {"final": outputs} | auxiliary
