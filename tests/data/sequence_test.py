"""Images from Python sequences: every form of image and label, the same pixels as from files."""

import numpy as np
import pytest
from PIL import Image

from softvq_jax.config.data import default_data_config
from softvq_jax.data import sequence, sources
from softvq_jax.data.pipeline import eval_batches, train_batches
from softvq_jax.data.sequence import SequenceSource
from softvq_jax.data.source import UnreadableImage
from tests.data import reported_inputs

PIXELS = [np.random.default_rng(i).integers(0, 256, (20, 24, 3), np.uint8) for i in range(6)]


def dataset():
    """What `data.path` names; each reading process calls it."""
    return [(pixels, i % 3) for i, pixels in enumerate(PIXELS)]


class TorchLike:
    """As `torchvision.datasets`: `classes`, no iteration."""

    classes = ("cat", "dog", "eel")

    def __len__(self):
        return 6

    def __getitem__(self, i):
        return Image.fromarray(PIXELS[i]), i % 3


class HubLike(TorchLike):
    """As Hugging Face `datasets`: dicts, and features that name the classes."""

    classes = None
    features = {"image": None, "label": type("ClassLabel", (), {"names": ["cat", "dog", "eel"]})}  # noqa: RUF012
    _fingerprint = "0123"

    def __getitem__(self, i):
        return {"image": Image.fromarray(PIXELS[i]), "label": i % 3}


class SubsetLike:
    """As a torch `Subset`, with all the items in order."""

    dataset = TorchLike()

    def __len__(self):
        return 6

    def __getitem__(self, i):
        return self.dataset[i]


class Tensor(np.ndarray):
    """As a torch tensor to NumPy: channels first."""


Tensor.__module__ = "torch"


def test_items_of_every_form_give_the_same_pixels():
    floats = np.float32(PIXELS[0]) / 255
    forms = {
        "PIL": Image.fromarray(PIXELS[0]),
        "bytes": reported_inputs.encoded(Image.fromarray(PIXELS[0])),
        "Hub bytes": {"bytes": reported_inputs.encoded(Image.fromarray(PIXELS[0])), "path": None},
        "array": PIXELS[0],
        "floats": floats,
        "tensor": floats.transpose(2, 0, 1).view(Tensor),
    }
    for name, image in forms.items():
        read, label = SequenceSource([(image, 1)])[0].read()
        np.testing.assert_array_equal(np.asarray(read), PIXELS[0], err_msg=name)
        assert label == 1 and read.mode == "RGB"
    gray, _ = SequenceSource([(PIXELS[0][..., 0], 0)])[0].read()
    np.testing.assert_array_equal(np.asarray(gray), np.repeat(PIXELS[0][..., :1], 3, 2))


@pytest.mark.parametrize(("items", "names"), [
    (dataset(), ("0", "1", "2")),
    (dataset, ("0", "1", "2")),
    (TorchLike(), ("cat", "dog", "eel")),
    (HubLike(), ("cat", "dog", "eel")),
    (SubsetLike(), ("cat", "dog", "eel")),
    ([(p, "abc"[i % 3]) for i, p in enumerate(PIXELS)], ("a", "b", "c")),
    (lambda: ((p, i % 3) for i, p in enumerate(PIXELS)), ("0", "1", "2")),
])  # fmt: skip
def test_sequences_and_functions(items, names):
    source = SequenceSource(items)
    assert len(source) == 6 and source.class_names == names
    for i, pixels in enumerate(PIXELS):
        image, label = source[i].read()
        np.testing.assert_array_equal(np.asarray(image), pixels)
        assert label == i % 3
    assert source.fingerprint() == SequenceSource(items).fingerprint()


def test_datasets_of_torch():
    """The real classes, where torch is installed."""
    data = pytest.importorskip("torch.utils.data")
    torch = pytest.importorskip("torch")

    class Photos(TorchLike, data.Dataset):
        pass

    tensors = data.TensorDataset(torch.from_numpy(np.stack(PIXELS)).permute(0, 3, 1, 2), torch.arange(6) % 3)
    for items, names in (
        (Photos(), TorchLike.classes), (data.Subset(Photos(), range(6)), TorchLike.classes), (tensors, ("0", "1", "2")),
    ):  # fmt: skip
        source = SequenceSource(items)
        assert source.class_names == names
        image, label = source[4].read()
        np.testing.assert_array_equal(np.asarray(image), PIXELS[4])
        assert label == 1


