"""The shared layers: a model file composes these and never copies them; what varies comes in as a part."""

from .attention import Attention, LateNormAttention, Softcapped, TemperedAttention, alibi, attend, softcap
from .blocks import MixerOnly, Parallel, PostNorm, PreNorm, Sandwich
from .delta import GatedDeltaNet
from .experts import Experts, ExpertsMLP, SwitchLinear
from .latent_attention import LatentAttention, absorb_kv
from .mamba import GroupedGatedNorm, Mamba2
from .mamba1 import Mamba
from .mlp import MLP, GatedMLP, activation, gated, geglu, swiglu
from .moe import BiasedMoE, GroupedGate, LatentMoE, SharedGateMoE, SparseMoE, top_k
from .norms import BareRMSNorm, FlatRMSNorm, HeadLayerNorm, LayerNorm, RMSNorm, UnitOffsetRMSNorm
from .rope import make_rope
from .short_conv import ShortConv

__all__ = [
    "MLP",
    "Attention",
    "BareRMSNorm",
    "BiasedMoE",
    "Experts",
    "ExpertsMLP",
    "FlatRMSNorm",
    "GatedDeltaNet",
    "GatedMLP",
    "GroupedGate",
    "GroupedGatedNorm",
    "HeadLayerNorm",
    "LateNormAttention",
    "LatentAttention",
    "LatentMoE",
    "LayerNorm",
    "Mamba",
    "Mamba2",
    "MixerOnly",
    "Parallel",
    "PostNorm",
    "PreNorm",
    "RMSNorm",
    "Sandwich",
    "SharedGateMoE",
    "ShortConv",
    "Softcapped",
    "SparseMoE",
    "SwitchLinear",
    "TemperedAttention",
    "UnitOffsetRMSNorm",
    "absorb_kv",
    "activation",
    "alibi",
    "attend",
    "gated",
    "geglu",
    "make_rope",
    "softcap",
    "swiglu",
    "top_k",
]
