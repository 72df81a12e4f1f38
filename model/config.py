"""The model's configuration and its presets.

Sizes follow the anchors of the field: `base` (512 x 12) is what one to two thousand hours of EEG
feed well, `large` (768 x 16) the size above; `tiny` and `small` run on laptops. `brain2image` has
the shapes of the DreamDiffusion line's masked autoencoder: 128 channels x 512 samples at 1 kHz,
patches of 4 samples, 1024 x 24 with MLP ratio 1.0, about 151 M parameters in the encoder.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields, replace

from .interpolation import FILLS
from .masks import fits, mixture_kinds, spelled
from .tokens import TOKENS, tokens_of

BASELINES = (*FILLS, "none")

DECODER_INPUTS = ("latent_fill", "latent", "signal_fill")
LOSSES = ("l1", "l2")


@dataclass(frozen=True)
class ModelConfig:
    """What decides the network's shapes and its objective. Raises ValueError naming the field."""

    preset: str = "tiny"
    """Name of the preset that this started from; for the reader of a run's config."""
    tokens: str = "channel"
    """`channel`: a token is one channel x one patch. `joint`: one patch of a 128-channel grid."""
    sfreq_hz: float = 200.0
    """Sampling rate the model is made for; must equal the shards' rate."""
    patch_samples: int = 20
    """Samples in a patch (100 ms at 200 Hz)."""
    width: int = 192
    """Encoder width."""
    depth: int = 6
    """Encoder blocks."""
    heads: int = 3
    """Encoder attention heads."""
    mlp_ratio: float = 4.0
    """Hidden width of a block's MLP over its width."""
    decoder_width: int = 128
    decoder_depth: int = 2
    decoder_heads: int = 4
    latent_dim: int = 32
    """Dimensions of the latent of each token."""
    mask_ratio: float = 0.55
    """Share of the tokens that is hidden in training."""
    mask_mixture: dict[str, float] = field(
        default_factory=lambda: {
            "block": 0.5, "random": 0.2, "tube": 0.1, "channel": 0.1, "time": 0.1,
        }
    )  # fmt: skip
    """Kind of mask (model/masks.py) -> weight; each window draws its kind. `joint` tokens: kinds
    that need no rows of channels."""
    beta: float = 1e-3
    """Weight of the KL term after its warm-up; 0 makes this a plain masked autoencoder."""
    free_bits: float = 0.02
    """KL below this many nats per latent dimension, as the mean over a window's visible tokens, is
    free."""
    logvar_min: float = -8.0
    logvar_max: float = 4.0
    baseline: str = "spline"
    """The fill that is added to the output: `spline` (spherical splines) or `linear` (in time), so
    that what it leaves is predicted; `none`: the signal is predicted."""
    decoder_input: str = "latent_fill"
    """What a hidden token of the decoder starts from. `latent_fill`: interpolated latents of the
    visible tokens; `latent`: nothing but its place (He et al. 2022). `signal_fill`, for older runs
    with a baseline: the filled window itself, and the visible samples with it, past the latents."""
    loss: str = "l1"
    """Error on the hidden samples: `l1` or `l2`."""
    spectral_weight: float = 0.0
    """Weight of the log-spectrum error of the completed window."""
    visible_weight: float = 0.0
    """Weight of the error on the visible samples, which the decoder knows from the latents only."""

    def __post_init__(self):
        def check(name: str, good: bool, remedy: str) -> None:
            if not good:
                raise ValueError(f"model field {name}={getattr(self, name)!r}: {remedy}")

        check("tokens", self.tokens in TOKENS, f"use one of {', '.join(TOKENS)}")
        check("baseline", self.baseline in BASELINES, f"use one of {', '.join(BASELINES)}")
        check(
            "decoder_input",
            self.decoder_input in DECODER_INPUTS
            and (self.decoder_input != "signal_fill" or self.baseline != "none"),
            "use latent_fill or latent (signal_fill is for older runs that have a baseline)",
        )
        check("loss", self.loss in LOSSES, f"use one of {', '.join(LOSSES)}")
        for name in (
            "patch_samples", "width", "depth", "heads", "decoder_width", "decoder_depth",
            "decoder_heads", "latent_dim", "mlp_ratio", "sfreq_hz",
        ):  # fmt: skip
            check(name, getattr(self, name) > 0, "must be > 0")
        for name, heads in (("width", self.heads), ("decoder_width", self.decoder_heads)):
            check(name, getattr(self, name) % heads == 0, f"must be a multiple of {heads} heads")
            check(name, getattr(self, name) % 2 == 0, "must be even (sin/cos positions)")
        check("mask_ratio", 0 < self.mask_ratio < 1, "must lie between 0 and 1")
        for name in ("beta", "free_bits", "spectral_weight", "visible_weight"):
            check(name, getattr(self, name) >= 0, "must be >= 0")
        check(
            "visible_weight",
            not self.visible_weight or self.decoder_input != "signal_fill",
            "the decoder is given the visible samples: use decoder_input=latent_fill",
        )
        check("logvar_min", self.logvar_min < self.logvar_max, "must be below logvar_max")
        allowed = mixture_kinds(TOKENS[self.tokens].one_row)
        mixture = self.mask_mixture
        check(
            "mask_mixture",
            bool(mixture)
            and all(fits(kind, allowed) for kind in mixture)
            and all(weight >= 0 for weight in mixture.values())
            and sum(mixture.values()) > 0,
            f"weights >= 0, not all 0, for kinds among {spelled(allowed)}",
        )

    @property
    def variational(self) -> bool:
        return self.beta > 0

    def token_count(self, channels: int, samples: int) -> int:
        """Tokens of a window of `channels` x `samples`."""
        return tokens_of(self).count(channels, samples)

    def hidden_count(self, tokens: int) -> int:
        """How many of `tokens` are hidden; at least one is, and at least one is not."""
        return min(max(1, round(self.mask_ratio * tokens)), tokens - 1)

    def as_dict(self) -> dict:
        return asdict(self)


