"""Fingerprints of the files of a source."""

from softvq_jax.data import source


def test_files_of_one_name_in_two_folders_are_both_in_the_digests(tmp_path):
    paths = [tmp_path / "a" / "0.tar", tmp_path / "b" / "0.tar", tmp_path / "b" / "1.tar"]
    for path in paths:
        path.parent.mkdir(exist_ok=True)
        path.write_text(str(path))
    digests = source.digests_of_files([str(path) for path in paths])
    assert list(digests) == ["a/0.tar", "b/0.tar", "b/1.tar"] and len(set(digests.values())) == 3
    assert list(source.digests_of_files([str(path) for path in paths[1:]])) == ["0.tar", "1.tar"]
