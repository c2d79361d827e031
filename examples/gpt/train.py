"""Train the GPT by Hugging Face's Trainer, and record it."""

from lossatlas import TrainerRecorder  # before transformers, which fails where torchvision was built for another torch

# isort: split
import net
from transformers import Trainer, TrainingArguments, set_seed


def main() -> None:
    """Train for 120 steps."""
    set_seed(0)
    pieces = [{"input_ids": piece, "labels": piece} for piece in net.data()["train"]["input_ids"]]
    arguments = TrainingArguments(
        output_dir="trainer",
        max_steps=120,
        per_device_train_batch_size=16,
        learning_rate=0.003,
        lr_scheduler_type="cosine",
        logging_steps=1,
        report_to=[],
        save_strategy="no",
        use_cpu=True,
        disable_tqdm=True,
    )
    recorder = TrainerRecorder("recorded/trajectory.zarr", every=2)
    Trainer(model=net.build(), args=arguments, train_dataset=pieces, callbacks=[recorder]).train()


if __name__ == "__main__":
    main()
