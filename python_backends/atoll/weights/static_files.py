"""Files of a model that is a table of word vectors alone: StaticEmbedding and model2vec.

sentence-transformers' module reads tokenizer.json and the tensor; folders that model2vec wrote are
such modules too, unless they lack modules.json: then model2vec's own rules hold.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from atoll.errors import ConfigError
from atoll.weights.json_fields import Fields
from atoll.weights.modules import STATIC, read_modules, read_object

if TYPE_CHECKING:
    from atoll.weights.reader import CheckpointReader

# sentence-transformers' name of the table, and model2vec's.
TABLES = ("embedding.weight", "embeddings")
# model_type of config.json, which sentence-transformers does not write.
STATIC_TYPES = ("static", "model2vec")
RUNS_ON = "a table of word vectors"
# model2vec's row of each token, and the weight of each token.
MAPPING, WEIGHTS = "mapping", "weights"


class StaticFiles(NamedTuple):
    """folder: of tokenizer.json and the table. is_model2vec: whether model2vec's rules hold."""

    folder: Path
    is_model2vec: bool

    @property
    def max_tokens(self) -> int | None:
        """tokenizer.json's own truncation; None: there is none."""
        path = self.folder / "tokenizer.json"
        fields = Fields(read_object(path), str(path)).inside("truncation")
        return fields.size("max_length") if fields.raw else None

    @property
    def dropped_token(self) -> int | None:
        """The unknown token, which model2vec leaves out of a text's mean; None: none is."""
        if not self.is_model2vec:
            return None
        path = self.folder / "tokenizer.json"
        tokenizer: dict[str, Any] = read_object(path)
        model = tokenizer.get("model") or {}
        unknown, vocabulary = model.get("unk_token"), model.get("vocab")
        if unknown is None or not isinstance(vocabulary, dict):
            return None
        added = {t["content"]: t["id"] for t in tokenizer.get("added_tokens") or ()}
        found = vocabulary.get(unknown, added.get(unknown))
        if found is None:
            raise ConfigError(f"{path}: model.unk_token {unknown!r} is not in the vocabulary")
        return int(found)

    @property
    def has_weights(self) -> bool:
        """Whether there is a file that may have the table."""
        return any(any(self.folder.glob(kind)) for kind in ("*.safetensors", "*.bin"))

    @property
    def shape(self) -> tuple[int, int]:
        """Tokens that have a vector, and its width.

        Raises:
            ConfigError: there is no table. WeightError: there are no weights.
        """
        from atoll.weights.reader import CheckpointReader

        reader = CheckpointReader(self.folder)
        name = self.table(reader)
        rows, width = reader.shape(name)
        return reader.shape(MAPPING)[0] if MAPPING in reader else rows, width

    def table(self, reader: CheckpointReader) -> str:
        """The name of the table. Raises ConfigError: there is none, or another tensor."""
        name = next((name for name in TABLES if name in reader), None)
        if name is None or len(reader.shape(name)) != 2:
            raise ConfigError(f"{self.folder}: none of {', '.join(TABLES)} is a matrix")
        known = {name} if name == TABLES[0] else {name, MAPPING, WEIGHTS}
        left = sorted(set(reader.names()) - known)
        if left:
            raise ConfigError(f"{self.folder}: tensors {left} beside {name} are not supported")
        return name


def static_files(folder: Path) -> StaticFiles | None:
    """The files of such a model; None: the folder is none."""
    modules = read_modules(folder)
    if modules:
        is_static = modules[0].kind == STATIC
        return StaticFiles(folder / modules[0].path, False) if is_static else None
    is_own = read_object(folder / "config.json").get("model_type") == "model2vec"
    return StaticFiles(folder, True) if is_own else None