_JOINT = {"random": 0.8, "time": 0.2}
PRESETS = {
    "tiny": ModelConfig(preset="tiny"),
    "small": ModelConfig(
        preset="small", width=384, depth=12, heads=6,
        decoder_width=192, decoder_depth=4, decoder_heads=6, latent_dim=64,
    ),
    "base": ModelConfig(
        preset="base", width=512, depth=12, heads=8,
        decoder_width=256, decoder_depth=4, decoder_heads=4, latent_dim=64, baseline="none",
        decoder_input="latent",
    ),
    "large": ModelConfig(
        preset="large", width=768, depth=16, heads=12,
        decoder_width=256, decoder_depth=4, decoder_heads=4, latent_dim=64, baseline="none",
        decoder_input="latent",
    ),
    "brain2image": ModelConfig(
        preset="brain2image", tokens="joint", sfreq_hz=1000.0, patch_samples=4,
        width=1024, depth=24, heads=16, mlp_ratio=1.0,
        decoder_width=512, decoder_depth=8, decoder_heads=16, latent_dim=512,
        mask_ratio=0.75, mask_mixture={"random": 1.0}, beta=0.0, baseline="none", loss="l2",
        decoder_input="latent",
    ),
}  # fmt: skip


def preset(name: str, **changes) -> ModelConfig:
    """The preset `name` with some fields changed; ValueError for an unknown name or field."""
    if name not in PRESETS:
        raise ValueError(f"preset {name!r}: use one of {', '.join(PRESETS)}")
    known = {entry.name for entry in fields(ModelConfig)}
    if unknown := sorted(set(changes) - known):
        raise ValueError(f"model field {unknown[0]!r} is unknown; fields: {', '.join(known)}")
    base = PRESETS[name]
    tokens = TOKENS.get(changes.get("tokens", base.tokens))
    if tokens and not set(base.mask_mixture) <= set(mixture_kinds(tokens.one_row)):
        changes.setdefault("mask_mixture", _JOINT)
    return replace(base, **changes)


def from_dict(value: dict) -> ModelConfig:
    """The configuration that `as_dict` gave, also in an older version; ValueError for unknown
    fields."""
    return preset(value["preset"], **with_new_fields(value))


def with_new_fields(value: dict) -> dict:
    """What an older version's `as_dict` gave, with the fields that it lacks as they were then."""
    given = "latent" if value.get("baseline", "none") == "none" else "signal_fill"
    return {"decoder_input": given, **value}
