"""A `transformers` MarianMTModel of the same architecture as a jogak encoder-decoder, and with the same weights."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from jogak.models import EncoderDecoder

if TYPE_CHECKING:
    from transformers import MarianMTModel

PAD, START, END = 0, 1, 2


def like(model: EncoderDecoder) -> "MarianMTModel":
    """Post-norm, tied, sinusoidal, its weights freshly drawn, through `scaled_dot_product_attention`."""
    from transformers import MarianConfig, MarianMTModel

    given = model.config
    sizes = {}
    for side in ("encoder", "decoder"):
        stack = given.stack(side)
        assert stack.feedforward is not None
        sizes[f"{side}_layers"] = stack.depth
        sizes[f"{side}_ffn_dim"] = stack.feedforward.width or 4 * given.width
        sizes[f"{side}_attention_heads"] = int(stack.pattern[0].options.get("heads", 8))
    config = MarianConfig(
        vocab_size=model.head.projection.out_features,
        d_model=given.width,
        max_position_embeddings=given.max_length,
        activation_function="relu",
        scale_embedding=True,
        dropout=given.dropout,
        pad_token_id=PAD,
        eos_token_id=END,
        decoder_start_token_id=START,
        forced_eos_token_id=None,
        attn_implementation="sdpa",
        **sizes,
    )
    return MarianMTModel(config)


@torch.no_grad()
def copy_weights(ours: EncoderDecoder, theirs: "MarianMTModel") -> None:
    """Make `theirs` the same function as `ours`; sinusoids go over too, which Marian orders otherwise."""
    sides = ((ours.encoder, theirs.model.encoder), (ours.decoder, theirs.model.decoder))
    for mine, other in sides:
        other.embed_tokens.weight.copy_(mine.embedding.table.weight)
        positions = torch.arange(other.embed_positions.num_embeddings)
        assert mine.embedding.position is not None
        other.embed_positions.weight.copy_(mine.embedding.position(positions.unsqueeze(0))[0])
        for block, layer in zip(mine.stack.blocks, other.layers, strict=True):
            attention = layer.self_attn
            _split(block.mixer.qkv, [attention.q_proj, attention.k_proj, attention.v_proj])
            _split(block.mixer.out, [attention.out_proj])
            _split(block.mixer_residual.norm, [layer.self_attn_layer_norm])
            if block.cross is not None:
                attention = layer.encoder_attn
                _split(block.cross.q, [attention.q_proj])
                _split(block.cross.kv, [attention.k_proj, attention.v_proj])
                _split(block.cross.out, [attention.out_proj])
                _split(block.cross_residual.norm, [layer.encoder_attn_layer_norm])
            _split(block.feedforward.inner, [layer.fc1])
            _split(block.feedforward.out, [layer.fc2])
            _split(block.feedforward_residual.norm, [layer.final_layer_norm])


def _split(fused: nn.Module, parts: list[nn.Module]) -> None:
    """Rows of a fused projection to those that it was fused from; where it has no bias, theirs become zero."""
    for name in ("weight", "bias"):
        whole: Tensor | None = getattr(fused, name)
        for index, part in enumerate(parts):
            target: Tensor = getattr(part, name)
            target.copy_(torch.zeros_like(target) if whole is None else whole.chunk(len(parts))[index])


@torch.no_grad()
def save_for_ctranslate2(ours: EncoderDecoder, folder: Path) -> None:
    """The same function as a CTranslate2 model in `folder`, its vocabulary the numbers of the units."""
    from ctranslate2.specs import common_spec, transformer_spec

    stacks = [ours.config.stack(side) for side in ("encoder", "decoder")]
    heads = int(stacks[0].pattern[0].options.get("heads", 8))
    depths = (stacks[0].depth, stacks[1].depth)
    spec = transformer_spec.TransformerSpec.from_config(
        depths, heads, pre_norm=False, activation=common_spec.Activation.RELU
    )
    for coder, part in ((ours.encoder, spec.encoder), (ours.decoder, spec.decoder)):
        embeddings = part.embeddings[0] if isinstance(part.embeddings, list) else part.embeddings
        embeddings.weight = coder.embedding.table.weight.numpy()
        part.scale_embeddings = True
        part.position_encodings = transformer_spec.PositionEncoderSpec()
        assert coder.embedding.position is not None
        part.position_encodings.encodings = coder.embedding.position(torch.arange(512).unsqueeze(0))[0].numpy()
        for block, layer in zip(coder.stack.blocks, part.layer, strict=True):
            _attention(layer.self_attention, block.mixer_residual.norm, [block.mixer.qkv, block.mixer.out])
            if block.cross is not None:
                projections = [block.cross.q, block.cross.kv, block.cross.out]
                _attention(layer.attention, block.cross_residual.norm, projections)
            _linear(layer.ffn.linear_0, block.feedforward.inner)
            _linear(layer.ffn.linear_1, block.feedforward.out)
            _norm(layer.ffn.layer_norm, block.feedforward_residual.norm)
    spec.decoder.projection.weight = ours.head.projection.weight.numpy()
    units = [str(u) for u in range(ours.head.projection.out_features)]
    spec.register_source_vocabulary(units)
    spec.register_target_vocabulary(units)
    spec.config.bos_token, spec.config.eos_token, spec.config.unk_token = str(START), str(END), str(PAD)
    spec.config.decoder_start_token = str(START)
    spec.validate()
    spec.optimize()
    spec.save(str(folder))


def _attention(part: Any, norm: nn.Module, projections: list[nn.Module]) -> None:  # a spec
    for target, projection in zip(part.linear, projections, strict=True):
        _linear(target, projection)
    _norm(part.layer_norm, norm)


def _linear(part: Any, linear: Any) -> None:  # a spec
    part.weight = linear.weight.numpy()
    bias = torch.zeros(linear.weight.shape[0]) if linear.bias is None else linear.bias
    part.bias = bias.numpy()


def _norm(part: Any, norm: Any) -> None:  # a spec
    part.gamma, part.beta = norm.weight.numpy(), norm.bias.numpy()
