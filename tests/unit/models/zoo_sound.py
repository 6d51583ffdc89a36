"""Encoders of sounds, from waves and from spectrograms."""

import torch
from tests.unit.models.zoo import WIDTHS, Inputs, Specimen, generator, row, spectra, waves

CONVOLUTIONS = {
    "conv_dim": [16, 16, 16], "conv_stride": [5, 4, 4], "conv_kernel": [10, 8, 4], "num_feat_extract_layers": 3,
    "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4,
}  # fmt: skip
FRAMES = (24, 18, 10)
"""2000, 1500 and 900 samples after convolutions of kernel 10, 8, 4 and stride 5, 4, 4: 2000 -> 399 -> 98 -> 24."""
STABLE = {"do_stable_layer_norm": True, "feat_extract_norm": "layer"}
BUCKETS = {"num_buckets": 16, "max_bucket_distance": 32}
PART = ("feed_forward", "feed_forward")
FIRST = ("encoder.layers.0.attention.",)
"""WavLM's table of positions, and the weights beside it that PyTorch's own attention reads."""
SPEECH = {
    "vocab_size": 100, "d_model": 32, "encoder_layers": 4, "encoder_attention_heads": 4, "encoder_ffn_dim": 64, "decoder_layers": 1,
    "decoder_attention_heads": 4, "decoder_ffn_dim": 64, "pad_token_id": 1, "bos_token_id": 1, "eos_token_id": 1,
    "decoder_start_token_id": 1,
}  # fmt: skip


def logmel() -> Inputs:
    """Three spectrograms as Whisper has them: bands first."""
    return {"input_features": torch.randn(3, 16, 100, generator=generator())}


def images_of_sound() -> Inputs:
    """Three spectrograms as AST has them: frames first."""
    return {"input_values": torch.randn(3, 64, 32, generator=generator())}


def _wave(model: str, site: tuple[str, str] = PART, shared: tuple[str, ...] = (), **options: object) -> Specimen:
    blocks = row("encoder.layers", 4)
    return Specimen(model, {**WIDTHS, **CONVOLUTIONS, **options}, waves, blocks, site, lengths=FRAMES, shared=shared)


SOUND = {
    "Wav2Vec2": _wave("Wav2Vec2"),
    "Wav2Vec2, stable": _wave("Wav2Vec2", **STABLE),
    "HuBERT": _wave("Hubert"),
    "HuBERT, stable": _wave("Hubert", **STABLE),
    "WavLM": _wave("WavLM", shared=FIRST, **BUCKETS),
    "WavLM, stable": _wave("WavLM", shared=FIRST, **BUCKETS, **STABLE),
    "UniSpeech": _wave("UniSpeech"),
    "UniSpeech-SAT": _wave("UniSpeechSat"),
    "Data2Vec audio": _wave("Data2VecAudio", conv_pos_kernel_size=5, num_conv_pos_embeddings=2),
    "Wav2Vec2 Conformer": _wave("Wav2Vec2Conformer", ("ffn2", "ffn2")),
    "SEW": _wave("SEW", squeeze_factor=2),
    "SEW-D": Specimen(
        "SEWD", {**WIDTHS, **CONVOLUTIONS, "squeeze_factor": 2, "max_position_embeddings": 64, "position_buckets": 8}, waves,
        row("encoder.encoder.layer", 4), ("intermediate", "output.dense"), lengths=FRAMES,
    ),
    "Wav2Vec2-BERT": Specimen(
        "Wav2Vec2Bert", {**WIDTHS, "feature_projection_input_dim": 16}, spectra, row("encoder.layers", 4), ("ffn2", "ffn2"),
        lengths=(40, 30, 12),
    ),
    "Whisper": Specimen(
        "Whisper", {**SPEECH, "max_source_positions": 50, "num_mel_bins": 16}, logmel, row("layers", 4), ("fc1", "fc2"), part="encoder"
    ),
    # Two convolutions of stride 2: 40 -> 20 -> 10, 30 -> 15 -> 8, 12 -> 6 -> 3.
    "Speech2Text": Specimen(
        "Speech2Text", {**SPEECH, "input_feat_per_channel": 16, "conv_channels": 16, "max_source_positions": 100}, spectra,
        row("layers", 4), ("fc1", "fc2"), lengths=(10, 8, 3), part="encoder",
    ),
    "AST": Specimen(
        "AST", {**WIDTHS, "patch_size": 8, "max_length": 64, "num_mel_bins": 32, "frequency_stride": 8, "time_stride": 8},
        images_of_sound, row("layers", 4), ("mlp", "mlp"), "pooler",
    ),
}  # fmt: skip
