"""The rival of `benchmarks.study`: a tidy script of Ray Tune, ASHA, OptunaSearch and torchvision's RetinaNet, as its users write.

The same narrow trunk and neck, anchors, canvas, epochs and space as our default study (all fields that torchvision's
RetinaNet has: not neck_top_down, head_shared, head_channels, roll_probability), PIL + DataLoader, pycocotools. A function
trainable, Tune's defaults. What ours has and such a script has not: averaged weights are scored, the space's base is the first
trial, bf16. `python -m benchmarks.tidy_tune DATA TRIALS EPOCHS STEPS SEED FOLDER SETTINGS`, SETTINGS being JSON of the fitted
base and the channels' statistics; its last line is a JSON list of [seconds since the epoch, mAP], one for each reported epoch.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import sys
import time
from collections import OrderedDict
from functools import partial
from pathlib import Path
from typing import Any

BATCH, CANVAS, CLASSES = 4, (128, 512), 8


def sample(trial: Any) -> None:
    """The default space, as Optuna's define-by-run function."""
    if trial.suggest_categorical("optimizer", ["adamw", "sgd"]) == "adamw":
        trial.suggest_float("lr_adamw", 1.5e-3, 5e-3, log=True)
    else:
        trial.suggest_float("lr_sgd", 4e-3, 2e-2, log=True)
    trial.suggest_float("weight_decay", 1e-5, 3e-2, log=True)
    trial.suggest_float("anchor_factor", 0.8, 1.4, log=True)
    trial.suggest_categorical("num_scales", [1, 2])
    trial.suggest_categorical("fitted_ratios", [True, False])
    trial.suggest_categorical("match_iou_high", [0.3, 0.4, 0.5])
    trial.suggest_float("zoom_max", 0.0, 0.2)
    trial.suggest_float("translate_max", 0.0, 0.1)
    trial.suggest_float("jitter_strength", 0.0, 0.2)
    trial.suggest_float("crop_probability", 0.0, 0.2)
    trial.suggest_int("head_depth", 0, 2)
    trial.suggest_float("focal_gamma", 1.0, 2.5)
    trial.suggest_float("focal_alpha", 0.2, 0.6)
    trial.suggest_float("prior_probability", 0.003, 0.05, log=True)
    if trial.suggest_categorical("box_loss", ["smooth_l1", "giou"]) == "giou":
        trial.suggest_float("weight_giou", 1.0, 3.0, log=True)
    else:
        trial.suggest_float("weight_smooth_l1", 0.5, 2.0, log=True)


def make_loader(folder: Path, name: str, config: dict[str, Any], train: bool, steps: int) -> tuple[Any, Any]:
    """(DataLoader, pycocotools COCO) of a split."""
    import torch
    from PIL import Image
    from pycocotools.coco import COCO
    from torchvision import tv_tensors
    from torchvision.transforms import v2

    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(folder / f"{name}.json"))
    ids = sorted(coco.imgs)
    crop = v2.Compose([v2.RandomIoUCrop(min_aspect_ratio=2.0, max_aspect_ratio=8.0), v2.Resize(CANVAS)])
    zoom, shift, jitter = (config[name] for name in ("zoom_max", "translate_max", "jitter_strength"))
    augment = [
        v2.RandomHorizontalFlip(0.5),
        v2.ColorJitter(brightness=jitter / 2, contrast=jitter),
        v2.RandomApply([crop], config["crop_probability"]),
        v2.RandomAffine(
            0,
            translate=(shift, shift),
            scale=(1 / (1 + zoom), 1 + zoom),
            interpolation=v2.InterpolationMode.BILINEAR,
        ),
    ]
    transform = v2.Compose(
        [v2.ToImage(), *(augment if train else []), v2.ToDtype(torch.float32, scale=True), v2.SanitizeBoundingBoxes()]
    )

    class Street(torch.utils.data.Dataset):  # type: ignore[type-arg]
        def __len__(self) -> int:
            return len(ids)

        def __getitem__(self, index: int) -> Any:
            record = coco.imgs[ids[index]]
            with Image.open(folder / "images" / record["file_name"]) as file:
                image = file.convert("RGB")
            rows = coco.imgToAnns[ids[index]]
            boxes = torch.tensor([row["bbox"] for row in rows], dtype=torch.float32).reshape(-1, 4)
            boxes[:, 2:] += boxes[:, :2]
            size = (record["height"], record["width"])
            target = {
                "boxes": tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=size),
                "labels": torch.tensor([row["category_id"] - 1 for row in rows], dtype=torch.int64),
            }
            image, target = transform(image, target)
            return image, {**target, "image_id": ids[index]}

    def collate(rows: list[Any]) -> tuple[Any, ...]:
        return tuple(zip(*rows, strict=True))

    data = Street()
    if train:
        sampler = torch.utils.data.RandomSampler(data, num_samples=steps * BATCH)
        return torch.utils.data.DataLoader(data, BATCH, sampler=sampler, collate_fn=collate), coco
    return torch.utils.data.DataLoader(data, 2 * BATCH, collate_fn=collate), coco


