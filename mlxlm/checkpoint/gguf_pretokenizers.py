"""How byte-level BPE vocabularies split text into words, by the name that GGUF gives the way (``tokenizer.ggml.pre``).

The patterns are those of the models' own tokenizer.json files. llama.cpp rewrites some for its regex engine, and
differs from them in corners; where the two disagree, the model was trained with the original.
"""

from dataclasses import dataclass

from tokenizers import Regex, normalizers, pre_tokenizers

from ..errors import TokenizerError

_TAIL = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_SHORT = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_CAPITALS = r"\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}"
_SMALL = r"\p{Ll}\p{Lm}\p{Lo}\p{M}"
_OPEN = r"[^\r\n\p{L}\p{N}]?"

LLAMA3 = _SHORT + "|" + _OPEN + r"\p{L}+|\p{N}{1,3}" + _TAIL
QWEN2 = _SHORT + "|" + _OPEN + r"\p{L}+|\p{N}" + _TAIL
QWEN35 = _SHORT + "|" + _OPEN + r"[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
TEKKEN = (rf"{_OPEN}[{_CAPITALS}]*[{_SMALL}]+|{_OPEN}[{_CAPITALS}]+[{_SMALL}]*"
          r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")
GPT4O = (rf"{_OPEN}[{_CAPITALS}]*[{_SMALL}]+{_SHORT}?|{_OPEN}[{_CAPITALS}]+[{_SMALL}]*{_SHORT}?|\p{{N}}{{1,3}}"
         r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")
_NO_HAN = "&&[^\\p{Han}]"
KIMI_K2 = (rf"[\p{{Han}}]+|{_OPEN}[{_CAPITALS}{_NO_HAN}]*[{_SMALL}{_NO_HAN}]+{_SHORT}?"
           rf"|{_OPEN}[{_CAPITALS}{_NO_HAN}]+[{_SMALL}{_NO_HAN}]*{_SHORT}?"
           r"|\p{N}{1,3}" + _TAIL)
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
BLOOM = " ?[^(\\s|.,!?\u2026\u3002\uff0c\u3001\u0964\u06d4\u060c)]+"
BAILING = r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
SEED = _SHORT + "|" + _OPEN + r"\p{L}+|\p{N}{1}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+"
DEEPSEEK3 = (r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"""
             r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
# Letters with case, of the alphabets that DeepSeek LLM's authors listed.
_CASED = (
    "A-Za-z\xb5\xc0-\xd6\xd8-\xf6\xf8-\u01ba\u01bc-\u01bf\u01c4-\u0293\u0295-\u02af\u0370-\u0373\u0376\u0377"
    "\u037b-\u037d\u037f\u0386\u0388-\u038a\u038c\u038e-\u03a1\u03a3-\u03f5\u03f7-\u0481\u048a-\u052f\u0531-"
    "\u0556\u10a0-\u10c5\u13a0-\u13f5\u13f8-\u13fd\u1c90-\u1cba\u1cbd-\u1cbf\u1d00-\u1d2b\u1d6b-\u1d77\u1d79-"
    "\u1d9a\u1e00-\u1f15\u1f18-\u1f1d\u1f20-\u1f45\u1f48-\u1f4d\u1f50-\u1f57\u1f59\u1f5b\u1f5d\u1f5f-\u1f7d"
    "\u1f80-\u1fb4\u1fb6-\u1fbc\u1fbe\u1fc2-\u1fc4\u1fc6-\u1fcc\u1fd0-\u1fd3\u1fd6-\u1fdb\u1fe0-\u1fec\u1ff2-"
    "\u1ff4\u1ff6-\u1ffc\u2102\u2107\u210a-\u2113\u2115\u2119-\u211d\u2124\u2126\u2128\u212a-\u212d\u212f-"
    "\u2134\u2139\u213c-\u213f\u2145-\u2149\u214e\u2183\u2184\u2c00-\u2c7b\u2c7e-\u2ce4\u2ceb-\u2cee\u2cf2"
    "\u2cf3\ua640-\ua66d\ua680-\ua69b\ua722-\ua76f\ua771-\ua787\ua78b-\ua78e\uab70-\uabbf\ufb00-\ufb06\ufb13-"
    "\ufb17\uff21-\uff3a\uff41-\uff5a\U00010400-\U0001044f\U000104b0-\U000104d3\U000104d8-\U000104fb"
    "\U00010c80-\U00010cb2\U00010cc0-\U00010cf2\U000118a0-\U000118df\U0001e900-\U0001e943"
)
_EAST = "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+"


@dataclass(frozen=True)
class Way:
    """Patterns that split one after another; ``gpt2`` ends with GPT-2's own; ``digits`` come apart one by one first."""

    patterns: tuple[str, ...] = ()
    gpt2: bool = False
    digits: bool = False
    punctuation: bool = False
    threes: bool = False  # runs of digits are cut into threes, after all else
    nfc: bool = False
    ignore_merges: bool = False  # a word that is in the vocabulary as it is stays whole
    add_bos: bool = False

    def stages(self) -> pre_tokenizers.PreTokenizer:
        out: list = [pre_tokenizers.Punctuation("contiguous")] if self.punctuation else []
        out += [pre_tokenizers.Digits(individual_digits=True)] if self.digits else []
        out += [pre_tokenizers.Split(Regex(p), "isolated") for p in self.patterns]
        out.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=self.gpt2))
        if self.threes:
            out += [pre_tokenizers.Digits(individual_digits=False),
                    pre_tokenizers.Split(Regex("[0-9][0-9][0-9]"), "isolated")]
        return pre_tokenizers.Sequence(out)

    def normalizer(self) -> normalizers.Normalizer | None:
        return normalizers.NFC() if self.nfc else None


_GPT2, _CODE = Way(gpt2=True), Way(gpt2=True, digits=True)
_LLAMA3 = Way((LLAMA3,), ignore_merges=True, add_bos=True)
_QWEN2 = Way((QWEN2,))
_DEEPSEEK3 = Way((r"\p{N}{1,3}", "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+", DEEPSEEK3))
_FALCON = Way(gpt2=True, punctuation=True, threes=True)

WAYS: dict[str, Way] = {
    "default": _FALCON,
    **dict.fromkeys(("llama3", "llama-v3", "llama-bpe", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2"),
                    _LLAMA3),
    **dict.fromkeys(("dbrx", "smaug-bpe", "chatglm-bpe"), Way((LLAMA3,))),
    **dict.fromkeys(("glm4", "glm5"), Way((LLAMA3,), ignore_merges=True)),
    "qwen2": Way((QWEN2,), nfc=True),
    "qwen35": Way((QWEN35,)),
    **dict.fromkeys(("deepseek-r1-qwen", "kormo", "megrez", "hunyuan", "solar-open", "grok-2", "stablelm2"), _QWEN2),
    "deepseek-llm": Way((r"[\r\n]", rf"\s?[{_CASED}]+",
                         "\\s?[!-/:-~\uff01-\uff0f\uff1a-\uff5e\u2018-\u201f\u3000-\u3002]+", r"\s+$", _EAST,
                         r"\p{N}+")),
    "deepseek-coder": Way((r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", _EAST, r"\p{N}")),
    **dict.fromkeys(("deepseek-v3", "hunyuan-dense", "joyai-llm"), _DEEPSEEK3),
    "falcon": _FALCON,
    **dict.fromkeys(("starcoder", "refact", "smollm", "codeshell", "exaone", "minerva-7b", "mellum2"), _CODE),
    "command-r": Way(gpt2=True, digits=True, nfc=True),
    "olmo": Way(gpt2=True, nfc=True),
    **dict.fromkeys(("gpt-2", "phi-2", "gigachat", "a.x-4.0", "mellum", "mpt", "jais", "trillion", "granite-docling",
                     "exaone4"), _GPT2),
    **dict.fromkeys(("poro-chat", "bloom", "gpt3-finnish"), Way((BLOOM,))),
    "viking": Way((BLOOM, r"\p{N}")),
    "tekken": Way((TEKKEN,), ignore_merges=True, add_bos=True),
    **dict.fromkeys(("gpt-4o", "llama4", "kanana2", "talkie", "minimax-m2"), Way((GPT4O,))),
    "kimi-k2": Way((KIMI_K2,)),
    **dict.fromkeys(("bailingmoe", "bailingmoe2", "llada-moe"), Way((BAILING,))),
    "seed-coder": Way((SEED,)),
    "minicpm5": Way((r"\p{N}{1,3}", LLAMA3.replace("{1,3}", "+")), ignore_merges=True),
}


def way(name: object, where: object) -> Way:
    """The way of that name. Raises TokenizerError for one that isn't known: a guess could be wrong in silence."""
    if not isinstance(name, str) or name not in WAYS:
        raise TokenizerError("tokenizer.ggml.pre isn't known", where=where, found=repr(name),
                             hint="Give the model's original tokenizer with tokenizer_id.")
    return WAYS[name]
