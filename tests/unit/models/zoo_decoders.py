"""Decoders as encoders of text: the last unpadded token stands for all of them."""

from dataclasses import replace

from tests.unit.models.zoo import IDS, LENGTHS, WIDTHS, Specimen, row, text

GPT = {"vocab_size": 100, "n_positions": 64, "n_embd": 32, "n_layer": 4, "n_head": 4, "bos_token_id": 2, "eos_token_id": 3}
EXPERTS = {"num_local_experts": 4, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
OPT = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "ffn_dim": 64}
TURNS = ["sliding_attention", "full_attention"] * 2


def _llama(model: str, site: str = "mlp", **options: object) -> Specimen:
    return Specimen(
        model, {**IDS, **WIDTHS, "num_key_value_heads": 2, **options}, text, row("layers", 4), (site, site), "last", lengths=LENGTHS
    )


def _gpt(model: str, **options: object) -> Specimen:
    rounds = model in ("GPTJ", "CodeGen")
    return Specimen(model, {**GPT, **options}, text, row("h", 4), ("mlp", "mlp"), "last", lengths=LENGTHS, rounds=rounds)


def _other(model: str, blocks: str, site: tuple[str, str], **options: object) -> Specimen:
    return Specimen(model, {**IDS, **options}, text, row(blocks, 4), site, "last", lengths=LENGTHS)


DECODERS = {
    "Llama": _llama("Llama"),
    "Mistral": _llama("Mistral", sliding_window=8),
    "Ministral": _llama("Ministral", head_dim=8),
    "Qwen2": _llama("Qwen2"),
    "Qwen3": _llama("Qwen3", head_dim=8),
    "Gemma": _llama("Gemma", head_dim=8),
    "Gemma 2": _llama("Gemma2", head_dim=8, sliding_window=8, query_pre_attn_scalar=8, layer_types=TURNS),
    "Gemma 3": _llama("Gemma3Text", head_dim=8, sliding_window=8, query_pre_attn_scalar=8, layer_types=TURNS),
    "Phi": _llama("Phi"),
    "Phi-3": _llama("Phi3"),
    "StableLM": _llama("StableLm"),
    "StarCoder2": _llama("Starcoder2"),
    "OLMo": _llama("Olmo"),
    "OLMo 2": _llama("Olmo2"),
    "OLMo 3": _llama("Olmo3", sliding_window=8),
    "Granite": _llama("Granite"),
    "Cohere": _llama("Cohere"),
    "Cohere 2": _llama("Cohere2", sliding_window=8),
    "GLM": _llama("Glm", head_dim=8),
    "GLM-4": _llama("Glm4", head_dim=8),
    "Helium": _llama("Helium", head_dim=8),
    "SmolLM3": _llama("SmolLM3"),
    "Nemotron": _llama("Nemotron"),
    "Persimmon": _llama("Persimmon"),
    "EXAONE 4": _llama("Exaone4", sliding_window=8),
    "Ernie 4.5": _llama("Ernie4_5", head_dim=8),
    "Apertus": _llama("Apertus"),
    "Arcee": _llama("Arcee"),
    "Seed-OSS": _llama("SeedOss", head_dim=8),
    "BitNet": _llama("BitNet"),
    "LFM2": _llama("Lfm2", "feed_forward"),
    "ModernBERT decoder": _llama("ModernBertDecoder", local_attention=8, cls_token_id=2, sep_token_id=3),
    "GPT-NeoX": _llama("GPTNeoX"),
    "Mixtral": _llama("Mixtral", **EXPERTS),
    "Qwen2 MoE": _llama("Qwen2Moe", shared_expert_intermediate_size=16, **EXPERTS),
    "Qwen3 MoE": _llama("Qwen3Moe", head_dim=8, **EXPERTS),
    "gpt-oss": _llama("GptOss", head_dim=8, sliding_window=8, **EXPERTS),
    "RecurrentGemma": _llama("RecurrentGemma", "mlp_block", attention_window_size=8),
    # To the bit on processors with AVX-512, and not on those with AVX2 alone.
    "Mamba": replace(_other("Mamba", "layers", ("mixer", "mixer"), hidden_size=32, num_hidden_layers=4, state_size=4), rounds=True),
    "GPT-2": _gpt("GPT2"),
    "GPT": _gpt("OpenAIGPT"),
    "GPT-J": _gpt("GPTJ", rotary_dim=4),
    "CodeGen": _gpt("CodeGen", rotary_dim=4),
    "GPT BigCode": _gpt("GPTBigCode"),
    "GPT-Neo": Specimen(
        "GPTNeo",
        {**IDS, "hidden_size": 32, "num_layers": 4, "num_heads": 4, "window_size": 8, "attention_types": [[["global", "local"], 2]]},
        text, row("h", 4), ("mlp", "mlp"), "last", lengths=LENGTHS, rounds=True,
    ),
    "Falcon": _other("Falcon", "h", ("mlp", "mlp"), hidden_size=32, num_hidden_layers=4, num_attention_heads=4),
    "BLOOM": _other("Bloom", "h", ("mlp", "mlp"), hidden_size=32, n_layer=4, n_head=4),
    "MPT": _other("Mpt", "blocks", ("ffn", "ffn"), d_model=32, n_layers=4, n_heads=4, expansion_ratio=2, max_seq_len=64),
    "OPT": _other("OPT", "decoder.layers", ("fc1", "fc2"), **OPT, word_embed_proj_dim=32),
    "OPT-350m": _other("OPT", "decoder.layers", ("fc1", "fc2"), **OPT, word_embed_proj_dim=16, do_layer_norm_before=False),
    "BioGPT": _other("BioGpt", "layers", ("fc1", "fc2"), **WIDTHS),
    "XGLM": _other("XGLM", "layers", ("fc1", "fc2"), d_model=32, num_layers=4, attention_heads=4, ffn_dim=64),
}  # fmt: skip
