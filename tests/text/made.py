"""Tokenizers of every kind, trained here on a little text, so that tests need no download."""

from functools import cache

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

CORPUS = [
    "The quick brown fox jumps over the lazy dog. It's a dog's life, isn't it?",
    "Hello, world! Hello again, world; we've been here before, and they're here too.",
    "def add(a, b):\n    return a + b\n\n\nprint(add(1, 2))  # 3",
    "Grüße aus Köln, ça va? Привет, мир! 你好，世界。こんにちは 🙂👩‍👩‍👧",
    "  spaces   and\ttabs\r\n and newlines \n\n",
    "Don't stop; I'll go, you'd stay. 1234567890 + 42 = 1234567932",
] * 3

LLAMA3_SPLIT = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
                r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
QWEN_SPLIT = LLAMA3_SPLIT.replace(r"\p{N}{1,3}", r"\p{N}")

TEXTS = [
    "", " ", "Hello, world!", "  two  spaces ", "\n\n", "Grüße 你好 🙂 👩‍👩‍👧 ẞ", "dog's isn't", "a\x00b",
    "\t\r\n",
    "<s>hi</s>", "<|begin_of_text|>x<|eot_id|>", "<bos>a<eos>", "[CLS] dog [SEP] [MASK]", "unknown ☃ ༀ",
    " lead", "trail ", "123456 7", "<|im_start|>user\nHi<|im_end|>\n", "word" * 50, "<unk>", "ﬁ e\u0301 Å",
    "<s> hi </s> there<s>", "a<tool é>b",
]


def byte_level(split=None, specials=("<|endoftext|>", "<|im_start|>", "<|im_end|>"), bos=None, nfc=False):
    tokenizer = Tokenizer(models.BPE())
    if nfc:
        tokenizer.normalizer = normalizers.NFC()
    if split is None:
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
            pre_tokenizers.Split(Regex(split), behavior="isolated", invert=False),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=420, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
                                  show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.add_special_tokens(list(specials))
    tokenizer.add_tokens([AddedToken("<tool é>", special=False, normalized=False)])
    if bos:
        template = processors.TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A {bos}:1 $B:1",
            special_tokens=[(bos, tokenizer.token_to_id(bos))])
        tokenizer.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), template])
    else:
        tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    return tokenizer


def _spm_bpe(specials):
    """A trained BPE over ▁-text, rebuilt with byte fallback and the ids that sentencepiece gives."""
    trained = Tokenizer(models.BPE())
    trained.normalizer = normalizers.Replace(" ", "▁")
    trained.pre_tokenizer = pre_tokenizers.Split(Regex("(?<=.)(?=▁)"), behavior="isolated")
    trained.train_from_iterator([line.split("你")[0] for line in CORPUS],
                                trainers.BpeTrainer(vocab_size=300, show_progress=False))
    import json

    data = json.loads(trained.to_str())["model"]
    pieces = [*specials, *(f"<0x{byte:02X}>" for byte in range(256)), *data["vocab"]]
    vocab = {piece: index for index, piece in enumerate(dict.fromkeys(pieces))}
    merges = [tuple(merge) for merge in data["merges"]]
    return models.BPE(vocab=vocab, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)


def llama_spm(post=True, legacy=False, scheme="first"):
    tokenizer = Tokenizer(_spm_bpe(["<unk>", "<s>", "</s>"]))
    strip = [decoders.Strip(" ", 1, 0)]
    if legacy:
        tokenizer.normalizer = normalizers.Sequence(
            [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace("▁", prepend_scheme=scheme, split=False)
        strip = strip if scheme != "never" else []
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *strip])
    tokenizer.add_special_tokens(
        [AddedToken(t, normalized=False, special=True) for t in ("<unk>", "<s>", "</s>")])
    if post:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A", pair="<s> $A <s>:1 $B:1", special_tokens=[("<s>", 1)])
    return tokenizer


def gemma_spm(post=True):
    tokenizer = Tokenizer(_spm_bpe(["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", behavior="merged_with_previous", invert=False)
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.add_special_tokens(
        [AddedToken(t, normalized=False, special=True) for t in ("<pad>", "<eos>", "<bos>", "<unk>")])
    tokenizer.add_tokens([AddedToken("<start_of_turn>", special=False, normalized=False)])
    if post:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<bos> $A", pair="<bos> $A <bos>:1 $B:1", special_tokens=[("<bos>", 2)])
    return tokenizer


def unigram():
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC()])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.train_from_iterator(CORPUS, trainers.UnigramTrainer(
        vocab_size=250, unk_token="<unk>", special_tokens=["<pad>", "</s>", "<unk>"], show_progress=False))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", tokenizer.token_to_id("</s>"))])
    return tokenizer


def word_piece():
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(prefix="##")
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer.train_from_iterator(CORPUS, trainers.WordPieceTrainer(
        vocab_size=250, special_tokens=names, show_progress=False))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    return tokenizer


def end_of_word():
    """GPT-1 and CLIP's older way: a suffix that means a space."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", end_of_word_suffix="</w>"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.BPEDecoder(suffix="</w>")
    tokenizer.train_from_iterator(CORPUS, trainers.BpeTrainer(
        vocab_size=260, special_tokens=["<unk>"], end_of_word_suffix="</w>", show_progress=False))
    return tokenizer


def no_decoder():
    tokenizer = Tokenizer(models.WordLevel(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.train_from_iterator(CORPUS, trainers.WordLevelTrainer(
        special_tokens=["<unk>"], show_progress=False))
    return tokenizer


def with_decoder(decoder):
    tokenizer = llama_spm()
    tokenizer.decoder = decoder
    return tokenizer


KINDS = {
    "gpt2": byte_level,
    "llama3": lambda: byte_level(LLAMA3_SPLIT, ("<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"),
                                 bos="<|begin_of_text|>"),
    "qwen2": lambda: byte_level(QWEN_SPLIT, nfc=True),
    "llama2": llama_spm,
    "llama2 legacy": lambda: llama_spm(legacy=True),
    "llama2 bare": lambda: llama_spm(post=False),
    "gemma": gemma_spm,
    "unigram": unigram,
    "word piece": word_piece,
    "end of word": end_of_word,
    "no decoder": no_decoder,
    "regex replace": lambda: with_decoder(decoders.Sequence(
        [decoders.Replace(Regex("[▁e]+"), " "), decoders.ByteFallback(), decoders.Fuse(),
         decoders.Replace("  ", "_"), decoders.Strip(" ", 2, 0)])),
    "strip each": lambda: with_decoder(decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.Strip(" ", 1, 0), decoders.ByteFallback()])),
    "metaspace never": lambda: with_decoder(decoders.Metaspace(prepend_scheme="never")),
}


@cache
def kind(name: str) -> Tokenizer:
    return KINDS[name]()
