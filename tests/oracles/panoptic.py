"""Panoptic quality's counts with a mask for every segment, as its definition reads."""

import numpy as np


def count_by_masks(images, believe=False):
    """{category: [tp, fp, fn, sum of IoU]}; images are arguments of ``PanopticQuality.update``.

    ``believe`` takes the declared areas of true segments instead of counting them.
    """
    table = {}

    def add(category, column, value=1):
        table.setdefault(category, [0, 0, 0, 0.0])[column] += value

    for prediction, guesses, truth, truths in images:
        category_of = {guess["id"]: guess["category_id"] for guess in guesses}
        matched, last_crowd = set(), {}
        for target in truths:
            mask = truth == target["id"]
            if target.get("iscrowd"):
                last_crowd[target["category_id"]] = mask
                continue
            area = target["area"] if believe else mask.sum()
            hit = False
            for number in set(np.unique(prediction[mask]).tolist()) - {0}:
                guess = prediction == number
                common = np.sum(guess & mask)
                iou = common / (area + np.sum(guess & (truth != 0)) - common)
                if category_of[number] == target["category_id"] and iou > 0.5:
                    add(target["category_id"], 0)
                    add(target["category_id"], 3, iou)
                    matched.add(number)
                    hit = True
            if not hit:
                add(target["category_id"], 2)
        for number, category in category_of.items():
            if number not in matched:
                guess = prediction == number
                excuse = (truth == 0) | last_crowd.get(category, False)
                if np.sum(guess & excuse) / guess.sum() <= 0.5:
                    add(category, 1)
    return table
