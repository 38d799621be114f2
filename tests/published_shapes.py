"""SpLIP on the shapes of the published CLIPs, without a tokenizer: three classes of made-up token ids."""

from transformers import CLIPConfig

from modeling_splip.configuration_splip import SplipConfig

# vision width, layers, heads, patch; text width, heads; image size; D
SHAPES = {
    "B/32": (768, 12, 12, 32, 512, 8, 224, 512),
    "B/16": (768, 12, 12, 16, 512, 8, 224, 512),
    "L/14": (1024, 24, 16, 14, 768, 12, 224, 768),
    "L/14-336": (1024, 24, 16, 14, 768, 12, 336, 768),
}


def published(name: str, layers: int | None = None, vocabulary: int = 49408, **settings) -> SplipConfig:
    """The settings of a SpLIP on a published CLIP's shape, with three classes; optionally with fewer layers."""
    d_v, l_v, heads_v, patch, d_t, heads_t, image, projection = SHAPES[name]
    text = {
        "hidden_size": d_t,
        "intermediate_size": 4 * d_t,
        "num_hidden_layers": layers or 12,
        "num_attention_heads": heads_t,
        "vocab_size": vocabulary,
    }
    vision = {
        "hidden_size": d_v,
        "intermediate_size": 4 * d_v,
        "num_hidden_layers": layers or l_v,
        "num_attention_heads": heads_v,
        "patch_size": patch,
        "image_size": image,
    }
    clip = CLIPConfig(
        text_config=text | {"projection_dim": projection},
        vision_config=vision | {"projection_dim": projection},
        projection_dim=projection,
    )
    eos = vocabulary - 1
    return SplipConfig(
        clip_config=clip,
        class_names=["a", "b", "c"],
        class_token_ids=[[5, eos], [6, 7, eos], [8, eos]],
        prefix_token_ids={"sketch": [eos - 1, 1, 3, 4], "photo": [eos - 1, 2, 3, 4]},
        **settings,
    )
