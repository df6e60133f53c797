import json

import pytest

from keras_mae.files import (
    atomic_path,
    environment,
    write_json,
)
from keras_mae.training.directory import prepare_output_dir


def test_an_error_while_writing_leaves_the_old_file_and_nothing_else(tmp_path):
    target = tmp_path / "file.txt"
    target.write_text("old")
    with pytest.raises(RuntimeError), atomic_path(target) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_directories_are_replaced_whole(tmp_path):
    target = tmp_path / "model" / "1"
    for name in ("first", "second"):
        with atomic_path(target) as temporary:
            temporary.mkdir()
            (temporary / name).touch()
    assert [path.name for path in target.iterdir()] == ["second"]
    assert list(target.parent.iterdir()) == [target]


def test_output_dir_with_other_files_is_refused_unless_overwritten(tmp_path):
    (tmp_path / "mae.keras").touch()
    with pytest.raises(ValueError, match="`output_dir`"):
        prepare_output_dir(tmp_path, {})
    assert (tmp_path / "mae.keras").exists()
    assert list(prepare_output_dir(tmp_path, {}, overwrite=True).iterdir()) == []


def test_output_dir_of_the_same_run_is_opened_and_of_another_refused(tmp_path):
    write_json(tmp_path / "config.json", {"run": {"seed": 1, "mask_ratio": [0.75]}})
    assert prepare_output_dir(tmp_path, {"seed": 1, "mask_ratio": [0.75]}) == tmp_path
    with pytest.raises(ValueError, match="`output_dir`.* mask_ratio was .* seed was 1 and is 2"):
        prepare_output_dir(tmp_path, {"seed": 2, "mask_ratio": (0.5,)})
    with pytest.raises(ValueError, match="`output_dir`"):
        prepare_output_dir(tmp_path, {"seed": 1, "mask_ratio": [0.75]}, resume=False)


def test_a_setting_that_a_run_was_written_without_had_its_default(tmp_path):
    write_json(tmp_path / "config.json", {"run": {"seed": 1, "gone": 5}})
    defaults = {"ema": 0.0, "crop": (1, 2)}
    same = {"seed": 1, "ema": 0.0, "crop": (1, 2), "digest": "of what is no setting"}
    assert prepare_output_dir(tmp_path, same, defaults=defaults) == tmp_path
    with pytest.raises(ValueError, match="ema was 0.0 and is 0.5"):
        prepare_output_dir(tmp_path, {**same, "ema": 0.5}, defaults=defaults)


def test_output_dir_below_a_file_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="`output_dir`"):
        prepare_output_dir(tmp_path / "file" / "run", {})


def test_environment_is_json_and_names_versions(tmp_path):
    write_json(tmp_path / "environment.json", environment())
    values = json.loads((tmp_path / "environment.json").read_text())
    assert values["keras"].startswith("3.")
    assert {"keras_mae", "python", "tensorflow", "numpy", "git_commit"} <= set(values)
