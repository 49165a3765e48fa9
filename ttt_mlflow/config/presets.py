"""The grids of sweeps that have a name."""

from collections.abc import Mapping
from dataclasses import dataclass

Block = Mapping[str, tuple[str, ...]]  # values of parameters, which are multiplied

LINEAR, MLP = "ttt-1b:mlp_1_dual_triton", "ttt-1b:mlp_2_dual_triton"
MAMBA, MAMBA_2 = "state-spaces/mamba-1.4b", "state-spaces/mamba2-1.3b"
TRANSFORMER, TRANSFORMER_GQA = "transformer-1b", "transformer-1b-gqa4"
GATED_DELTA, RWKV_7 = "gated-deltanet-1.3b", "rwkv7-1.3b"
# The models of the published loops, and those of the comparison with peers. A name that is not registered is a model
# that needs something that is not installed: it is refused, or left out with skip_missing.
PUBLISHED = (MAMBA, TRANSFORMER, LINEAR, MLP)
PEERS = (LINEAR, MLP, MAMBA, MAMBA_2, TRANSFORMER, TRANSFORMER_GQA, GATED_DELTA, RWKV_7)
PROMPTS = ("2048", "4096", "8192", "16384", "32768")


@dataclass(frozen=True)
class Preset:
    """meaning: in a few words. blocks: full grids, one after the other. yardstick: see SweepConfig.yardstick."""

    meaning: str
    blocks: tuple[Block, ...]
    yardstick: str | None = None


PRESETS: Mapping[str, Preset] = {
    "decode-2k": Preset(
        "Mamba-1.4b, TTT-Linear and TTT-MLP, batches 128 to 8192, 2048 steps",
        (
            {
                "model_name": (MAMBA, "ttt-1b"),
                "inner_net": ("mlp_1_dual_triton", "mlp_2_dual_triton"),
                "batch": ("128", "256", "512", "1024", "2048", "4096", "8192"),
                "mode": ("decode",),
                "promptlen": ("1",),
                "genlen": ("2048",),
            },
        ),
    ),
    "published-prefill": Preset(
        "prompts of 2048 to 32768 tokens, batches 8 to 512",
        (
            {
                "model_name": PUBLISHED,
                "mode": ("prefill",),
                "promptlen": PROMPTS,
                "batch": ("8", "16", "32", "64", "128", "256", "512"),
            },
        ),
    ),
    "published-decode": Preset(
        "512 to 8192 steps, batches 64 to 4096",
        (
            {
                "model_name": PUBLISHED,
                "mode": ("decode",),
                "promptlen": ("1",),
                "genlen": ("512", "1024", "2048", "4096", "8192"),
                "batch": ("64", "128", "256", "512", "1024", "2048", "4096"),
            },
        ),
    ),
    "published-both": Preset(
        "prompts of 2048 to 32768 tokens and 128 steps, batches 8 to 512",
        (
            {
                "model_name": PUBLISHED,
                "mode": ("decode",),
                "promptlen": PROMPTS,
                "genlen": ("128",),
                "batch": ("8", "16", "32", "64", "128", "256", "512"),
            },
        ),
    ),
    "crossing": Preset(
        "TTT-Linear and the transformers at contexts of 65 to 16448 and batches 1, 16, 128, 1024",
        (
            {
                "model_name": (LINEAR, TRANSFORMER, TRANSFORMER_GQA),
                "mode": ("decode",),
                "promptlen": ("1", "128", "256", "512", "1024", "2048", "4096", "8192", "16384"),
                "genlen": ("128",),
                "batch": ("1", "16", "128", "1024"),
            },
        ),
        yardstick=f"model_name={LINEAR} batch=1024 genlen=256",
    ),
    "peers": Preset(
        "all models: decode at batches 1, 16, 128, 1024, prefill of 16 x 2048, and decode at contexts to 32768",
        (
            {
                "model_name": PEERS,
                "mode": ("decode",),
                "promptlen": ("1",),
                "genlen": ("256",),
                "batch": ("1", "16", "128", "1024"),
            },
            {"model_name": PEERS, "mode": ("prefill",), "promptlen": ("2048",), "batch": ("16",)},
            {"model_name": PEERS, "mode": ("decode",), "promptlen": PROMPTS, "genlen": ("128",), "batch": ("16",)},
        ),
        yardstick=f"model_name={LINEAR} batch=1024 genlen=256",
    ),
}