def make_model(config: dict[str, Any], fitted: dict[str, Any], statistics: dict[str, list[float]]) -> Any:
    """torchvision's RetinaNet on the trunk and neck of our default space."""
    import torch
    from torch import nn
    from torchvision.models.detection import RetinaNet
    from torchvision.models.detection.anchor_utils import AnchorGenerator
    from torchvision.models.detection.retinanet import RetinaNetHead
    from torchvision.ops import sigmoid_focal_loss

    from detector.config import DetectorConfig
    from detector.model.backbones import make_trunk
    from detector.model.necks import make_neck

    ours = DetectorConfig.from_dict(fitted)

    class Backbone(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.trunk = make_trunk(ours)
            self.neck = make_neck(self.trunk.out_channels, ours)
            self.out_channels = ours.neck_channels

        def forward(self, images: Any) -> OrderedDict[str, Any]:
            return OrderedDict((str(n), x) for n, x in enumerate(self.neck(self.trunk(images))))

    scales = (1.0,) if config["num_scales"] == 1 else (1.0, 2**0.5)
    ratios = tuple(fitted["anchor_ratios"]) if config["fitted_ratios"] else (0.5, 1.0, 2.0)
    finest = fitted["anchor_sizes"] * config["anchor_factor"]
    levels = ours.num_levels
    anchors = AnchorGenerator(
        tuple(tuple(finest * 2**n * s for s in scales) for n in range(levels)), (ratios,) * levels
    )
    norm = partial(nn.GroupNorm, ours.neck_channels // ours.group_norm_channels)
    head = RetinaNetHead(ours.neck_channels, anchors.num_anchors_per_location()[0], CLASSES, norm_layer=norm)
    for part in (head.classification_head, head.regression_head):
        part.conv = part.conv[: config["head_depth"]]
        for layer in part.conv.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu")
    prior = config["prior_probability"]
    nn.init.constant_(head.classification_head.cls_logits.bias, -math.log((1 - prior) / prior))
    # torchvision's smooth L1 bends at 1.0 and cannot be told otherwise; ours, at 0.1, is nearer to its default, plain L1.
    head.regression_head._loss_type = "giou" if config["box_loss"] == "giou" else "l1"

    def focal(targets: Any, outputs: Any, matched: Any) -> Any:
        """torchvision's classification loss with our gamma and alpha."""
        losses = []
        for row, logits, match in zip(targets, outputs["cls_logits"], matched, strict=True):
            foreground = match >= 0
            wanted = torch.zeros_like(logits)
            wanted[foreground, row["labels"][match[foreground]]] = 1.0
            valid = match != head.classification_head.BETWEEN_THRESHOLDS
            loss = sigmoid_focal_loss(
                logits[valid], wanted[valid], config["focal_alpha"], config["focal_gamma"], reduction="sum"
            )
            losses.append(loss / max(1, int(foreground.sum())))
        return sum(losses) / len(targets)

    head.classification_head.compute_loss = focal
    high = config["match_iou_high"]
    return RetinaNet(
        Backbone(), CLASSES, min_size=CANVAS[0], max_size=CANVAS[1], image_mean=statistics["mean"],
        image_std=statistics["std"], anchor_generator=anchors, head=head, fg_iou_thresh=high, bg_iou_thresh=high - 0.1,
        score_thresh=0.02, nms_thresh=0.5, detections_per_img=100, topk_candidates=600,
    )  # fmt: skip


def evaluate(model: Any, loader: Any, coco: Any) -> float:
    """COCO mAP on the validation split, by pycocotools."""
    import torch
    from pycocotools.cocoeval import COCOeval

    model.eval()
    rows = []
    with torch.no_grad():
        for images, targets in loader:
            for found, target in zip(model(list(images)), targets, strict=True):
                boxes = found["boxes"].clone()
                boxes[:, 2:] -= boxes[:, :2]
                columns = zip(boxes.tolist(), found["scores"].tolist(), found["labels"].tolist(), strict=True)
                rows += [
                    {"image_id": target["image_id"], "category_id": label + 1, "bbox": box, "score": score}
                    for box, score, label in columns
                ]
    if not rows:
        return 0.0
    with contextlib.redirect_stdout(io.StringIO()):
        run = COCOeval(coco, coco.loadRes(rows), "bbox")
        run.evaluate()
        run.accumulate()
        run.summarize()
    return float(run.stats[0])


def train(config: dict[str, Any], settings: dict[str, Any]) -> None:
    """One trial."""
    import torch
    from ray import tune

    torch.manual_seed(0)
    folder, epochs, steps = Path(settings["data"]), settings["epochs"], settings["steps"]
    loader, _ = make_loader(folder, "train", config, True, steps)
    val_loader, coco = make_loader(folder, "val", config, False, steps)
    model = make_model(config, settings["fitted"], settings["statistics"])
    kind = config["optimizer"]
    if kind == "sgd":
        optimizer: Any = torch.optim.SGD(
            model.parameters(), config["lr_sgd"], momentum=0.9, weight_decay=config["weight_decay"]
        )
    else:
        optimizer = torch.optim.AdamW(model.parameters(), config["lr_adamw"], weight_decay=config["weight_decay"])
    warmup = steps // 2
    schedule = torch.optim.lr_scheduler.SequentialLR(
        optimizer,
        [
            torch.optim.lr_scheduler.LinearLR(optimizer, 0.1, total_iters=warmup),
            torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * steps - warmup),
        ],
        [warmup],
    )
    box_weight = config["weight_giou" if config["box_loss"] == "giou" else "weight_smooth_l1"]
    for _ in range(epochs):
        model.train()
        for images, targets in loader:
            losses = model(list(images), list(targets))
            loss = losses["classification"] + box_weight * losses["bbox_regression"]
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0)
            optimizer.step()
            schedule.step()
        tune.report({"mAP": evaluate(model, val_loader, coco), "at": time.time()})


def main() -> None:
    from ray import tune
    from ray.tune.schedulers import ASHAScheduler
    from ray.tune.search.optuna import OptunaSearch

    data, trials, epochs, steps, seed = sys.argv[1], *(int(word) for word in sys.argv[2:6])
    settings = {"data": data, "epochs": epochs, "steps": steps, **json.loads(sys.argv[7])}
    tuner = tune.Tuner(
        tune.with_parameters(train, settings=settings),
        tune_config=tune.TuneConfig(
            search_alg=OptunaSearch(space=sample, metric="mAP", mode="max", seed=seed),
            scheduler=ASHAScheduler(metric="mAP", mode="max", max_t=epochs, grace_period=1, reduction_factor=4),
            num_samples=trials,
        ),
        run_config=tune.RunConfig(storage_path=sys.argv[6]),
    )
    epochs_seen = []
    for result in tuner.fit():  # type: ignore[attr-defined] # by index
        frame = result.metrics_dataframe
        if frame is not None and "mAP" in frame:
            epochs_seen += list(zip(frame["at"].tolist(), frame["mAP"].tolist(), strict=True))
    print(json.dumps(sorted(epochs_seen)))


if __name__ == "__main__":
    main()
