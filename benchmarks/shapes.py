"""Shapes of decoders: layers, widths, vocabulary, and the parameters that follow from them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Shape:
    """A decoder of the Qwen2.5 (biases on queries, keys, values) or Qwen3 (norms on queries and keys) family."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    vocab: int
    tied: bool
    head_dim: int
    biases: bool = True

    @property
    def linear(self) -> tuple[tuple[int, int], ...]:
        """Inputs and outputs of a layer's seven matrices."""
        h, q, kv = self.hidden, self.heads * self.head_dim, self.kv_heads * self.head_dim
        return (
            (h, q),
            (h, kv),
            (h, kv),
            (q, h),
            (h, self.intermediate),
            (h, self.intermediate),
            (self.intermediate, h),
        )

    @property
    def matrices(self) -> int:
        """Parameters of these seven."""
        return sum(inputs * outputs for inputs, outputs in self.linear)

    @property
    def layer(self) -> int:
        """Parameters of a layer."""
        q_and_kv = (self.heads + 2 * self.kv_heads) * self.head_dim
        return self.matrices + 2 * self.hidden + (q_and_kv if self.biases else 2 * self.head_dim)

    @property
    def root(self) -> int:
        """Parameters of FSDP2's root unit, whole from the forward to the end of the backward: V H + H, or H untied."""
        return self.hidden + (self.vocab * self.hidden if self.tied else 0)

    @property
    def head(self) -> int:
        """Parameters of the head: V H."""
        return self.vocab * self.hidden

    @property
    def parameters(self) -> int:
        """P: embedding, layers, last norm, and the head where it is not the embedding."""
        return self.layers * self.layer + self.head * (1 if self.tied else 2) + self.hidden

    def adapters(self, rank: int) -> int:
        """Return the parameters of LoRA on every matrix of the layers: rank x (inputs + outputs) each."""
        return self.layers * sum(rank * (inputs + outputs) for inputs, outputs in self.linear)

    @property
    def cache(self) -> int:
        """Bytes of a token in vLLM's bf16 cache: keys and values of every layer."""
        return 2 * 2 * self.layers * self.kv_heads * self.head_dim


SHAPES = {
    "Qwen2.5-0.5B": Shape(24, 896, 4864, 14, 2, 151936, True, 64),
    "Qwen2.5-1.5B": Shape(28, 1536, 8960, 12, 2, 151936, True, 128),
    "Qwen2.5-3B": Shape(36, 2048, 11008, 16, 2, 151936, True, 128),
    "Qwen2.5-7B": Shape(28, 3584, 18944, 28, 4, 152064, False, 128),
    "Qwen3-1.7B": Shape(28, 2048, 6144, 16, 8, 151936, True, 128, biases=False),
    "Qwen3-4B": Shape(36, 2560, 9728, 32, 8, 151936, True, 128, biases=False),
    "Qwen3-8B": Shape(36, 4096, 12288, 32, 8, 151936, False, 128, biases=False),
}
TIMED = {
    "qwen2.5-3b": SHAPES["Qwen2.5-3B"],
    "qwen2.5-7b": SHAPES["Qwen2.5-7B"],
    # The head's share of the operations, a tenth, is that of the 3B shape.
    "tiny": Shape(4, 256, 1376, 4, 2, 2048, True, 64),
}
"""Shapes whose steps are timed, by their names on command lines."""