def test_datasets_of_hugging_face():
    """The real classes, where `datasets` is installed."""
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(image=datasets.Image(), label=datasets.ClassLabel(names=["cat", "dog", "eel"]))
    columns = {"image": [Image.fromarray(pixels) for pixels in PIXELS], "label": [i % 3 for i in range(6)]}
    whole = datasets.Dataset.from_dict(columns, features=features)
    for items in (whole, whole.with_format("torch"), whole.cast_column("image", datasets.Image(decode=False))):
        source = SequenceSource(items)
        assert source.class_names == ("cat", "dog", "eel")
        image, label = source[4].read()
        np.testing.assert_array_equal(np.asarray(image), PIXELS[4])
        assert label == 1
    with pytest.raises(TypeError, match=r"DatasetDict holds several sequences: give one of them, \['train'\]"):
        SequenceSource(datasets.DatasetDict(train=whole))
    with pytest.raises(TypeError, match="source IterableDataset: expected a sequence"):
        SequenceSource(whole.to_iterable_dataset())


def test_images_without_labels_have_no_class():
    assert SequenceSource(PIXELS).class_names == ("",) and SequenceSource(PIXELS)[3].read()[1] == 0


def test_the_fingerprint_follows_pixels_and_labels():
    found = {SequenceSource(items).fingerprint() for items in (
        dataset(), dataset()[:5], [(p, 2 - label) for p, label in dataset()], [(255 - p, label) for p, label in dataset()],
    )}  # fmt: skip
    assert len(found) == 4


@pytest.mark.parametrize(("items", "error", "message"), [
    ([], ValueError, "is empty"),
    ({"train": dataset(), "test": dataset()}, TypeError, r"several sequences: give one of them, \['train', 'test'\]"),
    (iter(dataset()), TypeError, r"expected a sequence with len\(\) and \[i\]"),
    ([(PIXELS[0].astype(float) - 9, 0)], ValueError, r"floats from -9 to .*expected 0 to 1"),
    ([(PIXELS[0][None], 0)], ValueError, r"uint8 \[1, 20, 24, 3\]; expected"),
    ([(PIXELS[0], -3)], ValueError, "label -3"),
    ([{"pixels": PIXELS[0]}], ValueError, "fields pixels; expected an image"),
])  # fmt: skip
def test_what_is_no_source_is_refused(items, error, message):
    with pytest.raises(error, match=message):
        SequenceSource(items)


def test_an_item_that_fails_is_an_unreadable_image():
    items = [*dataset()[:2], (np.zeros((4, 4, 7), np.uint8), 0)]
    with pytest.raises(UnreadableImage, match=r"item 2 of list: ValueError"):
        SequenceSource(items)[2].read()


@pytest.mark.parametrize("num_workers", [0, 2])
def test_batches_are_those_of_files(tmp_path, num_workers):
    """By import path as from a config, in threads and processes, against image files of the same order."""
    for i, pixels in enumerate(PIXELS):
        (tmp_path / str(i % 3)).mkdir(exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / str(i % 3) / f"{i}.png")
    order = [0, 3, 1, 4, 2, 5]  # of the files, by class
    held_out = [(PIXELS[i], i % 3) for i in order]
    common = {"holdout": 0.0, "num_workers": num_workers}
    python = default_data_config() | common | {"source": "python", "path": f"{__name__}:dataset"}
    files = default_data_config() | common | {"path": str(tmp_path)}
    arguments = {"image_size": 16, "seed": 3, "global_batch": 6}
    with train_batches(python, **arguments) as ours:
        batch = next(ours)
        assert sorted(batch["label"].tolist()) == [0, 0, 1, 1, 2, 2] and not batch["unreadable"].any()
    with eval_batches(files, image_size=16, global_batch=6, source=sources.training_source(files)) as theirs:
        expected = next(theirs)
    if num_workers:
        with pytest.raises(
            ValueError, match=r"list: data\.num_workers > 0 needs a source that other processes can open"
        ):
            sources.training_source(python, held_out)
        return
    with eval_batches(python, image_size=16, global_batch=6, source=held_out) as ours:
        batch = next(ours)
    np.testing.assert_array_equal(batch["image"], expected["image"])
    np.testing.assert_array_equal(batch["label"], expected["label"])


@pytest.mark.parametrize("path", ["tests.data.sequence_test", "tests.data.sequence_test:nothing", "no.module:x"])
def test_a_function_that_is_not_there_is_named(path):
    with pytest.raises(ValueError, match=r"data\.path='.*package\.module:function"):
        sequence.import_source(path)
