"""EncoderSpec: all values by which the encoders of the BERT family differ."""

from dataclasses import dataclass

from jaxserve.layers.dense import DenseSpec
from jaxserve.layers.mlp import Activation


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderSpec:
    """An encoder: embeddings, and layers in which every token sees all others, with a norm behind each sum.

    architecture_name         for people: "BertModel"
    vocab_size                rows of the embedding
    width                     of the residual stream
    num_layers                how many layers
    num_heads                 of each layer's attention
    hidden                    of the feed-forward blocks
    activation                of these
    norm_eps                  of every norm
    num_positions             rows of the table of positions
    first_position            the row of a sequence's first token (RoBERTa counts behind its padding id)
    num_token_types           rows of the table of token types; 0: there is none
    dense                     as in DecoderSpec
    """

    architecture_name: str
    vocab_size: int
    width: int
    num_layers: int
    num_heads: int
    hidden: int
    activation: Activation
    norm_eps: float
    num_positions: int
    first_position: int = 0
    num_token_types: int = 0
    dense: tuple[DenseSpec, ...] = ()

    @property
    def max_position_embeddings(self) -> int:
        """The most tokens of a sequence."""
        return self.num_positions - self.first_position

    @property
    def head_dim(self) -> int:
        """The width of one head."""
        return self.width // self.num_heads

    @property
    def pooled_width(self) -> int:
        """The numbers of a pooled vector."""
        return self.dense[-1].width_out if self.dense else self.width

    def for_length(self, max_model_len: int) -> "EncoderSpec":
        """Return the spec, which is the same for every length."""
        return self
