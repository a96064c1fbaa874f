"""The files of Marian's and M2M100's tokenizers as they are published, over small models of
sentencepiece."""

import json
from pathlib import Path

import sentencepiece

from atoll.text.languages import M2M100

DATA = Path(__file__).parents[2] / "data" / "sentencepiece"
MARIAN_LANGUAGES = ("deu", "fra", "cmn_Hans")


def write_marian_files(folder: Path, *, has_two: bool = False) -> tuple[int, int]:
    """Marian's; returns how many tokens texts and answers have. has_two: vocabularies."""
    ours, theirs = _pieces("xlm-roberta"), _pieces("t5")
    codes = [] if has_two else [f">>{code}<<" for code in MARIAN_LANGUAGES]
    # The first is one that the source's model does not know.
    source = _numbered("</s>", "<unk>", *ours, *([] if has_two else ["日本", *theirs]), *codes)
    target = _numbered("</s>", "<unk>", *theirs) if has_two else source
    for name, model in (("source.spm", "xlm-roberta"), ("target.spm", "t5")):
        (folder / name).write_bytes((DATA / f"{model}.model").read_bytes())
    config = {"source_lang": "eng", "target_lang": "mul", "tokenizer_class": "MarianTokenizer"}
    _write(folder, vocab=source, tokenizer_config={**config, "separate_vocabs": has_two})
    if has_two:
        _write(folder, target_vocab=target)
    return len(source), len(target)


def write_m2m100_files(folder: Path) -> int:
    """M2M100's; returns how many tokens there are, with those that were made up."""
    numbered = _numbered("<s>", "<pad>", "</s>", "<unk>", *_pieces("xlm-roberta"), pad=False)
    (folder / "sentencepiece.bpe.model").write_bytes((DATA / "xlm-roberta.model").read_bytes())
    special = {
        "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "sep_token": "</s>",
        "pad_token": "<pad>", "additional_special_tokens": [f"__{code}__" for code in M2M100],
    }  # fmt: skip
    _write(
        folder, vocab=numbered, special_tokens_map=special,
        tokenizer_config={"src_lang": None, "tgt_lang": None, "tokenizer_class": "M2M100Tokenizer"},
    )  # fmt: skip
    return len(numbered) + len(M2M100) + 8


def _pieces(name: str) -> list[str]:
    model = sentencepiece.SentencePieceProcessor(model_file=str(DATA / f"{name}.model"))
    return [model.id_to_piece(i) for i in range(model.get_piece_size())]


def _numbered(*tokens: str, pad: bool = True) -> dict[str, int]:
    """Each token once, in order; the padding token is Marian's last, which has no <s>."""
    first = dict.fromkeys(token for token in tokens if not (pad and token in ("<pad>", "<s>")))
    return {token: index for index, token in enumerate([*first, *(["<pad>"] if pad else [])])}


def _write(folder: Path, **files: object) -> None:
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
