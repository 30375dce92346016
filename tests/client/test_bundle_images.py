"""Networks of images as MONAI bundles, read and run by MONAI's own tools."""

import hashlib
import json
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from fedward.client.bundle import bundle_network, read_bundle, write_bundle
from fedward.client.bundle_images import ImageNetwork
from fedward.client.bundle_inference import MaskInference, cases_in, label_map
from fedward.client.model_file import TrainedModel, unsigned_header
from fedward.common.config.loader import run_config_from_dict
from fedward.common.errors import SiteDataError
from fedward.common.tables.schema import TableSchema, load_schema

nibabel = pytest.importorskip("nibabel")
monai_bundle = pytest.importorskip("monai.bundle")
pytestmark = [
    pytest.mark.slow,  # importing MONAI
    # MONAI says of every configuration that it runs code; these are our own.
    pytest.mark.filterwarnings("ignore:parsing config_file:UserWarning"),
    # Its readers look for a decoder on a GPU.
    pytest.mark.filterwarnings("ignore:NvImgCodecPydicomReader:UserWarning"),
]

META_SCHEMA = Path(__file__).with_name("monai_meta_schema.json")
UNET = {"name": "basic-unet", "features": [4, 4, 8, 8, 8, 4]}
FUSION = {"name": "uscnet", "preset": "smoke"}
CLASSIFIER = {"name": "resnet3d"}


def schema(**changes: Any) -> TableSchema:
    known = load_schema("ct-stones")
    return known.model_copy(update=changes)


def trained(
    model: Mapping[str, Any],
    *,
    size: tuple[int, ...] = (32, 32, 32),
    of: TableSchema | None = None,
    **image: Any,
) -> TrainedModel:
    """Return a model with random weights, as if it had been trained."""
    rows = "slice" if len(size) == 2 else "lesion"
    config = run_config_from_dict(
        {
            "version": 1,
            "name": "stones",
            "seed": 1,
            "task": "ct-lesions",
            "data": {
                "schema": "ct-stones",
                "image": {"size": size, "rows": rows, "window": [-200, 1800], **image},
            },
            "model": dict(model),
            "loss": {"weights": "fixed"},
            "strategy": {"name": "fedavg"},
            "rounds": 1,
            "local": {"epochs": 1, "batch_size": 4, "learning_rate": 0.01},
        }
    )
    known = of or schema()
    empty = TrainedModel(unsigned_header(config, known), {}, None, "global")
    state = empty.study().new_model().state_dict()
    return TrainedModel(empty.header, state, None, "global")


@pytest.fixture(scope="module")
def unet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = trained(UNET, spacing_mm=[1, 1, 1])
    return write_bundle(model, tmp_path_factory.mktemp("bundles") / "unet")


def metadata_of(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "configs" / "metadata.json").read_text("utf-8"))
    return content


def write_scan(folder: Path, *, size: tuple[int, int, int] = (20, 24, 18)) -> Path:
    """Write a scan of water with one bright cube, 2 mm apart, in nibabel's order W, H, D."""
    folder.mkdir(parents=True, exist_ok=True)
    voxels = np.random.default_rng(0).normal(0, 20, size).astype(np.float32)
    voxels[8:12, 8:12, 8:12] = 1500
    path = folder / "scan.nii.gz"
    nibabel.save(nibabel.Nifti1Image(voxels, np.diag([2.0, 2.0, 2.0, 1.0])), path)
    return path


def run(folder: Path, out: Path) -> None:
    monai_bundle.run(
        config_file=str(folder / "configs" / "inference.json"),
        meta_file=str(folder / "configs" / "metadata.json"),
        logging_file=False,
        bundle_root=str(folder),
        dataset_dir=str(out / "images"),
        output_dir=str(out / "predictions"),
    )


def test_the_metadata_of_an_image_network_say_what_goes_in_and_out(unet: Path) -> None:
    formats = metadata_of(unet)["network_data_format"]
    image = formats["inputs"]["image"]
    assert (image["modality"], image["format"]) == ("CT", "hounsfield")
    assert (image["spatial_shape"], image["value_range"]) == ([32, 32, 32], [0, 1])
    assert image["channel_def"] == {"0": "-200 to 1800 HU as 0 to 1"}
    assert formats["inputs"]["features"]["num_channels"] == 22
    mask = formats["outputs"]["pred"]
    assert (mask["num_channels"], mask["channel_def"]) == (1, {"0": "stone, logit"})
    assert list(formats["outputs"]) == ["pred"]


def test_a_network_that_segments_and_classifies_names_both_outputs(tmp_path: Path) -> None:
    folder = write_bundle(trained(UNET | {"class_head": True}), tmp_path / "both")
    outputs = metadata_of(folder)["network_data_format"]["outputs"]
    assert outputs["pred"]["channel_def"] == {"0": "stone, logit"}
    assert outputs["label"]["channel_def"] == {"0": "non-infectious", "1": "infectious"}
    image = torch.rand(2, 1, 32, 32, 32)
    assert bundle_network(str(folder)).eval()(image).shape == (2, 1, 32, 32, 32)
    assert bundle_network(str(folder), "label").eval()(image).shape == (2, 2)


