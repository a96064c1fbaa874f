"""Models for texts and images against transformers and sentence-transformers."""

from __future__ import annotations

import json
import shutil
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from devices import DEVICE
from PIL import Image
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules.transformer import Transformer
from sentence_transformers.models import Normalize
from tiny.encoder_sizes import VOCAB
from tiny.sentence import update
from tiny.towers import TOWERS, Towers, encoded, picture, write_towers
from torch import Tensor

from atoll.config import Settings
from atoll.encoders.embedder import Embedded, EmbedOptions
from atoll.encoders.packer import Item, batch_of
from atoll.encoders.two_tower_embedder import TwoTowerEmbedder
from atoll.errors import ConfigError, UnsupportedModel
from atoll.images.processor import ImageProcessor
from atoll.images.reader import ImageLimits
from atoll.models.detect import decide
from atoll.text.tokenizer import Tokenizer

LIMITS = ImageLimits(1_000_000, 1_000_000)
GENERATOR = torch.Generator().manual_seed(5)
# As a tokenizer makes them: the third spells the end in its midst, and the last has none.
TEXTS = [
    [2, *torch.randint(5, VOCAB, (n,), generator=GENERATOR).tolist(), 3] for n in (1, 9, 4)
] + [[2, 7, 3, 9, 90, 3], [2, 8, 9]]
IMAGES = [
    encoded(picture(32, 32)),
    encoded(picture(57, 41, 1), "JPEG", quality=90),
    encoded(picture(20, 75, 2), "WEBP", lossless=True),
    encoded(picture(40, 33, 3, "L")),
    encoded(picture(9, 200, 4, "RGBA")),
]


def _settings(**given: Any) -> Settings:
    return Settings(**{"dtype": "float32", "device": str(DEVICE), **given})


def _text(encoder: TwoTowerEmbedder, ids: list[int]) -> Item:
    length = encoder.padded_length
    filled = ids if length is None else ids + [0] * (length - len(ids))
    return Item(np.array(filled, np.int32), lambda _: None, options=EmbedOptions(normalize=False))


def _image(encoder: TwoTowerEmbedder, image: bytes) -> Item:
    ids = np.zeros(encoder.tokens_per_image, np.int32)
    pixels = encoder.images.patches("image", image, LIMITS)
    return Item(ids, lambda _: None, options=EmbedOptions(normalize=False), pixels=pixels)


def _run(encoder: TwoTowerEmbedder, items: list[Item]) -> list[Tensor]:
    with torch.inference_mode():
        found: list[Any] = encoder(batch_of(items, DEVICE), items)
    for one in found:
        assert isinstance(one, Embedded), one
    return [torch.from_numpy(one.vector) for one in found]


def _close(ours: Tensor, reference: Tensor) -> None:
    limit = 1e-5 * max(1.0, float(reference.std(correction=0)))
    assert float((ours.double() - reference.double()).abs().max()) <= limit


@pytest.mark.parametrize("name", [v.name for v in TOWERS])
def test_vectors_equal_transformers(name: str, tmp_path: Path) -> None:
    """Of a batch of texts and images by turns, and of each alone."""
    reference = write_towers(name, tmp_path)
    encoder = TwoTowerEmbedder(tmp_path, _settings())
    wanted = [v for pair in zip(TEXTS, IMAGES, strict=True) for v in
              (reference.text(pair[0]), reference.image(pair[1]))]  # fmt: skip
    items = [i for pair in zip(TEXTS, IMAGES, strict=True) for i in
             (_text(encoder, pair[0]), _image(encoder, pair[1]))]  # fmt: skip
    for ours, theirs, item in zip(_run(encoder, items), wanted, items, strict=True):
        _close(ours, theirs)
        _close(_run(encoder, [item])[0], ours)
    assert encoder.dimensions == len(wanted[0]) == decide(tmp_path, _settings()).embedding_size


