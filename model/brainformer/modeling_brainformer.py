"""Brainformer: from EEG to the MEG of the same moments, all samples in one pass.

EEG is cut into segments; each layer attends along time within a channel, then across channels.
MEG tokens start as their sensor's description and read the EEG tokens of their own segment. A
signed linear map stands beside the attention, whose own output starts at zero: a model whose map
was set by `init_skip_from_ridge` starts at the ridge solution.

Shapes: B batch, Cs EEG channels, Ct MEG channels, T samples, L segments, D width, P samples in a
segment.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn
from transformers import PreTrainedModel

from .configuration_brainformer import BrainformerConfig
from .heads_brainformer import Heads
from .inputs_brainformer import Inputs, prepare_inputs, valid_outputs
from .layers_brainformer import (
    DecoderLayer,
    RouterMixer,
    TwoStageLayer,
    named_generator,
    over_time,
    rotary_angles,
)
from .outputs_brainformer import (
    BrainformerModelOutput,
    BrainformerOutput,
    BrainformerTranslation,
)
from .pretrained_brainformer import PretrainedTokens
from .quantizer_brainformer import MuLawQuantizer
from .sensors_brainformer import MEG_FEATURES, POSITION_FEATURES, LinearSkip, SensorEncoder
from .states_brainformer import StateMixer


class BrainformerPreTrainedModel(PreTrainedModel):
    config_class = BrainformerConfig
    base_model_prefix = "brainformer"
    main_input_name = "eeg"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _no_split_modules = ["TwoStageLayer", "DecoderLayer"]  # noqa: RUF012  as transformers has it
    # The loss is a mean over the batch at hand: Trainer must not scale it by the number of ranks.
    accepts_loss_kwargs = False

    def post_init(self) -> None:
        for name, module in self.named_modules():
            if not hasattr(module, "start_name"):  # a model inside has named its own
                module.start_name = name
        super().post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Variance-keeping starts. (transformers' usual 0.02 learns nothing in this model's time.)

        Each module draws from a generator keyed by torch's seed (`torch.manual_seed`) and its own
        name, so that configurations that share a module share its start. Two models made after one
        seed therefore start alike.

        Only torch.nn.init functions: while a file is loaded, transformers makes them leave loaded
        weights alone.
        """
        own = next(module.parameters(recurse=False), None)
        if own is None or own.is_meta:
            return
        generator = named_generator(torch.initial_seed(), module.start_name, own.device)
        if isinstance(module, nn.Linear):
            gain = getattr(module, "init_gain", 1.0)
            std = gain * module.in_features**-0.5
            nn.init.normal_(module.weight, std=std, generator=generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, generator=generator)
        elif isinstance(module, RouterMixer):
            nn.init.normal_(module.router, generator=generator)
        elif isinstance(module, StateMixer):
            nn.init.zeros_(module.mixing)
        elif isinstance(module, LinearSkip) and module.kind == "montage":
            nn.init.zeros_(module.meg_factor)
            std = len(module.eeg_factor) ** -0.5
            nn.init.normal_(module.eeg_factor, std=std, generator=generator)


