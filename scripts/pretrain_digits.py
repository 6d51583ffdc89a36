"""Pretrain the three tiny encoders of the embedded digits, on the public rows alone, and write them into the package.

    python scripts/pretrain_digits.py [image] [audio] [text]

Each is a real Hugging Face model (ViT, AST, BERT), trained with a throw-away linear head on its mean-pooled tokens: fresh noise on
every batch, milder than the clients', and for image and audio only half of the digits: as in the field, the
clients' task is not what the encoder was made for. Steps, not seconds, are fixed, and the run is on one thread: the same machine type
gives the same weights. Client and test rows are looked at once, for the figures in `pretraining.json`.

Shapes: B batch, L characters or (for images and audio) the raw dimensions, D = 64 width, K = 10 digits.
"""

import argparse
import json
import math
import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import transformers
from torch import Tensor, nn
from transformers import ASTConfig, ASTModel, BertConfig, BertModel, PreTrainedModel, ViTConfig, ViTModel

from m2fedsa.data.digits_inputs import (
    CHARACTERS,
    FIRST_CHARACTER,
    FRAMES,
    MASK,
    MELS,
    VOCABULARY,
    attention_mask,
    character_ids,
    log_mel,
    masked_characters,
    noisy_audio,
    noisy_images,
    pixel_values,
)
from m2fedsa.data.digits_pack import PIXELS, DigitRows, read_digits
from m2fedsa.seeding import derive, derive_seed

TARGET = Path(__file__).parents[1] / "src" / "m2fedsa" / "models" / "embedded"
CLASSES = 10
EVALUATION_SEED = 0
AUDIO_AMPLITUDE = 10**0.25
"""noise at -5 dB, in units of the spoken part's root mean square"""


@dataclass(frozen=True)
class Plan:
    """How one encoder is pretrained."""

    steps: int
    patch: int = 0
    """edge of a square patch of an image or spectrogram"""
    batch: int = 64
    learning_rate: float = 2e-3
    weight_decay: float = 0.05
    dropout: float = 0.1
    label_smoothing: float = 0.05
    warm_up_steps: int = 60
    digits: int = 5
    """only rows of the digits below this one: the others are new to the encoder, so that adapters have work to do"""
    strongest: float = 1.0
    """the strongest noise, as a fraction of the clients'"""
    start_strength: float = 1.0
    """the strongest noise of the first batch, as a fraction of `strongest`"""
    ramp: float = 0.0
    """the part of the steps in which it rises to `strongest`"""
    seed: int = 1


PLANS = {
    "image": Plan(steps=3500, patch=7, strongest=0.4, start_strength=0.15, ramp=0.6),
    "audio": Plan(steps=1800, patch=8, strongest=0.316),
    "text": Plan(steps=1500, digits=10),
}


def build(modality: str, plan: Plan) -> PreTrainedModel:
    """An encoder of 4 blocks, 64 wide, with random weights."""
    sizes: dict[str, Any] = {
        "hidden_size": 64,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "intermediate_size": 128,
        "hidden_dropout_prob": plan.dropout,
        "attention_probs_dropout_prob": 0.0,
    }
    if modality == "image":
        return ViTModel(ViTConfig(image_size=PIXELS, patch_size=plan.patch, num_channels=1, **sizes), add_pooling_layer=False)
    if modality == "audio":
        patches: dict[str, Any] = {"patch_size": plan.patch, "frequency_stride": plan.patch, "time_stride": plan.patch}
        return ASTModel(ASTConfig(max_length=FRAMES, num_mel_bins=MELS, **patches, **sizes))
    return BertModel(
        BertConfig(vocab_size=VOCABULARY, max_position_embeddings=CHARACTERS + 2, type_vocab_size=1, **sizes), add_pooling_layer=False
    )


def clean(modality: str, rows: DigitRows) -> Tensor:
    """The raw samples: (N, 28, 28), (N, S) or (N, L)."""
    return {"image": rows.images_NHW, "audio": rows.audio_NS, "text": character_ids(rows.words)}[modality]


def evaluated(modality: str, rows: DigitRows) -> Tensor:
    """The encoder's input with the clients' noise, as `m2fedsa.data.digits` gives it out."""
    raw, numbers = clean(modality, rows), rows.numbers
    if modality == "image":
        return pixel_values(noisy_images(raw, numbers, 1.0, EVALUATION_SEED))
    if modality == "audio":
        return log_mel(noisy_audio(raw, numbers, -5.0, EVALUATION_SEED))
    return masked_characters(raw, numbers, 0.5, EVALUATION_SEED)


def strength(count: int, highest: float, generator: torch.Generator) -> Tensor:
    """(B,) uniform between none and the highest."""
    return torch.rand(count, generator=generator) * highest


def distort_images(images_BHW: Tensor, highest: float, generator: torch.Generator) -> Tensor:
    """Small turns, shifts and changes of size, then Gaussian noise. (B, 1, 28, 28)"""
    count = len(images_BHW)

    def spread(width: float, *shape: int) -> Tensor:
        return (torch.rand(count, *shape, generator=generator) - 0.5) * width

    angle, scale, skew = spread(0.5), 1 + spread(0.3), spread(0.4)
    rotation = torch.stack([angle.cos() * scale, skew - angle.sin(), angle.sin(), angle.cos() * scale], 1).view(count, 2, 2)
    affine = torch.cat([rotation, spread(0.3, 2, 1)], 2)
    grid = F.affine_grid(affine, [count, 1, PIXELS, PIXELS], align_corners=False)
    moved_BHW = F.grid_sample(images_BHW[:, None], grid, align_corners=False)[:, 0]
    noise = torch.randn(moved_BHW.shape, generator=generator)
    return pixel_values(moved_BHW + strength(count, highest, generator).view(-1, 1, 1) * noise)


