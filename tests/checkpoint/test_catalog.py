"""The names of models."""

from gptoss_cli.checkpoint import catalog


def test_every_name_and_alias_is_unique() -> None:
    names = [name for model in catalog.MODELS for name in (model.name, model.alias) if name is not None]
    assert len(names) == len(set(names))
    assert all(catalog.find_model(name) is not None for name in names)
    assert catalog.find_model("nothing") is None