def _pixels(processor: ImageProcessor, image: bytes) -> Tensor:
    """(1, colours, rows, columns) from patches."""
    size, scaling = processor.patch_size, processor.scaling
    patches = torch.from_numpy(processor.patches("image", image, LIMITS)).double()
    count = round(len(patches) ** 0.5)
    grid = patches.view(count, count, 3, size, size).permute(2, 0, 3, 1, 4)
    values = grid.reshape(1, 3, count * size, count * size) * scaling.factor
    mean, std = (torch.tensor(v).double().view(3, 1, 1) for v in (scaling.mean, scaling.std))
    return (values - mean) / std


PROCESSORS: dict[str, dict[str, Any]] = {
    "as-saved": {},
    "old": {"size": 32, "crop_size": 32, "feature_extractor_type": "CLIPFeatureExtractor"},
    "bilinear": {"resample": 2},
    "lanczos": {"resample": 1},
    "smaller-than-the-crop": {"size": {"shortest_edge": 21}},
    "odd": {"size": {"shortest_edge": 45}},
    "no-resize": {"do_resize": False},
    "no-rescale": {"do_rescale": False},
    "no-normalize": {"do_normalize": False},
    "stretched": {"size": {"height": 32, "width": 32}, "do_center_crop": False},
}


@pytest.mark.parametrize("name", PROCESSORS)
def test_pixels_equal_transformers(name: str, tmp_path: Path) -> None:
    """``CLIPImageProcessorPil``, as it reads the same file."""
    towers = write_towers("clip", tmp_path)
    path = tmp_path / "preprocessor_config.json"
    raw = {**json.loads(path.read_text()), **PROCESSORS[name]}
    path.write_text(json.dumps(raw))
    towers = Towers(towers.model, type(towers.processor).from_pretrained(tmp_path), None)
    ours = ImageProcessor.read(tmp_path, "clip", 32, 8)
    for image in IMAGES:
        torch.testing.assert_close(
            _pixels(ours, image), towers.pixels(image).double(), atol=1e-6, rtol=1e-6
        )
    # Where transformers 5 saves it with the tokenizer.
    path.unlink()
    (tmp_path / "processor_config.json").write_text(json.dumps({"image_processor": raw}))
    assert ImageProcessor.read(tmp_path, "clip", 32, 8) == ours


def test_a_turned_photo_is_turned(tmp_path: Path) -> None:
    """EXIF's orientation, as ``load_image`` of transformers applies it."""
    towers = write_towers("clip", tmp_path)
    photo = picture(50, 40, 6)
    exif = photo.getexif()
    exif[0x0112] = 6
    turned = encoded(photo, "JPEG", exif=exif)
    ours = ImageProcessor.read(tmp_path, "clip", 32, 8)
    torch.testing.assert_close(
        _pixels(ours, turned), towers.pixels(turned).double(), atol=1e-6, rtol=1e-6
    )
    assert not torch.equal(_pixels(ours, turned), _pixels(ours, encoded(photo, "JPEG")))


WRONG_PROCESSORS = {
    "size": {"size": {"longest_edge": 32}},
    "crop_size": {"crop_size": {"height": 30, "width": 32}},
    "image_mean": {"image_mean": [0.5, 0.5]},
    "image_std": {"image_std": [0.5, 0.0, 0.5]},
    "resample": {"resample": 9},
    "do_pad": {"do_pad": True},
    "do_resize": {"do_resize": "yes"},
    "rescale_factor": {"rescale_factor": 0},
    "image_processor_type": {"image_processor_type": "ViTImageProcessor"},
}


@pytest.mark.parametrize("key", WRONG_PROCESSORS)
def test_wrong_keys_of_the_processor_are_named(key: str, tmp_path: Path) -> None:
    write_towers("clip", tmp_path)
    path = tmp_path / "preprocessor_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **WRONG_PROCESSORS[key]}))
    with pytest.raises(ConfigError, match=key):
        TwoTowerEmbedder(tmp_path, _settings())