class BrainformerModel(BrainformerPreTrainedModel):
    """Encoder and decoder, without the heads and the linear map."""

    def __init__(self, config: BrainformerConfig):
        super().__init__(config)
        width, depth = config.d_model, config.n_layers
        own = config.eeg_encoder is None
        self.segment_in = nn.Linear(config.segment_samples, width) if own else None
        self.pretrained = None if own else PretrainedTokens(config)
        self.eeg_sensors = SensorEncoder(POSITION_FEATURES, config.n_eeg, config)
        self.meg_sensors = SensorEncoder(MEG_FEATURES, config.n_meg, config)
        self.encoder = nn.ModuleList(
            TwoStageLayer(config, 4 * depth) for _ in range(depth if own else 0)
        )
        self.encoder_norm = nn.LayerNorm(width)
        self.decoder = nn.ModuleList(DecoderLayer(config, 6 * depth) for _ in range(depth))
        self.decoder_norm = nn.LayerNorm(width)
        self.gradient_checkpointing = False
        self.post_init()

    def forward(self, eeg, causal: bool | None = None, **sensors) -> BrainformerModelOutput:
        """Arguments as for `BrainformerForEEG2MEG.forward`."""
        inputs = prepare_inputs(self.config, eeg, **sensors)
        return self.run(inputs, self.config.causal if causal is None else causal)

    def run(self, inputs: Inputs, causal: bool) -> BrainformerModelOutput:
        segments, segment_mask = self.cut(inputs.eeg, inputs.time_mask, causal)
        n_segments = segments.shape[2]
        time_allowed = over_time(segment_mask, causal)
        head_width = self.config.d_model // self.config.n_heads
        along_time = (time_allowed, causal, rotary_angles(n_segments, head_width, segments.device))

        eeg_place = self.eeg_sensors(inputs.eeg_features, inputs.eeg_index)
        if self.pretrained is None:
            x = self.segment_in(segments.to(self.segment_in.weight.dtype))
        elif causal:
            raise ValueError("a model with a pretrained EEG encoder cannot be causal")
        else:
            x = self.pretrained(inputs)
        x = x + eeg_place[:, :, None]
        for layer in self.encoder:
            x = self.apply_layer(layer, x, inputs.eeg_mask, *along_time)
        memory = self.encoder_norm(x)

        place = self.meg_sensors(inputs.meg_features, inputs.meg_index)
        y = place[:, :, None].expand(len(x), -1, n_segments, -1)
        masks = (inputs.eeg_mask, inputs.meg_mask)
        for layer in self.decoder:
            y = self.apply_layer(layer, y, memory, *masks, *along_time)
        return BrainformerModelOutput(self.decoder_norm(y), memory)

    def cut(self, eeg, time_mask, causal: bool):
        """`[B, Cs, T]` -> segments `[B, Cs, L, P]` with zeros to fill, and which hold anything.

        In causal mode a segment ends at the first sample of the output it serves, so that no
        sample of that output sees later EEG; it then sees up to P - 1 samples less than it could.
        """
        samples, length = self.config.segment_samples, eeg.shape[-1]
        n_segments = -(-length // samples)
        before = samples - 1 if causal else 0
        filler = (before, n_segments * samples - before - length)
        segments = F.pad(eeg, filler).unflatten(-1, (n_segments, samples))
        if time_mask is None:
            return segments, None
        return segments, F.pad(time_mask, filler).unflatten(-1, (n_segments, samples)).any(-1)

    def apply_layer(self, layer: nn.Module, *arguments):
        if self.gradient_checkpointing and self.training:
            return self._gradient_checkpointing_func(layer.__call__, *arguments)
        return layer(*arguments)


class BrainformerForEEG2MEG(BrainformerPreTrainedModel):
    """EEG to MEG with the linear map and the heads."""

    def __init__(self, config: BrainformerConfig):
        super().__init__(config)
        self.brainformer = BrainformerModel(config)
        self.skip = LinearSkip(config) if config.skip != "none" else None
        switches = self.skip is not None and config.skip_states > 0
        self.states = StateMixer(config) if switches else None
        # transformers 4 takes along only what this file itself imports, so it imports all.
        levels, mu = config.quantizer_levels, config.quantizer_mu
        self.heads = Heads(config, MuLawQuantizer(levels, mu, config.quantizer_range))
        self.post_init()

    def forward(
        self, eeg, eeg_positions_m=None, meg_positions_m=None, meg_orientations=None,
        meg_types=None, eeg_mask=None, meg_mask=None, time_mask=None, eeg_index=None,
        meg_index=None, causal: bool | None = None, output_logits: bool = False, labels=None,
    ) -> BrainformerOutput:  # fmt: skip
        """Predict, and with `labels` also give the loss.

        Args:
            eeg: `[B, Cs, T]` float, in units of the processor's EEG scale.
            eeg_positions_m: `[Cs, 3]` or `[B, Cs, 3]`, metres in the head frame.
            meg_positions_m: `[Ct, 3]` or `[B, Ct, 3]`, metres in the head frame.
            meg_orientations: `[Ct, 6]` or `[B, Ct, 6]`: the coil's normal, then the direction of
                the gradient (zeros for a magnetometer), in the head frame.
            meg_types: `[Ct]` or `[B, Ct]`, numbers of `SENSOR_TYPES`: 1 "mag", 2 "grad".
            eeg_mask, meg_mask, time_mask: bool `[B, Cs]`, `[B, Ct]`, `[B, T]`, False is padding;
                leave them out where nothing is padded (faster). Each sample needs something real.
            eeg_index, meg_index: rows of the tables, `[C]` or `[B, C]`; by default in order.
            causal: no output depends on later EEG; by default as the configuration says.
            output_logits: also return the token head's logits.
            labels: `[B, Ct, T]`, the MEG in units of the processor's scales.

        Raises ValueError for shapes that do not fit, naming the argument.
        """
        inputs = prepare_inputs(
            self.config, eeg, eeg_positions_m, meg_positions_m, meg_orientations, meg_types,
            eeg_mask, meg_mask, time_mask, eeg_index, meg_index,
        )  # fmt: skip
        wanted = (len(eeg), inputs.n_meg, eeg.shape[-1])
        if labels is not None and tuple(labels.shape) != wanted:
            raise ValueError(
                f"labels have the shape {tuple(labels.shape)}, but this EEG and these sensors need "
                f"{list(wanted)}: EEG and MEG must have the same samples and length"
            )
        causal = self.config.causal if causal is None else causal
        hidden = self.brainformer.run(inputs, causal).last_hidden_state
        linear = None
        if self.skip is not None:

            def mix(sources: torch.Tensor) -> torch.Tensor:
                if self.states is None:
                    return sources
                return self.states(sources, inputs.time_mask, causal)

            linear = self.skip(inputs.eeg, inputs, inputs.eeg_mask, causal, mix)
        found = self.heads(hidden, linear, eeg.shape[-1], inputs.valid(), labels)
        logits = found.pop("logits")
        return BrainformerOutput(logits=logits if output_logits else None, **found)

    @torch.no_grad()
    def translate(self, processor, **inputs) -> BrainformerTranslation:
        """MEG in tesla and tesla/metre, all samples in one pass, without dropout.

        `inputs` as for `forward`, as `processor(...)` gives them; labels are left aside. Raises
        ValueError for NaN and for sensor types that are not MEG.
        """
        inputs.pop("labels", None)
        mask = inputs.get("eeg_mask"), inputs.get("time_mask")
        processor.check_signal("eeg", inputs["eeg"], *mask)
        types = inputs.get("meg_types")
        if types is None:
            raise ValueError("meg_types is missing: it says which scale each MEG sensor has")
        scale = processor.meg_scale(types, inputs.get("meg_mask"))[..., None]
        was_training = self.training
        self.eval()
        try:
            found = self(**inputs)
        finally:
            self.train(was_training)
        scale = scale.to(found.prediction)
        std = (0.5 * found.log_variance).exp() * scale
        valid = valid_outputs(inputs.get("meg_mask"), inputs.get("time_mask"))
        if valid is not None:
            std = std.masked_fill(~valid, 0.0)
        return BrainformerTranslation(meg=found.prediction * scale, std=std)

    generate = translate

    def init_skip_from_ridge(self, ridge: torch.Tensor, **sensors) -> float:
        """Start the linear map at a ridge solution in scaled units.

        Args:
            ridge: `[Ct, Cs]`, or `[Ct, Cs, 2 * skip_lags + 1]` where number j pairs MEG at t with
                EEG at t - (j - skip_lags). A matrix without lags goes to lag 0.
            sensors: as for `forward` (no masks), of one montage, or `[N, C, ..]` of N montages with
                these channels, e.g. of each training recording: the map is fitted to all at once.

        Returns the relative error (Frobenius, the largest over montages) of the map against
        `ridge`: what its rank, and for the geometry map its smooth functions of the sensors, cannot
        hold. Raises ValueError for shapes.
        """
        if self.skip is None:
            raise ValueError("skip='none': this model has no linear map to start")
        n_lags = 2 * self.config.skip_lags + 1
        if ridge.ndim == 2:
            ridge = F.pad(ridge[..., None], (self.config.skip_lags, self.config.skip_lags))
        places = sensors.get("meg_positions_m")
        montages = len(places) if places is not None and places.ndim == 3 else 1
        inputs = prepare_inputs(
            self.config, torch.zeros(montages, ridge.shape[1], 1, device=self.device), **sensors
        )
        if tuple(ridge.shape) != (inputs.n_meg, inputs.eeg.shape[1], n_lags):
            raise ValueError(
                f"the ridge solution has the shape {tuple(ridge.shape)}: give "
                f"[{inputs.n_meg}, {inputs.eeg.shape[1]}, {n_lags}] or that without lags"
            )
        return self.skip.start_from(ridge.to(self.device), inputs)