def fits(value: Any, rule: Mapping[str, Any], whole: Mapping[str, Any], place: str) -> list[str]:
    """Return where `value` breaks the few rules of JSON Schema that MONAI's schema has."""
    if "$ref" in rule:
        rule = whole["$defs"][rule["$ref"].rpartition("/")[2]]
    kinds: dict[str, Any] = {
        "object": dict, "array": list, "string": str, "boolean": bool, "integer": int,
        "number": (int, float),
    }  # fmt: skip
    allowed = [rule["type"]] if isinstance(rule["type"], str) else rule["type"]
    if not any(isinstance(value, kinds[kind]) for kind in allowed):
        return [f"{place}: no {allowed}"]
    broken = []
    if isinstance(value, dict):
        broken = [f"{place}.{key}: missing" for key in rule.get("required", ()) if key not in value]
        for key, part in value.items():
            inner = rule.get("properties", {}).get(key, rule.get("additionalProperties"))
            if inner is not None:
                broken += fits(part, inner, whole, f"{place}.{key}")
    if isinstance(value, list) and "items" in rule:
        for number, part in enumerate(value):
            broken += fits(part, rule["items"], whole, f"{place}[{number}]")
    return broken


def test_the_metadata_are_what_the_bundle_specification_asks_for(unet: Path) -> None:
    rules = json.loads(META_SCHEMA.read_text("utf-8"))
    metadata = metadata_of(unet)
    assert fits(metadata, rules, rules, "metadata") == []
    del metadata["network_data_format"]["inputs"]["image"]["channel_def"]
    metadata["task"] = 3
    assert fits(metadata, rules, rules, "metadata") == [
        "metadata.task: no ['string']",
        "metadata.network_data_format.inputs.image.channel_def: missing",
    ]


def test_monai_verifies_the_metadata(unet: Path, tmp_path: Path) -> None:
    pytest.importorskip("jsonschema", reason="MONAI checks metadata with it")
    # MONAI downloads the schema unless the file is there.
    local = tmp_path / "schema.json"
    local.write_bytes(META_SCHEMA.read_bytes())
    own = {
        "filepath": str(local),
        "hash_val": hashlib.sha256(META_SCHEMA.read_bytes()).hexdigest(),
        "hash_type": "sha256",
    }
    monai_bundle.verify_metadata(meta_file=str(unet / "configs" / "metadata.json"), **own)
    broken = metadata_of(unet)
    del broken["authors"]
    (tmp_path / "broken.json").write_text(json.dumps(broken), "utf-8")
    with pytest.raises(ValueError, match="against schema"):
        monai_bundle.verify_metadata(meta_file=str(tmp_path / "broken.json"), **own)


@pytest.mark.parametrize(
    ("model", "size"),
    [(UNET, (32, 32, 32)), (UNET, (32, 32)), (FUSION, (32, 32, 32)), (CLASSIFIER, (32, 32, 32))],
    ids=["unet", "unet-2d", "uscnet", "resnet3d"],
)
def test_monai_verifies_what_goes_in_and_out(
    model: Mapping[str, Any], size: tuple[int, ...], tmp_path: Path
) -> None:
    folder = write_bundle(trained(model, size=size), tmp_path / "bundle")
    monai_bundle.verify_net_in_out(
        "network_def",
        meta_file=str(folder / "configs" / "metadata.json"),
        config_file=str(folder / "configs" / "inference.json"),
        device="cpu",
        bundle_root=str(folder),
    )


def test_monai_finds_all_that_an_inference_workflow_needs(unet: Path, tmp_path: Path) -> None:
    write_scan(tmp_path)
    workflow = monai_bundle.ConfigWorkflow(
        config_file=str(unet / "configs" / "inference.json"),
        logging_file=False,
        workflow_type="inference",
        bundle_root=str(unet),
        dataset_dir=str(tmp_path),
    )
    workflow.initialize()
    assert workflow.check_properties() == []


def test_the_weights_of_a_bundle_load_into_the_network_that_it_names(unet: Path) -> None:
    network = bundle_network(str(unet))
    state = torch.load(unet / "models" / "model.pt", weights_only=True)
    assert list(network.state_dict()) == list(state)
    network.load_state_dict({name: torch.zeros_like(tensor) for name, tensor in state.items()})
    assert not any(parameter.any() for parameter in network.parameters())


