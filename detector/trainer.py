"""Trainer: step() trains one epoch and evaluates; a checkpoint continues as if it had never stopped.

It knows nothing of trials, rungs or studies, and leaves no global state behind.
"""

from __future__ import annotations

import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from detector.checkpoint import CHECKPOINT_FORMAT, check_same, optimizer_state
from detector.config import ConfigError, ConsumedConfig, DetectorConfig
from detector.data.augment import normalise_plainly
from detector.data.batches import TrainingBatches, TrainingData, load_batches
from detector.data.cache import CachedSplit
from detector.data.dataset import coco_ground_truth
from detector.ema import AveragedWeights
from detector.evaluate import Evaluator, Metrics
from detector.model.detector import Detector, Targets
from detector.model.losses import WholeBatch
from detector.model.postprocess import Detections
from detector.model.pretrained import evaluated_weights, load_start
from detector.optimizer import make_optimizer, set_learning_rate
from detector.schedule import LearningRate
from detector.weights import weights_of


class DivergedError(RuntimeError):
    """The loss became NaN or infinite; `step` counts optimizer steps from 1."""

    def __init__(self, epoch: int, step: int, value: float) -> None:
        super().__init__(f"loss became {value} at step {step} (epoch {epoch})")
        self.epoch, self.step = epoch, step


@dataclass
class EpochResult:
    """What one epoch left behind; scores in 0..1, seconds of wall time unless named otherwise."""

    epoch: int  # from 1
    train_loss: float  # means over the epoch's steps
    classification_loss: float
    box_loss: float
    metrics: dict[str, float]  # the 12 COCO numbers on the validation split
    per_class: dict[str, float]
    best_f1_scores: dict[str, float]
    lr: float  # of the last step
    train_seconds: float
    eval_seconds: float
    cpu_seconds: float = 0.0  # of this process, all threads: what a busy machine does not stretch

    @property
    def seconds(self) -> float:
        return self.train_seconds + self.eval_seconds

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


