from pathlib import Path

import pytest

from fedward.common.config.loader import load_run_config, resolved_yaml

FOLDER = Path(__file__).parents[2] / "simulations" / "configs"
SHIPPED = sorted(FOLDER.glob("*.yaml"))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_shipped_configuration_loads_and_survives_being_written(
    path: Path, tmp_path: Path
) -> None:
    config = load_run_config(path).config
    again = tmp_path / "config.yaml"
    again.write_text(resolved_yaml(config), encoding="utf-8")
    assert load_run_config(again).config == config
