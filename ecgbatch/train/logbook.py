"""What is seen and kept of a training under way: progress, TensorBoard events, checkpoints."""

from collections.abc import Callable, Mapping
from pathlib import Path
from time import monotonic

from torch.utils.tensorboard import SummaryWriter

from ecgbatch.files import writing
from ecgbatch.train.training import Training

__all__ = ["Logbook"]

_SAID_EVERY_S = 60.0
_EVENTS_EVERY = 10
"""Steps between two points of a curve."""


class Logbook:
    """Told of every step and epoch."""

    def __init__(
        self, training: Training, n_steps: int, out: Path, *, checkpoint_s: float, say: Callable[[str], None]
    ) -> None:
        """Write `checkpoint.safetensors` every `checkpoint_s` and `tensorboard/` in `out`; an epoch has `n_steps`.

        Raises:
            OutputError: from here on, whenever the disk is full or not writable.
        """
        self._training = training
        self._n_steps = n_steps
        self._checkpoint = out / "checkpoint.safetensors"
        self._checkpoint_s = checkpoint_s
        self._say = say
        self._folder = out / "tensorboard"
        with writing(self._folder):
            # What a killed training wrote beyond its last checkpoint is written again.
            self._events = SummaryWriter(str(self._folder), purge_step=self._n_done)
        self._kept_at = self._said_at = self._begun_at = monotonic()
        self._loss = training.loss

    @property
    def _n_done(self) -> int:
        return len(self._training.history) * self._n_steps + self._training.step

    def step(self) -> None:
        """A step is done."""
        loss, self._loss = self._training.loss - self._loss, self._training.loss
        if self._n_done % _EVENTS_EVERY == 0:
            rate = self._training.optimiser.param_groups[0]["lr"]
            self._add({"train/loss": loss, "train/rate": rate})
        now = monotonic()
        if now - self._kept_at >= self._checkpoint_s:
            self._training.save(self._checkpoint)
            self._kept_at = monotonic()
        if now - self._said_at >= _SAID_EVERY_S:
            self._said_at = now
            mean = self._training.loss / self._training.step
            self._say(f"{self._epoch(1)} · step {self._training.step}/{self._n_steps} · loss {mean:.4f}")

    def epoch(self) -> None:
        """An epoch is done."""
        self._training.save(self._checkpoint)
        history, best_epoch = self._training.history, self._training.best_epoch
        row, best = history[-1], history[best_epoch - 1]
        self._add({"epoch/loss": row["loss"], "epoch/auc_choose": row["auc_choose"]})
        with writing(self._folder):
            self._events.flush()
        self._say(
            f"{self._epoch(0)} · loss {row['loss']:.4f} · macro AUC {row['auc_choose']:.4f}"
            f" (best {best['auc_choose']:.4f} in {best_epoch}) · {monotonic() - self._begun_at:.0f} s"
        )
        self._kept_at = self._said_at = self._begun_at = monotonic()
        self._loss = 0.0

    def close(self) -> None:
        with writing(self._folder):
            self._events.close()

    def _add(self, points: Mapping[str, float]) -> None:
        with writing(self._folder):
            for name, value in points.items():
                self._events.add_scalar(name, value, self._n_done)

    def _epoch(self, under_way: int) -> str:
        return f"epoch {len(self._training.history) + under_way}/{self._training.recipe.epochs}"
