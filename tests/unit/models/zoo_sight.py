"""Encoders of images and videos."""

from tests.unit.models.zoo import WIDTHS, Specimen, images, row, videos

PATCHES = {**WIDTHS, "image_size": 32, "patch_size": 8}
SWIN = {"image_size": 64, "patch_size": 4, "embed_dim": 16, "depths": [2, 2], "num_heads": [2, 2], "window_size": 4}
FRAMES = {**PATCHES, "num_frames": 4}
STAGES = {"embedding_size": 16, "hidden_sizes": [16, 32], "depths": [2, 2]}
PYRAMID = {
    "image_size": 64, "hidden_sizes": [8, 16, 32], "num_encoder_blocks": 3, "depths": [2, 1, 1], "strides": [4, 2, 2],
    "num_attention_heads": [1, 2, 4], "mlp_ratios": [2, 2, 2],
}  # fmt: skip
MLP = ("mlp", "mlp")
DENSE = ("intermediate", "output.dense")


def _vit(model: str, blocks: str, site: tuple[str, str] = MLP, pooling: str = "cls", axis: int = -1, **options: object) -> Specimen:
    return Specimen(model, {**PATCHES, **options}, images(), row(blocks, 4), site, pooling, axis)


def _swin(model: str, site: tuple[str, str] = MLP, size: int = 64, **options: object) -> Specimen:
    blocks = row("encoder.layers", 2, 2, suffix="blocks")
    return Specimen(model, {**SWIN, "image_size": size, **options}, images(size), blocks, site, "pooler")


def _maps(model: str, blocks: tuple[str, ...], site: tuple[str, str], site_axis: int = 1, channels: int = 3, **options: object) -> Specimen:
    return Specimen(model, options, images(64, channels), blocks, site, "pooler", 1, site_axis)


def _stages(model: str, site: tuple[str, str], depths: tuple[int, ...] = (2, 2), **options: object) -> Specimen:
    return _maps(model, row("encoder.stages", *depths, suffix="layers"), site, **{**STAGES, "depths": list(depths), **options})