def test_without_a_file_for_images(tmp_path: Path) -> None:
    write_towers("siglip", tmp_path)
    (tmp_path / "preprocessor_config.json").unlink()
    with pytest.raises(ConfigError, match="preprocessor_config.json is missing"):
        TwoTowerEmbedder(tmp_path, _settings())


@pytest.mark.parametrize(
    ("part", "key", "value"),
    [("vision_config", "vision_use_head", False), ("vision_config", "hidden_size", 48),
     ("text_config", "projection_size", 48)],
)  # fmt: skip
def test_vectors_of_different_sizes_are_refused(
    part: str, key: str, value: Any, tmp_path: Path
) -> None:
    write_towers("siglip", tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    config[part][key] = value
    path.write_text(json.dumps(config))
    with pytest.raises(ConfigError, match=key):
        TwoTowerEmbedder(tmp_path, _settings())


def test_an_old_config_of_the_text_goes_first(tmp_path: Path) -> None:
    """``text_config_dict`` of old files: what it leaves out is the class's, not text_config's."""
    write_towers("clip", tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    vectors = _run(encoder := TwoTowerEmbedder(tmp_path, _settings()), [_text(encoder, TEXTS[1])])
    kept = {k: v for k, v in config["text_config"].items() if k != "hidden_act"}
    config["text_config_dict"] = kept
    config["text_config"]["hidden_act"] = "relu"
    path.write_text(json.dumps(config))
    again = _run(encoder := TwoTowerEmbedder(tmp_path, _settings()), [_text(encoder, TEXTS[1])])
    assert torch.equal(vectors[0], again[0])


def test_other_tasks_and_parts_are_refused(tmp_path: Path) -> None:
    write_towers("clip", tmp_path)
    with pytest.raises(UnsupportedModel, match="embeds texts and images"):
        decide(tmp_path, _settings(task="rerank"))
    with pytest.raises(ConfigError, match="pooling is 'mean'"):
        decide(tmp_path, _settings(pooling="mean"))
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "architectures": ["CLIPForImageClassification"]}))
    with pytest.raises(UnsupportedModel, match="CLIPForImageClassification"):
        decide(tmp_path, _settings())


@pytest.fixture(scope="module")
def by_sentence_transformers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CLIP as sentence-transformers 6 saves it: at the top, with its processor in one file."""
    folder = tmp_path_factory.mktemp("sentence")
    write_towers("clip", folder / "plain")
    update(folder / "plain" / "tokenizer_config.json", tokenizer_class="TokenizersBackend")
    trunk = Transformer(str(folder / "plain"))
    SentenceTransformer(modules=[trunk, Normalize()], device="cpu").save(str(folder / "saved"))
    return folder / "saved"


@pytest.mark.parametrize("layout", ["saved", "0_CLIPModel"])
def test_vectors_equal_sentence_transformers(
    layout: str, by_sentence_transformers: Path, tmp_path: Path
) -> None:
    """The other layout is that of clip-ViT-B-32."""
    folder, trunk = by_sentence_transformers, by_sentence_transformers
    if layout != "saved":
        folder, trunk = tmp_path, tmp_path / layout
        shutil.copytree(by_sentence_transformers, trunk)
        for name in ("modules.json", "sentence_bert_config.json"):
            (trunk / name).unlink()
        kind = "sentence_transformers.models.CLIPModel"
        modules = [{"idx": 0, "name": "0", "path": layout, "type": kind}]
        (folder / "modules.json").write_text(json.dumps(modules))
    model = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    found = decide(folder, _settings())
    assert (found.task, found.takes_images, found.embedding_size) == ("embed", True, 24)
    encoder = TwoTowerEmbedder(folder, _settings())
    core = Tokenizer.load(folder).core
    items = [_text(encoder, core.encode("coral").ids), _image(encoder, IMAGES[0])]
    for item in items:
        item.options = EmbedOptions(normalize=layout == "saved")
    picture_of = Image.open(BytesIO(IMAGES[0]))
    for ours, given in zip(_run(encoder, items), ("coral", picture_of), strict=True):
        _close(ours, torch.from_numpy(model.encode(given)))
