"""What a Brainformer is made of. Every choice that changes its weights or its output is here."""

from __future__ import annotations

from transformers import PretrainedConfig

CHOICES = {
    "channel_mixer": ("router", "full"),
    "sensor_embedding": ("geometry", "index", "both"),
    "skip": ("geometry", "montage", "none"),
    "head": ("regression", "tokens", "both"),
}


class BrainformerConfig(PretrainedConfig):
    """Sizes and choices of a Brainformer. Lengths are in samples, nothing here limits them.

    Args:
        d_model: width of a token; must be a multiple of `2 * n_heads`.
        n_heads: attention heads.
        n_layers: layers of the encoder, and as many of the decoder.
        d_ff: width of the MLPs.
        segment_samples: samples in a segment (one token); 1 is one token a sample.
        channel_mixer: "router" (cost grows with the channels) or "full" (with their square).
        n_routers: learned buffers that channels exchange through, shared by all times.
        sensor_embedding: "geometry" (position, orientation, type), "index" (a table), or "both".
        n_eeg, n_meg: rows of the index tables and of the montage skip; 0 where neither is used.
        skip: signed linear map from EEG to MEG beside the attention: "geometry" (a function of the
            sensors, any montage), "montage" (one matrix for `n_meg` x `n_eeg`), or "none".
        skip_rank: rank of that map.
        skip_lags: EEG samples before and after the MEG sample that the map sees (0: only its own).
        skip_anchors: points over the head that the geometry skip's factors are sums of bumps
            around; 192 are 3 cm apart.
        skip_states: states that the linear map is mixed over, by the power of its sources; 0: one
            map for all times.
        head: "regression" (mean, log-variance), "tokens" (mu-law levels), or "both".
        token_weight: weight of the token loss beside the regression loss for `head="both"`.
        beta_nll: 0 is the Gaussian likelihood, 1 weighs like squared error (Seitzer et al. 2022).
        quantizer_levels, quantizer_mu, quantizer_range: the mu-law quantizer, whose range is in
            scaled units; three more ids (PAD, BOS, EOS) make 258 of 255 levels.
        dropout: on attention weights and on what each branch adds.
        eeg_encoder: a pretrained encoder in place of the own one: `vae`, `signal`, `trained_on` as
            in `EegEncoderConfig`; its patch must be `segment_samples`. None: the own one.
        causal: no output depends on later EEG; can also be asked for call by call.

    Raises ValueError, naming the field, where they do not fit together.
    """

    model_type = "brainformer"
    attribute_map = {  # noqa: RUF012  transformers reads a plain class attribute
        "hidden_size": "d_model",
        "num_attention_heads": "n_heads",
        "num_hidden_layers": "n_layers",
    }

    def __init__(
        self,
        d_model: int = 64,
        n_heads: int = 4,
        n_layers: int = 1,
        d_ff: int = 256,
        segment_samples: int = 8,
        channel_mixer: str = "router",
        n_routers: int = 10,
        sensor_embedding: str = "geometry",
        n_eeg: int = 0,
        n_meg: int = 0,
        skip: str = "geometry",
        skip_rank: int = 64,
        skip_lags: int = 0,
        skip_anchors: int = 192,
        skip_states: int = 8,
        head: str = "regression",
        token_weight: float = 0.1,
        beta_nll: float = 0.5,
        quantizer_levels: int = 255,
        quantizer_mu: float = 255.0,
        quantizer_range: float = 10.0,
        dropout: float = 0.1,
        eeg_encoder: dict | None = None,
        causal: bool = False,
        **kwargs,
    ):
        self.d_model = d_model
        self.n_heads = n_heads
        self.n_layers = n_layers
        self.d_ff = d_ff
        self.segment_samples = segment_samples
        self.channel_mixer = channel_mixer
        self.n_routers = n_routers
        self.sensor_embedding = sensor_embedding
        self.n_eeg = n_eeg
        self.n_meg = n_meg
        self.skip = skip
        self.skip_rank = skip_rank
        self.skip_lags = skip_lags
        self.skip_anchors = skip_anchors
        self.skip_states = skip_states
        self.head = head
        self.token_weight = token_weight
        self.beta_nll = beta_nll
        self.quantizer_levels = quantizer_levels
        self.quantizer_mu = quantizer_mu
        self.quantizer_range = quantizer_range
        self.dropout = dropout
        self.eeg_encoder = eeg_encoder
        self.causal = causal
        self._check()
        super().__init__(**kwargs)

    def _check(self) -> None:
        for name, known in CHOICES.items():
            if getattr(self, name) not in known:
                raise ValueError(f"{name}={getattr(self, name)!r}: use one of {', '.join(known)}")
        if self.d_model % (2 * self.n_heads):
            raise ValueError(
                f"d_model={self.d_model} with n_heads={self.n_heads}: each head needs an even "
                "width, so d_model must be a multiple of 2 * n_heads"
            )
        for name in ("d_model", "n_heads", "n_layers", "d_ff", "segment_samples", "n_routers",
                     "skip_anchors"):  # fmt: skip
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: must be 1 or more")
        if self.quantizer_levels < 3 or self.quantizer_levels % 2 == 0:
            raise ValueError(
                f"quantizer_levels={self.quantizer_levels}: use an odd number, 3 or more, "
                "so that zero is a level"
            )
        if self.eeg_encoder is not None:
            vae = self.eeg_encoder["vae"]
            if vae["tokens"] != "channel" or vae["patch_samples"] != self.segment_samples:
                raise ValueError(
                    f"eeg_encoder with tokens={vae['tokens']!r}, patches of {vae['patch_samples']} "
                    f"samples: needs channel tokens and segment_samples={vae['patch_samples']}"
                )
            if self.causal or self.sensor_embedding == "index":
                raise ValueError(
                    "eeg_encoder reads all times, at the electrodes' places: it cannot be causal, "
                    "or have sensor_embedding='index'"
                )
        tables = self.sensor_embedding != "geometry" or self.skip == "montage"
        if tables and not (self.n_eeg and self.n_meg):
            raise ValueError(
                f"sensor_embedding={self.sensor_embedding!r} with skip={self.skip!r} needs n_eeg "
                "and n_meg, the number of sensors in the tables"
            )
