"""Small configurations of transformers: two layers of 32 channels and 4 heads, without dropout."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from tests.families.packages import module

Made = tuple[str, str, Mapping[str, Any]]  # class, class of its configuration, what differs from the default

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
WIDE = {**SIZES, "intermediate_size": 64}
TOKENS = {"vocab_size": 64, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
TEXT = {**WIDE, **TOKENS, "max_position_embeddings": 64}
LANGUAGE = {**TEXT, "use_cache": False}
GROUPED = {**LANGUAGE, "num_key_value_heads": 2}
IMAGE = {**WIDE, "image_size": 32, "patch_size": 8}
BOTH = {
    "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "use_cache": False, **TOKENS,
    "decoder_start_token_id": 3,
}  # fmt: skip


def configured(kind: str, config: str, options: Mapping[str, Any]) -> Any:
    """A network with random weights; dropout draws numbers that depend on the width, so there is none."""
    made = getattr(module("transformers"), config)(**options)
    for name, value in vars(made).items():
        if "drop" in name and isinstance(value, float):
            setattr(made, name, 0.0)
    return getattr(module("transformers"), kind)(made)


def words(*lengths: int) -> tuple[Tensor, ...]:
    return tuple(torch.randint(5, 64, (2, length)) for length in lengths)


def image(size: int = 32) -> tuple[Tensor, ...]:
    return (torch.randn(2, 3, size, size),)


def text(kind: str, options: Mapping[str, Any] = TEXT, **more: Any) -> tuple[Made, Callable[[], tuple[Any, ...]]]:
    return (f"{kind}ForSequenceClassification", f"{kind}Config", {**options, **more}), lambda: words(7)


def language(kind: str, options: Mapping[str, Any], **more: Any) -> tuple[Made, Callable[[], tuple[Any, ...]]]:
    head = "LMHeadModel" if kind == "GPT2" else "ForCausalLM"
    return (f"{kind}{head}", f"{kind}Config", {**options, **more}), lambda: words(7)


def both(kind: str, options: Mapping[str, Any]) -> tuple[Made, Callable[[], tuple[Any, ...]]]:
    def give() -> tuple[Any, ...]:
        read, written = words(7, 5)
        return (read, None, written) if kind != "Whisper" else (torch.randn(2, 8, 32), None, written)

    return (f"{kind}ForConditionalGeneration", f"{kind}Config", options), give


def vision(kind: str, options: Mapping[str, Any], size: int = 32, task: str = "ForImageClassification") -> Any:
    name = "CLIPVision" if kind == "CLIPVisionModel" else kind
    return (f"{kind}{task}", f"{name}Config", options), lambda: image(size)


STAGES = {"hidden_sizes": [32, 32, 64, 64], "depths": [1, 1, 1, 1]}
CONFIGURATIONS: Mapping[str, tuple[Made, Callable[[], tuple[Any, ...]]]] = {
    "Bert": text("Bert"),
    "Roberta": text("Roberta"),
    "DistilBert": text("DistilBert", {"max_position_embeddings": 64}, dim=32, n_layers=2, n_heads=4, hidden_dim=64),
    "Electra": text("Electra", embedding_size=16),
    "Albert": text("Albert", embedding_size=16),
    "DebertaV2": text("DebertaV2", relative_attention=True, pos_att_type=["p2c", "c2p"]),
    "GPT2": language("GPT2", {}, n_embd=32, n_layer=2, n_head=4, vocab_size=64, n_positions=64, use_cache=False),
    "Llama": language("Llama", GROUPED),
    "Mistral": language("Mistral", GROUPED),
    "Qwen3": language("Qwen3", GROUPED, head_dim=8),
    "Gemma2": language("Gemma2", GROUPED, head_dim=8),
    "Phi": language("Phi", LANGUAGE),
    "GPTNeoX": language("GPTNeoX", LANGUAGE),
    "OPT": language("OPT", LANGUAGE, ffn_dim=64, word_embed_proj_dim=32),
    "Bloom": language("Bloom", {}, hidden_size=32, n_layer=2, n_head=4, vocab_size=64, use_cache=False),
    "Falcon": language("Falcon", {**SIZES, "vocab_size": 64, "use_cache": False}),
    "Mamba": language("Mamba", {}, hidden_size=32, num_hidden_layers=2, vocab_size=64, state_size=8, use_cache=False),
    "T5": both("T5", {**TOKENS, "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4}),
    "Bart": both("Bart", {**BOTH, "max_position_embeddings": 64}),
    "Whisper": both("Whisper", {**BOTH, "num_mel_bins": 8, "max_source_positions": 16, "max_target_positions": 16}),
    "ViT": vision("ViT", IMAGE),
    "Swin": vision(
        "Swin",
        {"image_size": 32, "patch_size": 2, "embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4},
    ),
    "Segformer": vision(
        "Segformer",
        {**STAGES, "num_attention_heads": [2, 2, 4, 8], "decoder_hidden_size": 32},
        64,
        "ForSemanticSegmentation",
    ),
    "PoolFormer": vision("PoolFormer", STAGES, 64),
    "MobileViT": vision(
        "MobileViT",
        {"image_size": 64, "hidden_sizes": [32, 48, 64], "neck_hidden_sizes": [16, 16, 32, 32, 32, 32, 64]},
        64,
    ),
    "Clip": vision("CLIPVisionModel", {**IMAGE, "projection_dim": 16}, 32, "WithProjection"),
    "Detr": vision(
        "Detr",
        {
            **{key: value for key, value in BOTH.items() if "token" not in key and key not in TOKENS},
            "num_queries": 5,
            "use_timm_backbone": False,
            "use_pretrained_backbone": False,
            "backbone": None,
            "backbone_config": {
                "model_type": "resnet",
                "embedding_size": 16,
                "hidden_sizes": [16, 32, 32, 32],
                "depths": [1, 1, 1, 1],
                "out_features": ["stage4"],
            },
        },
        64,
        "ForObjectDetection",
    ),
    "Wav2Vec2": (
        (
            "Wav2Vec2ForCTC",
            "Wav2Vec2Config",
            {
                **WIDE,
                "conv_dim": (16, 16),
                "conv_stride": (5, 2),
                "conv_kernel": (10, 3),
                "num_conv_pos_embeddings": 16,
                "num_conv_pos_embedding_groups": 4,
                "vocab_size": 20,
                "apply_spec_augment": False,
            },
        ),
        lambda: (torch.randn(2, 400),),
    ),
}
