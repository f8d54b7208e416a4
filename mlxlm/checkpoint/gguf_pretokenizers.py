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
TEKKEN = rf"{_OPEN}[{_CAPITALS}]*[{_SMALL}]+|{_OPEN}[{_CAPITALS}]+[{_SMALL}]*|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
GPT4O = (rf"{_OPEN}[{_CAPITALS}]*[{_SMALL}]+{_SHORT}?|{_OPEN}[{_CAPITALS}]+[{_SMALL}]*{_SHORT}?|\p{{N}}{{1,3}}"
         r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")
_NO_HAN = "&&[^\\p{Han}]"
KIMI_K2 = (rf"[\p{{Han}}]+|{_OPEN}[{_CAPITALS}{_NO_HAN}]*[{_SMALL}{_NO_HAN}]+{_SHORT}?|{_OPEN}[{_CAPITALS}{_NO_HAN}]+[{_SMALL}{_NO_HAN}]*{_SHORT}?"
           r"|\p{N}{1,3}" + _TAIL)
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
BLOOM = r" ?[^(\s|.,!?…。，、।۔،)]+"
BAILING = r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
SEED = _SHORT + "|" + _OPEN + r"\p{L}+|\p{N}{1}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+"
DEEPSEEK3 = (r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*"""
             r"|\s*[\r\n]+|\s+(?!\S)|\s+")
# Letters with case in the alphabets that DeepSeek LLM's authors listed.
_CASED = (
    "A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟ-ώᾀ-ᾴᾶ-ᾼιῂ-ῄῆ-ῌῐ-ΐῖ-Ίῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝ"
    "ℤΩℨK-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃"
)
_EAST = "[一-龥ࠀ-一가-퟿]+"


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
            out += [pre_tokenizers.Digits(individual_digits=False), pre_tokenizers.Split(Regex("[0-9][0-9][0-9]"), "isolated")]
        return pre_tokenizers.Sequence(out)

    def normalizer(self) -> normalizers.Normalizer | None:
        return normalizers.NFC() if self.nfc else None


_GPT2, _CODE = Way(gpt2=True), Way(gpt2=True, digits=True)
_LLAMA3 = Way((LLAMA3,), ignore_merges=True, add_bos=True)
_QWEN2 = Way((QWEN2,))
_DEEPSEEK3 = Way((r"\p{N}{1,3}", "[一-龥぀-ゟ゠-ヿ]+", DEEPSEEK3))
_FALCON = Way(gpt2=True, punctuation=True, threes=True)

WAYS: dict[str, Way] = {
    "default": _FALCON,
    **dict.fromkeys(("llama3", "llama-v3", "llama-bpe", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2"), _LLAMA3),
    **dict.fromkeys(("dbrx", "smaug-bpe", "chatglm-bpe"), Way((LLAMA3,))),
    **dict.fromkeys(("glm4", "glm5"), Way((LLAMA3,), ignore_merges=True)),
    "qwen2": Way((QWEN2,), nfc=True),
    "qwen35": Way((QWEN35,), nfc=True),
    **dict.fromkeys(("deepseek-r1-qwen", "kormo", "megrez", "hunyuan", "solar-open", "grok-2", "stablelm2"), _QWEN2),
    "deepseek-llm": Way((r"[\r\n]", rf"\s?[{_CASED}]+", r"\s?[!-/:-~！-／：-～‘-‟　-。]+", r"\s+$", _EAST), digits=False),
    "deepseek-coder": Way((r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", _EAST, r"\p{N}")),
    **dict.fromkeys(("deepseek-v3", "hunyuan-dense", "joyai-llm"), _DEEPSEEK3),
    "falcon": _FALCON,
    **dict.fromkeys(("starcoder", "refact", "smollm", "codeshell", "exaone", "minerva-7b", "mellum2"), _CODE),
    "command-r": Way(gpt2=True, digits=True, nfc=True),
    "olmo": Way(gpt2=True, nfc=True),
    **dict.fromkeys(("gpt-2", "phi-2", "gigachat", "a.x-4.0", "mellum", "mpt", "jais", "trillion", "granite-docling", "exaone4"), _GPT2),
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
    """The way of that name. Raises TokenizerError for one that isn't known: a wrong guess would answer wrongly in silence."""
    if not isinstance(name, str) or name not in WAYS:
        raise TokenizerError("tokenizer.ggml.pre isn't known", where=where, found=repr(name),
                             hint="Give the model's original tokenizer with tokenizer_id.")
    return WAYS[name]