SIGHT = {
    "ViT": _vit("ViT", "layers"),
    "DeiT": _vit("DeiT", "layers"),
    "ViT-MSN": _vit("ViTMSN", "layers"),
    "I-JEPA": _vit("IJepa", "layers", pooling="mean"),
    "BEiT": _vit("Beit", "layers"),
    "BEiT, shared bias": _vit("Beit", "layers", use_shared_relative_position_bias=True),
    "BEiT, own biases": _vit("Beit", "layers", use_relative_position_bias=True),
    "Data2Vec vision": _vit("Data2VecVision", "encoder.layer", DENSE, use_shared_relative_position_bias=True),
    "DINOv2": _vit("Dinov2", "encoder.layer"),
    "DINOv2, registers": _vit("Dinov2WithRegisters", "encoder.layer"),
    "DINOv3": _vit("DINOv3ViT", "model.layer"),
    "DPT": _vit("DPT", "encoder.layer", DENSE, "mean"),
    "FLAVA image": _vit("FlavaImage", "encoder.layer", DENSE, "mean"),
    "YOLOS": _vit("Yolos", "encoder.layer", DENSE, "mean", image_size=[32, 32], use_mid_position_embeddings=False),
    "ViTDet": Specimen("VitDet", PATCHES, images(), row("encoder.layer", 4), MLP, "map", 1),
    "InternVL vision": _vit("InternVLVision", "encoder.layer", image_size=(32, 32), patch_size=(8, 8)),
    "CLIP vision": _vit("CLIPVision", "encoder.layers", pooling="pooler"),
    "SigLIP vision": _vit("SiglipVision", "encoder.layers", pooling="pooler"),
    "AltCLIP vision": _vit("AltCLIPVision", "encoder.layers", pooling="pooler"),
    "Chinese CLIP vision": _vit("ChineseCLIPVision", "encoder.layers", pooling="pooler"),
    "MetaCLIP 2 vision": _vit("MetaClip2Vision", "encoder.layers", pooling="pooler"),
    "MLCD vision": _vit("MLCDVision", "encoder.layers", pooling="pooler"),
    "BLIP vision": _vit("BlipVision", "encoder.layers", pooling="pooler"),
    "OWL-ViT vision": _vit("OwlViTVision", "vision_model.encoder.layers", pooling="pooler"),
    "GIT vision": _vit("GitVision", "vision_model.encoder.layers"),
    "AIMv2 vision": _vit("Aimv2Vision", "encoder.layers", ("ffn", "ffn"), "mean"),
    "Swin": _swin("Swin"),
    "Swin, padded": _swin("Swin", size=72),
    "SwinV2": _swin("Swinv2", DENSE),
    "Donut": _swin("DonutSwin", DENSE),
    "Hiera": Specimen(
        "Hiera",
        {
            "image_size": [64, 64], "patch_size": [3, 3], "patch_stride": [2, 2], "patch_padding": [1, 1], "embed_dim": 16,
            "depths": [1, 1, 2, 1], "num_heads": [1, 1, 2, 2],
        },
        images(64), row("encoder.stages", 1, 1, 2, 1, suffix="layers"), MLP, "pooler",
    ),
    "PVT": Specimen(
        "Pvt", {**PYRAMID, "sequence_reduction_ratios": [4, 2, 1], "patch_sizes": [4, 2, 2]}, images(64), row("encoder.block", 2, 1, 1),
        MLP, "tokens",
    ),
    "PVTv2": Specimen(
        "PvtV2", {**PYRAMID, "sr_ratios": [4, 2, 1], "patch_sizes": [7, 3, 3]}, images(64),
        row("encoder.layers", 2, 1, 1, suffix="blocks"), MLP, "map",
    ),
    "SegFormer": Specimen(
        "Segformer", {**PYRAMID, "sr_ratios": [4, 2, 1], "patch_sizes": [7, 3, 3]}, images(64), row("stages", 2, 1, 1, suffix="blocks"),
        MLP, "map",
    ),
    "PoolFormer": Specimen(
        "PoolFormer", {**PYRAMID, "patch_sizes": [7, 3, 3], "padding": [2, 1, 1]}, images(64), row("encoder.block", 2, 1, 1),
        ("output.conv1", "output.conv2"), "map", 1, 1,
    ),
    "FocalNet": Specimen(
        "FocalNet", {"image_size": 64, "embed_dim": 16, "depths": [2, 2], "hidden_sizes": [16, 32], "focal_levels": [2, 2],
        "focal_windows": [3, 3]}, images(64), row("encoder.stages", 2, 2, suffix="layers"), MLP, "pooler",
    ),
    "LeViT": Specimen(
        "Levit", {"image_size": 64, "hidden_sizes": [16, 32], "num_attention_heads": [2, 2], "depths": [1, 1], "key_dim": [8, 8],
        "attention_ratio": [2, 2], "mlp_ratio": [2, 2], "down_ops": [["Subsample", 8, 2, 4, 2, 2], [""]]}, images(64),
        (*row("encoder.stages.0.layers", 4), *row("encoder.stages.1.layers", 2)), ("module", "module"), "pooler",
    ),
    "ConvNeXt": _stages("ConvNext", ("pwconv1", "pwconv2"), num_stages=2, site_axis=-1),
    "ConvNeXt V2": _stages("ConvNextV2", ("pwconv1", "pwconv2"), num_stages=2, site_axis=-1),
    "DINOv3 ConvNeXt": _maps(
        "DINOv3ConvNext", row("model.stages", 1, 1, 1, 1, suffix="layers"), ("pointwise_conv1", "pointwise_conv2"), -1,
        hidden_sizes=[16, 24, 32, 32], depths=[1, 1, 1, 1],
    ),
    "ResNet": _stages("ResNet", ("layer", "layer"), layer_type="bottleneck"),
    "ResNet, basic": _stages("ResNet", ("layer", "layer"), layer_type="basic"),
    "ResNet, step last": _stages("ResNet", ("layer.1", "layer.1"), (2, 1), layer_type="basic"),
    "RegNet X": _stages("RegNet", ("layer", "layer"), groups_width=8, layer_type="x"),
    "RegNet Y": _stages("RegNet", ("layer", "layer"), groups_width=8, layer_type="y"),
    "RegNet Y, step last": _stages("RegNet", ("layer.3", "layer.3"), (2, 1), groups_width=8, layer_type="y"),
    "BiT": _stages("Bit", ("conv1", "conv3"), hidden_sizes=[32, 64], num_groups=8),
    "MobileNetV1": _maps("MobileNetV1", row("layer", 26), ("", ""), channels=1, num_channels=1, depth_multiplier=0.25, min_depth=8),
    "MobileNetV2": _maps("MobileNetV2", row("layer", 16), ("expand_1x1", "reduce_1x1"), depth_multiplier=0.35, image_size=64),
    "EfficientNet": _maps(
        "EfficientNet", row("encoder.blocks", 10), ("expansion", "projection.project_bn"), width_coefficient=0.25, depth_coefficient=0.5,
        hidden_dim=320, image_size=64,
    ),
    "MobileViT": _maps(
        "MobileViT", row("encoder.layer", 5), ("transformer.layer.2.intermediate", "transformer.layer.2.output.dense"), -1, image_size=64,
        hidden_sizes=[16, 24, 32], neck_hidden_sizes=[8, 8, 16, 16, 24, 32, 64],
    ),
    "MobileViTV2": _maps(
        "MobileViTV2", row("encoder.layer", 5), ("transformer.layer.2.ffn", "transformer.layer.2.ffn"), image_size=64,
        width_multiplier=0.25,
    ),
    "SwiftFormer": Specimen(
        "SwiftFormer", {"image_size": 64, "depths": [1, 1, 1, 1], "embed_dims": [8, 16, 24, 32]}, images(64),
        tuple(f"encoder.network.{stage}.blocks.0" for stage in (0, 2, 4, 6)), ("linear.fc1", "linear.fc2"), "map", 1, 1,
    ),
    "VideoMAE": Specimen(
        "VideoMAE", {**FRAMES, "tubelet_size": 2, "use_mean_pooling": True}, videos(), row("encoder.layer", 4), DENSE, "tokens"
    ),
    "TimeSformer": Specimen("Timesformer", FRAMES, videos(), row("encoder.layer", 4), DENSE, "cls"),
    "ViViT": Specimen("Vivit", {**FRAMES, "tubelet_size": [2, 8, 8]}, videos(), row("layers", 4), MLP, "cls"),
    "V-JEPA 2": Specimen(
        "VJEPA2",
        {
            **WIDTHS, "crop_size": 32, "patch_size": 8, "frames_per_clip": 4, "pred_hidden_size": 32, "pred_num_hidden_layers": 1,
            "pred_num_attention_heads": 4,
        },
        videos("pixel_values_videos"), row("encoder.layer", 4), MLP, "tokens",
    ),
}  # fmt: skip
