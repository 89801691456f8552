"""Manifests: written once, and compared on reopening, with a message that names differences."""

import pytest

from softvq_jax.storage import manifest

JOB = {"seed": 1, "crops": ("center", 256)}


def test_the_same_job_reopens_its_folder(tmp_path):
    for _ in range(2):
        manifest.claim(tmp_path / "a" / "b", "job.json", JOB)
    (tmp_path / "a" / "b" / "0.png").touch()
    manifest.claim(tmp_path / "a" / "b", "job.json", JOB)


def test_another_job_is_refused_with_what_differs(tmp_path):
    manifest.claim(tmp_path, "job.json", JOB)
    other = {"seed": 2, "crops": ["center", 256], "size": None}
    with pytest.raises(manifest.OtherJob, match="seed is 1 there, 2 here") as caught:
        manifest.claim(tmp_path, "job.json", other)
    assert "size is absent there, None here" in str(caught.value) and "crops" not in str(caught.value)


def test_a_folder_of_other_files_is_refused(tmp_path):
    (tmp_path / "photo.jpg").touch()
    with pytest.raises(manifest.OtherJob, match=r"has no job\.json"):
        manifest.claim(tmp_path, "job.json", JOB)
    with pytest.raises(manifest.OtherJob, match=r"has no job\.json"):
        manifest.claim(tmp_path / "photo.jpg", "job.json", JOB)
    assert [path.name for path in tmp_path.iterdir()] == ["photo.jpg"]


def test_a_damaged_manifest_is_named(tmp_path):
    (tmp_path / "job.json").write_text("{")
    with pytest.raises(ValueError, match=r"job\.json is not valid JSON"):
        manifest.claim(tmp_path, "job.json", JOB)