class Trainer:
    """Trains one config on one dataset with one seed.

    `threads` are not set here: on CPU, equal numbers need torch.set_num_threads to be equal too.
    """

    def __init__(
        self,
        config: DetectorConfig,
        data: TrainingData,
        seed: int,
        device: str | torch.device | None = None,
        official_eval: bool = False,
        micro_batch: int | None = None,
    ) -> None:
        """`micro_batch`: images at a time within a step, the same gradients in less memory.

        Raises: ConfigError for a config that cannot be built, or whose batch norm allows no micro-batches.
        """
        self.config, self.data, self.seed = config, data, seed
        self.device = torch.device(device or default_device())
        reader = ConsumedConfig(config)
        reading = cast(DetectorConfig, reader)
        canvas = tuple(reading.image_size_px)
        if data.train.images.shape[1:3] != canvas:
            raise ConfigError(f"the data is decoded onto {data.train.images.shape[1:3]}, the config asks for {canvas}")
        if data.train.split.name != reading.train_split:
            raise ConfigError(
                f"the data holds the {data.train.split.name} split, the config asks for {config.train_split}"
            )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = Detector(reading, len(data.dataset.class_names))
            self.start = load_start(model, reading, data.dataset.class_names)
        weights = weights_of(config)
        self.weights = weights.to_dict() if weights else None  # where it starts: name, source, hash, size, licence
        if reading.channels_last:
            model = model.to(memory_format=torch.channels_last)
        self.model = model.to(self.device)
        self.batches = TrainingBatches(reading, data, seed, self.device, self.start.statistics)
        self.optimizer = make_optimizer(self.model, reading)
        self.learning_rate = LearningRate(reading, self.batches.steps)
        self.clip_norm = reading.clip_norm
        self.bf16 = wants_bf16(reading.precision, self.device)
        decay = reading.ema_decay
        self.ema = AveragedWeights(self.model, decay, reading.ema_warmup_steps) if decay else None
        self.eval_batch_size = min(2 * reading.batch_size, 16)
        reader.check()
        if micro_batch is not None and any(
            isinstance(m, nn.modules.batchnorm._BatchNorm) for m in self.model.modules()
        ):
            raise ConfigError("micro-batches need norm group or frozen: batch norm reads the whole batch")
        self.micro_batch = micro_batch
        self.official_eval = official_eval
        self._evaluators: dict[str, Evaluator] = {}
        self.history: list[EpochResult] = []
        self.detections: list[dict[str, Any]] = []  # COCO rows of the last evaluation, original pixels

    @property
    def epoch(self) -> int:
        """Epochs trained so far."""
        return len(self.history)

    def step(self) -> EpochResult:
        """Trains the next epoch and evaluates it.

        Raises: DivergedError where the loss is no longer a number; the trainer must not be used after that.
        """
        start, busy = time.perf_counter(), time.process_time()
        classification, box = self._train_epoch(self.epoch + 1)
        trained = time.perf_counter()
        metrics, self.detections = self.evaluate()
        result = EpochResult(
            epoch=self.epoch + 1,
            train_loss=classification + box,
            classification_loss=classification,
            box_loss=box,
            metrics=metrics.values,
            per_class=metrics.per_class,
            best_f1_scores=metrics.best_f1_scores,
            lr=self.learning_rate.at((self.epoch + 1) * self.batches.steps - 1),
            train_seconds=trained - start,
            eval_seconds=time.perf_counter() - trained,
            cpu_seconds=time.process_time() - busy,
        )
        self.history.append(result)
        return result

    def _train_epoch(self, number: int) -> tuple[float, float]:
        """Mean classification and box loss of the epoch. The device is waited for once, at the end."""
        self.model.train()
        first = (number - 1) * self.batches.steps
        losses = torch.zeros(self.batches.steps, 2, device=self.device)
        for step, (images, targets) in enumerate(self.batches.epoch(number)):
            lr = self.learning_rate.at(first + step)
            losses[step] = self.train_batch(images, targets, lr, first + step)
        on_host = losses.cpu()
        finite = torch.isfinite(on_host).all(dim=1)
        if not bool(finite.all()):
            bad = int((~finite).int().argmax())
            raise DivergedError(number, first + bad + 1, float(on_host[bad].sum()))
        classification, box = on_host.mean(dim=0).tolist()
        return classification, box

    def train_batch(self, images: torch.Tensor, targets: Targets, lr: float, step: int = 0) -> torch.Tensor:
        """Optimizer step `step` (from 0) on a batch; returns the detached (classification, box) losses, on the device."""
        set_learning_rate(self.optimizer, lr)
        self.optimizer.zero_grad(set_to_none=True)
        losses = self._backward(images, targets)
        if self.clip_norm > 0:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.clip_norm)
        self.optimizer.step()
        if self.ema is not None:
            self.ema.update(self.model, step)
        return losses

    def _backward(self, images: torch.Tensor, targets: Targets) -> torch.Tensor:
        """Adds the batch's gradients, a micro-batch at a time; returns the (classification, box) losses of the whole."""
        size = self.micro_batch or len(images)
        whole = None
        if size < len(images):
            parts = [self.model.match(targets.part(n, n + size)) for n in range(0, len(images), size)]
            whole = WholeBatch(len(images), sum((part >= 0).sum() for part in parts).float())  # type: ignore[union-attr]
        losses = torch.zeros(2, device=self.device)
        for start in range(0, len(images), size):
            with self._autocast():
                pair = self.model.losses(images[start : start + size], targets.part(start, start + size), whole)
            (pair[0] + pair[1]).backward()
            losses += torch.stack([pair[0].detach(), pair[1].detach()])
        return losses

    def evaluate(self, split: str = "val") -> tuple[Metrics, list[dict[str, Any]]]:
        """COCO numbers and detections on `val` or `test`."""
        cached = self.data.val if split == "val" else self.data.test
        assert cached is not None, f"no {split} split"
        detections = self.detect(cached)
        if split not in self._evaluators:
            self._evaluators[split] = Evaluator(
                coco_ground_truth(cached.split), self.data.dataset.area_ranges_px, self.official_eval
            )
        return self._evaluators[split](detections), detections

    @torch.no_grad()
    def detect(self, cached: CachedSplit) -> list[dict[str, Any]]:
        """Detections on a split as COCO rows (image id = position + 1, boxes xywh in original pixels)."""
        model = self.evaluated_model().eval()
        rows: list[dict[str, Any]] = []
        size = self.eval_batch_size
        parts = [np.arange(start, min(start + size, len(cached))) for start in range(0, len(cached), size)]
        for index, (images, _, _) in zip(parts, load_batches(cached, parts, self.device), strict=True):
            normalised = normalise_plainly(images, self.batches.mean, self.batches.std)
            with self._autocast():
                logits, box_regression = model(normalised)
            found = model.postprocess(logits, box_regression, model.anchors_xyxy)
            rows += detections_as_coco(found.cpu(), cached, int(index[0]))
        return rows

    def evaluated_model(self) -> Detector:
        """The model whose scores are reported: the averaged weights where EMA is on."""
        return cast(Detector, self.ema.module) if self.ema is not None else self.model

    def load_evaluated(self, state: dict[str, Any]) -> None:
        """Takes the weights and channel statistics that a checkpoint's scores belong to, to evaluate them; not to go on."""
        self.evaluated_model().load_state_dict(evaluated_weights(state))
        self._take_statistics(state)

    def _take_statistics(self, state: dict[str, Any]) -> None:
        for mine, name in ((self.batches.mean, "channel_mean"), (self.batches.std, "channel_std")):
            mine.copy_(torch.tensor(state[name]))

    def _autocast(self) -> AbstractContextManager[Any]:
        return torch.autocast(self.device.type, dtype=torch.bfloat16) if self.bf16 else nullcontext()

    def state_dict(self) -> dict[str, Any]:
        """All that `load_state_dict` needs to go on as if nothing had happened: tensors and plain values only."""
        return {
            "format": CHECKPOINT_FORMAT,
            "config": self.config.to_dict(),
            "seed": self.seed,
            "fingerprint": self.data.fingerprint,
            "class_names": self.data.dataset.class_names,
            "weights": self.weights,
            "channel_mean": self.batches.mean.tolist(),
            "channel_std": self.batches.std.tolist(),
            "model": self.model.state_dict(),
            "ema": {f"module.{k}": v for k, v in self.ema.module.state_dict().items()}
            if self.ema is not None
            else None,
            "optimizer": self.optimizer.state_dict(),
            "history": [result.to_dict() for result in self.history],
        }

    def load_state_dict(self, state: dict[str, Any], longer_schedule: bool = False) -> None:
        """Goes on from a checkpoint of the same config, data and seed.

        `longer_schedule`: schedule_epochs may be more than the checkpoint's, which must lie before any decay.

        Raises: ConfigError naming what differs.
        """
        check_same(state, self.config, self.seed, self.data.fingerprint, longer_schedule)
        self.model.load_state_dict(state["model"])
        if self.ema is not None:
            self.ema.module.load_state_dict(evaluated_weights(state))
        self.optimizer.load_state_dict(optimizer_state(state, self.model, self.optimizer))
        self._take_statistics(state)
        self.history = [EpochResult(**row) for row in state["history"]]


def default_device() -> str:
    """cuda where there is one, else cpu."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def wants_bf16(precision: str, device: torch.device) -> bool:
    """Whether layers run in bfloat16: `auto` does where the hardware multiplies it natively."""
    if precision != "auto":
        return precision == "bf16"
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    # Without these instructions bf16 convolutions are emulated, several times slower than fp32.
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def detections_as_coco(found: Detections, cached: CachedSplit, start: int) -> list[dict[str, Any]]:
    """Flat detections of the batch at `start` as COCO rows, back in the images' own pixels."""
    position = found.image_index.numpy() + start
    boxes = found.boxes_xyxy.double().numpy() / cached.scales[position][:, None]
    limits = np.array([[record.width, record.height] for record in cached.split.images], dtype=np.float64)[position]
    boxes = np.minimum(boxes.reshape(-1, 2, 2), limits[:, None]).reshape(-1, 4)
    xywh = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)
    rows = zip(position.tolist(), found.labels.tolist(), xywh.tolist(), found.scores.tolist(), strict=True)
    return [{"image_id": p + 1, "category_id": k + 1, "bbox": box, "score": score} for p, k, box, score in rows]