def test_monai_runs_a_bundle_on_a_scan_and_the_mask_lies_on_its_grid(
    unet: Path, tmp_path: Path
) -> None:
    scan = nibabel.load(write_scan(tmp_path / "images"))
    run(unet, tmp_path)
    mask = nibabel.load(tmp_path / "predictions" / "scan_mask.nii.gz")
    assert mask.shape == scan.shape
    np.testing.assert_allclose(mask.affine, scan.affine, atol=1e-5)
    assert mask.get_data_dtype() == np.uint8
    assert set(np.unique(np.asarray(mask.dataobj))) <= {0, 1}
    assert stat.S_IMODE((tmp_path / "predictions").stat().st_mode) == 0o700


class Bright(torch.nn.Module):
    """Finds what is brighter than half the window: a mask whose truth is known."""

    def __init__(self) -> None:
        super().__init__()
        self.steepness = torch.nn.Parameter(torch.tensor(20.0))

    def forward(self, batch: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {"mask": self.steepness * (batch["image"] - 0.5)}


@pytest.mark.parametrize("turned", [False, True], ids=["as-is", "turned"])
def test_the_mask_of_a_known_network_is_in_the_right_place(
    turned: bool,
    unet: Path,
    tmp_path: Path,
) -> None:
    path = write_scan(tmp_path / "images")
    if turned:  # the same scan, its axes in another order and direction
        image = nibabel.load(path)
        target = nibabel.orientations.axcodes2ornt("PIR")
        turn = nibabel.orientations.ornt_transform(nibabel.io_orientation(image.affine), target)
        nibabel.save(image.as_reoriented(turn), path)
    parser = monai_bundle.ConfigParser()
    parser.read_config(str(unet / "configs" / "inference.json"))
    parser["network_def"] = ImageNetwork(Bright())
    parser["dataset_dir"], parser["output_dir"] = str(path.parent), str(tmp_path / "found")
    parser.get_parsed_content("evaluator").run()
    found = np.asarray(nibabel.load(tmp_path / "found" / "scan_mask.nii.gz").dataobj) > 0
    truth = nibabel.load(path).get_fdata() > 800
    dice = 2 * (found & truth).sum() / (found.sum() + truth.sum())
    assert dice > 0.95  # resampled from 2 mm to 1 mm and back


def test_a_network_of_slices_runs_on_a_scan(tmp_path: Path) -> None:
    model = trained(UNET, size=(32, 32), spacing_mm=[1.5, 1.5], clahe=True)
    folder = write_bundle(model, tmp_path / "slices")
    write_scan(tmp_path / "images")
    run(folder, tmp_path)
    assert nibabel.load(tmp_path / "predictions" / "scan_mask.nii.gz").shape == (20, 24, 18)


@pytest.mark.parametrize("size", [(32, 32, 32), (32, 32)], ids=["volume", "slices"])
def test_a_network_that_only_classifies_writes_probabilities(
    size: tuple[int, ...], tmp_path: Path
) -> None:
    folder = write_bundle(trained(CLASSIFIER, size=size), tmp_path / "bundle")
    write_scan(tmp_path / "images")
    run(folder, tmp_path)
    file = tmp_path / "predictions" / "classes.csv"
    found = pd.read_csv(file)
    assert len(found) == (18 if len(size) == 2 else 1)
    assert set(found["file"]) == {"scan.nii.gz"}
    names = ["probability_non-infectious", "probability_infectious"]
    np.testing.assert_allclose(found[names].sum(axis=1), 1, atol=1e-5)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_voxels_of_no_structure_are_0_and_overlaps_go_to_the_more_probable() -> None:
    probability_KDHW = torch.tensor([[0.4, 0.6, 0.6, 0.2], [0.5, 0.2, 0.9, 0.7]]).view(2, 1, 1, 4)
    assert label_map(probability_KDHW).flatten().tolist() == [0, 1, 2, 2]


def test_a_folder_without_scans_is_refused_with_a_word_on_dicom(tmp_path: Path) -> None:
    with pytest.raises(SiteDataError, match="for DICOM use `fedward predict`"):
        cases_in(str(tmp_path))


def test_clinical_fields_change_what_a_fusion_network_answers(tmp_path: Path) -> None:
    folder = write_bundle(trained(FUSION, size=(32, 32, 32)), tmp_path / "fusion")
    network = bundle_network(str(folder), "label").eval()
    image, features_BF = torch.rand(1, 1, 32, 32, 32), torch.rand(1, 22)
    with torch.inference_mode():
        without, given = network(image), network(image, features_BF)
    assert torch.isfinite(without).all()
    assert not torch.equal(without, given)


def test_an_image_model_survives_the_bundle(unet: Path) -> None:
    again = read_bundle(unet)
    assert again.config.data.image is not None
    assert again.config.data.image.size == (32, 32, 32)
    again.network()


def test_masks_in_a_folder_that_is_there_are_nobody_elses_to_read(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    network = torch.nn.Linear(1, 1)
    MaskInference([], network, None, postprocessing=None, output_dir=str(tmp_path)).run()
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o700