def distort_audio(audio_BS: Tensor, highest: float, generator: torch.Generator) -> Tensor:
    """Shifts of up to 75 ms, then white noise. (B, 64, 40)"""
    shifts = torch.randint(-600, 600, (len(audio_BS),), generator=generator)
    shifted_BS = torch.stack([clip.roll(int(shift)) for clip, shift in zip(audio_BS, shifts, strict=True)])
    noise_BS = torch.randn(shifted_BS.shape, generator=generator)
    return log_mel(shifted_BS + AUDIO_AMPLITUDE * strength(len(audio_BS), highest, generator)[:, None] * noise_BS)


def distort_text(input_ids_BL: Tensor, highest: float, generator: torch.Generator) -> Tensor:
    """Characters lost with a probability of up to 0.6. (B, L)"""
    lost = torch.rand(input_ids_BL.shape, generator=generator) < 0.6 * strength(len(input_ids_BL), highest, generator)[:, None]
    return torch.where(lost & (input_ids_BL >= FIRST_CHARACTER), MASK, input_ids_BL)


DISTORT: dict[str, Callable[[Tensor, float, torch.Generator], Tensor]] = {
    "image": distort_images,
    "audio": distort_audio,
    "text": distort_text,
}


def pooled(modality: str, encoder: nn.Module, inputs: Tensor) -> Tensor:
    """(B, D): the mean over the last block's tokens, for text over those that are not padding."""
    if modality != "text":
        hidden_BTD: Tensor = encoder(inputs).last_hidden_state
        return hidden_BTD.mean(1)
    mask_BL = attention_mask(inputs)
    hidden_BLD: Tensor = encoder(input_ids=inputs, attention_mask=mask_BL).last_hidden_state
    return (hidden_BLD * mask_BL[..., None]).sum(1) / mask_BL.sum(1, keepdim=True)


def train(modality: str, plan: Plan, rows: DigitRows) -> tuple[PreTrainedModel, nn.Linear]:
    """The encoder and its throw-away head after `plan.steps` steps of AdamW on `rows`, cosine learning rate."""
    torch.manual_seed(derive_seed(plan.seed, "pretraining", modality))
    encoder, head = build(modality, plan), nn.Linear(64, CLASSES)
    parameters = [*encoder.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=plan.learning_rate, weight_decay=plan.weight_decay)
    generator = derive(plan.seed, "pretraining", modality, "batches")
    taken = rows.digits < plan.digits
    raw, digits = clean(modality, rows)[taken], rows.digits[taken]
    encoder.train()
    for step in range(plan.steps):
        progress = step / plan.steps
        rate = plan.learning_rate * min(1.0, (step + 1) / plan.warm_up_steps) * (0.5 + 0.5 * math.cos(math.pi * progress))
        for group in optimizer.param_groups:
            group["lr"] = rate
        risen = min(1.0, progress / plan.ramp) if plan.ramp else 1.0
        highest = plan.strongest * (plan.start_strength + (1 - plan.start_strength) * risen)
        batch = torch.randint(len(digits), (plan.batch,), generator=generator)
        logits_BK = head(pooled(modality, encoder, DISTORT[modality](raw[batch], highest, generator)))
        loss = F.cross_entropy(logits_BK, digits[batch], label_smoothing=plan.label_smoothing)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        if (step + 1) % 500 == 0:
            print(f"{modality}: step {step + 1} of {plan.steps}, loss {loss.item():.3f}", flush=True)
    encoder.train(mode=False)
    return encoder, head


@torch.no_grad()
def accuracy(modality: str, encoder: nn.Module, head: nn.Linear, rows: DigitRows) -> dict[str, float]:
    """Accuracy of the throw-away head on noisy samples, per part of the rows."""
    logits_NK = torch.cat([head(pooled(modality, encoder, chunk)) for chunk in torch.split(evaluated(modality, rows), 300)])
    right = logits_NK.argmax(1) == rows.digits
    parts = [row.part or row.split for row in rows.rows]
    return {part: round(right[[name == part for name in parts]].float().mean().item(), 4) for part in dict.fromkeys(parts)}


def pretrain(modality: str) -> None:
    """Train one encoder, write it and what is known of it."""
    begin, plan, public = time.perf_counter(), PLANS[modality], read_digits("public")
    encoder, head = train(modality, plan, public)
    seconds = time.perf_counter() - begin
    figures = accuracy(modality, encoder, head, public) | accuracy(modality, encoder, head, read_digits("federation"))
    directory = TARGET / f"digits-{modality}"
    encoder.save_pretrained(directory)
    (directory / "model.safetensors").chmod(0o644)  # the library leaves it to its owner alone; a package is read by everybody
    record = {
        "modality": modality,
        "trained_on": f"those of the {len(public.rows)} public rows of the embedded digits that show a digit from 0 to {plan.digits - 1}",
        "settings": asdict(plan),
        "pooling": "mean over the tokens that are not padding",
        "accuracy_on_noisy_samples": figures,
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "transformers": transformers.__version__},
    }
    (directory / "pretraining.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    print(f"{modality}: {seconds:.0f} s, {figures}")


def main() -> None:
    """Pretrain the encoders that the command line names, or all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("modalities", nargs="*", choices=[*PLANS, []], metavar="MODALITY", help="image, audio or text; all without")
    torch.set_num_threads(1)
    for modality in parser.parse_args().modalities or PLANS:
        pretrain(modality)


if __name__ == "__main__":
    main()
