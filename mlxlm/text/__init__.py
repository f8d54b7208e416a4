"""Text in and out of a model: tokenizer, chat template, detokenizer, stop strings; imports nothing."""
