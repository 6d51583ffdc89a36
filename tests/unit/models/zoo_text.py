"""Encoders of text."""

import torch
from tests.unit.models.zoo import IDS, LENGTHS, WIDTHS, Inputs, Specimen, generator, row, text, unmasked

DENSE = ("intermediate", "output.dense")
T5 = {"vocab_size": 100, "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 4, "num_heads": 4, "pad_token_id": 1}
TABLES = tuple(f"encoder.block.0.layer.0.{kind}.relative_attention_bias." for kind in ("SelfAttention", "LocalSelfAttention"))
DISTANCES = {"relative_attention": True, "max_relative_positions": 16, "pos_att_type": ["p2c", "c2p"], "position_biased_input": False}
BART = {
    "vocab_size": 100, "d_model": 32, "encoder_layers": 4, "encoder_attention_heads": 4, "encoder_ffn_dim": 64, "decoder_layers": 1,
    "decoder_attention_heads": 4, "decoder_ffn_dim": 64, "max_position_embeddings": 64, "pad_token_id": 1,
}  # fmt: skip


def boxes() -> Inputs:
    """Texts with a place on their page."""
    corners = torch.randint(0, 30, (3, 17, 4), generator=generator(3))
    corners[..., 2:] += corners[..., :2]
    return {**text(), "bbox": corners}


def tables() -> Inputs:
    """Texts with seven kinds of token types."""
    return {**text(), "token_type_ids": torch.zeros(3, 17, 7, dtype=torch.long)}


def ended() -> Inputs:
    """Texts that end with the token of an end, as CLIP's tokenizer writes them."""
    made = text()
    for ids, length in zip(made["input_ids"], LENGTHS, strict=True):
        ids[length - 1] = 3
    return made


def _bert(model: str, **options: object) -> Specimen:
    return Specimen(model, {**IDS, **WIDTHS, **options}, text, row("encoder.layer", 4), DENSE, lengths=LENGTHS)


def _t5(model: str, site: str = "DenseReluDense", **options: object) -> Specimen:
    part = f"layer.1.{site}"
    return Specimen(model, {**T5, **options}, text, row("encoder.block", 4), (part, part), lengths=LENGTHS, shared=TABLES)


def _bart(model: str) -> Specimen:
    return Specimen(model, BART, text, row("layers", 4), ("fc1", "fc2"), lengths=LENGTHS, part="encoder")


def _layers(model: str, site: tuple[str, str], **options: object) -> Specimen:
    return Specimen(model, {**IDS, **WIDTHS, **options}, text, row("layers", 4), site, lengths=LENGTHS)


TEXT = {
    "BERT": _bert("Bert"),
    "MiniLM": _bert("Bert", hidden_size=24),
    "RoBERTa": _bert("Roberta", type_vocab_size=1),
    "XLM-R": _bert("XLMRoberta"),
    "CamemBERT": _bert("Camembert"),
    "ELECTRA": _bert("Electra", embedding_size=16),
    "ERNIE": _bert("Ernie"),
    "Data2Vec text": _bert("Data2VecText"),
    "Megatron-BERT": _bert("MegatronBert"),
    "RoBERTa pre-norm": _bert("RobertaPreLayerNorm"),
    "XLM-R XL": _bert("XLMRobertaXL"),
    "X-MOD": _bert("Xmod", languages=["en_XX"], default_language="en_XX"),
    "Nystromformer": _bert("Nystromformer"),
    "RoFormer": _bert("RoFormer"),
    "RemBERT": _bert("RemBert", input_embedding_size=16),
    "BertGeneration": _bert("BertGenerationEncoder"),
    "BigBird": _bert("BigBird", attention_type="original_full"),
    "ConvBERT": _bert("ConvBert"),
    "Splinter": _bert("Splinter"),
    "LUKE": _bert("Luke", entity_vocab_size=10, entity_emb_size=8),
    "MobileBERT": _bert("MobileBert", embedding_size=16, intra_bottleneck_size=16),
    "ESM": _bert("Esm", mask_token_id=4, token_dropout=True, position_embedding_type="rotary"),
    "Longformer": _bert("Longformer", attention_window=4),
    "YOSO": _bert("Yoso"),
    "MarkupLM": _bert("MarkupLM", max_depth=4),
    "MPNet": _bert("MPNet"),
    "DeBERTa": _bert("Deberta", **DISTANCES, type_vocab_size=0),
    "DeBERTa-v2": _bert(
        "DebertaV2", **DISTANCES, type_vocab_size=0, position_buckets=8, norm_rel_ebd="layer_norm", share_att_key=True
    ),
    "LayoutLM": Specimen(
        "LayoutLM", {**IDS, **WIDTHS, "max_2d_position_embeddings": 64}, boxes, row("encoder.layer", 4), DENSE, lengths=LENGTHS
    ),
    "TAPAS": Specimen(
        "Tapas", {**IDS, **WIDTHS, "type_vocab_sizes": [3, 16, 16, 2, 16, 10, 10]}, tables, row("encoder.layer", 4), DENSE, lengths=LENGTHS
    ),
    "FNet": Specimen("FNet", {**IDS, **WIDTHS}, unmasked, row("encoder.layer", 4), DENSE),
    "DistilBERT": Specimen(
        "DistilBert", {**IDS, "dim": 32, "n_layers": 4, "n_heads": 4, "hidden_dim": 64}, text, row("transformer.layer", 4), ("ffn", "ffn"),
        lengths=LENGTHS,
    ),
    "ModernBERT": _layers("ModernBert", ("mlp", "mlp"), local_attention=8, cls_token_id=2, sep_token_id=3),
    "EuroBERT": _layers("EuroBert", ("mlp", "mlp")),
    "NomicBERT": _layers("NomicBert", ("mlp", "mlp")),
    "Jina v3": _layers("JinaEmbeddingsV3", ("mlp", "mlp")),
    "CLIP text": Specimen("CLIPText", {**IDS, **WIDTHS}, ended, row("encoder.layers", 4), ("mlp", "mlp"), "last", lengths=LENGTHS),
    "SigLIP text": Specimen("SiglipText", {**IDS, **WIDTHS}, text, row("encoder.layers", 4), ("mlp", "mlp"), "pooler"),
    "XLNet": Specimen(
        "XLNet", {"vocab_size": 100, "d_model": 32, "n_layer": 4, "n_head": 4, "d_inner": 64, "pad_token_id": 1}, text, row("layer", 4),
        ("ff.layer_1", "ff.layer_2"), "last", lengths=LENGTHS, rounds=True,
    ),
    "T5": _t5("T5Encoder"),
    "mT5": _t5("MT5Encoder"),
    "umT5": _t5("UMT5Encoder"),
    "LongT5": _t5("LongT5Encoder", encoder_attention_type="local", local_radius=4),
    "Switch": _t5("SwitchTransformersEncoder", "mlp", num_sparse_encoder_layers=0, num_sparse_decoder_layers=0),
    "BART": _bart("Bart"),
    "mBART": _bart("MBart"),
    "Marian": _bart("Marian"),
    "Pegasus": _bart("Pegasus"),
    "M2M100": _bart("M2M100"),
}  # fmt: skip
