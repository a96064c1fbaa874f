"""Sections of docs/models.md on models that are asked otherwise than generators: translators, and
those that transcribe."""

from __future__ import annotations


def translation_section() -> list[str]:
    """How encoder-decoders are told the languages, and what they do not do."""
    return [
        "## Translation and summaries",
        "",
        "NLLB, M2M100, mBART and mBART-50 take two options, called as in transformers: `src_lang`, "
        "the language of the text (by default that of tokenizer_config.json, else English), and "
        "`tgt_lang`, that of the answer. Codes are those of the checkpoint's tokenizer (NLLB: "
        "`fra_Latn`; mBART: `fr_XX`; M2M100: `fr`), which `languages` lists in the model's facts; "
        "another code is refused with those that are alike. Without `tgt_lang` an answer begins as "
        "generation_config.json says by `forced_bos_token_id`, and where it does not, in whatever "
        "language the model prefers. `forced_bos_token_id` is an option of every encoder-decoder, "
        "too; the token is given to the decoder and is not part of the answer.",
        "",
        "Of Marian (OPUS-MT), only models of several target languages are told one, in front of "
        "the text: `>>deu<<`, in the text itself or by `tgt_lang` `deu`. The language of the text "
        "is not told, and `src_lang` is refused.",
        "",
        "Where generation_config.json says `num_beams`, answers are searched for with as many "
        "beams, unless a request says `num_beams` 1, samples, has a grammar or a watermark, or is "
        "a turn of a conversation. `length_penalty`, `early_stopping`, `no_repeat_ngram_size` and "
        "`forced_eos_token_id` of the files come with it; `atoll info` shows them. All of them are "
        "options of requests to every generator without recurrent layers ([beam search]"
        "(serve.md#beam-search)).",
        "",
        "`bad_words_ids`, `suppress_tokens`, `begin_suppress_tokens` and `forced_eos_token_id` of "
        "generation_config.json hold for every answer of every generator, as in transformers, and "
        "are options of requests, too. `ignore_eos` lifts the last, but for a search. An answer "
        "that a forced token ends has the finish reason of one that is cut off. An "
        "encoder-decoder's `max_length` is how long answers to requests without `max_tokens` are; "
        "OpenAI's completions (16) and TGI's routes (100) have defaults of their own.",
        "",
        "An input and its answer have max_position_embeddings tokens each. Tokenizers are read "
        "from tokenizer.json; of M2M100 and Marian, as transformers does, from vocab.json and "
        "sentencepiece.bpe.model or source.spm, and of mBART and mBART-50 from the latter where "
        "there is no tokenizer.json.",
    ]


def speech_section() -> list[str]:
    """How sounds are transcribed, and what is not done."""
    return [
        "## Speech",
        "",
        "Whisper and Distil-Whisper are served for the task `transcribe`. A request has the bytes "
        "of an audio file (`audio`: WAV, FLAC, MP3 or OGG, or a data URI of one; any sampling rate "
        "and number of channels) or samples at 16 kHz (`waveform`, FP32), and, as `text_input`, a "
        "text that the transcript follows, of which the model looks at the last 223 tokens. "
        "Options: `language` (a code or an English name; detected from the first 30 s if it is not "
        "set), `task` (`transcribe`, or `translate` into English), `temperature` (0: greedy; up to "
        "1), `seed`, `timestamps` (false: one segment without times, of at most 30 s) and `stream` "
        "(a response for each window). The answer has the text, its segments as OpenAI's "
        "verbose_json has them (without `no_speech_prob`), the language and the duration. "
        "max_audio_bytes and max_audio_seconds limit a sound.",
        "",
        "Longer sounds are heard in windows of 30 s, each of which begins where the last complete "
        "segment of the one before ended: transformers' algorithm for long sounds, with which "
        "segments agree. What follows a sound's end in its window is zeros, as there and in "
        "OpenAI's own code; transformers' generate for one short sound puts the spectrogram of "
        "silence there, which may change what is heard. Not done: decoding again at other "
        "temperatures where a text repeats "
        "itself, skipping silence, text of earlier windows as a prompt of later ones, times of "
        "words, beam search; a generation_config.json that asks for one of these is refused. "
        "`avg_logprob` is by the model's own scores, before any token is ruled out. Conversations, "
        "LoRA adapters and speculation are for generators alone; num_shard divides Whisper as any "
        "other model.",
    ]
