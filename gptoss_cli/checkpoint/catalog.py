"""The models gptoss knows by name. Facts only: touches no file and no network."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Published:
    """What a model's publisher says of it.

    `download_bytes` counts the files the program needs, rounded to three digits: the repository holds the weights
    two times more, in layouts that are not needed.
    """

    repository: str
    download_bytes: int
    layers: int
    experts: int


@dataclass(frozen=True, slots=True)
class Model:
    """One name that `-m` takes; `published` is None for the model that comes with the program."""

    name: str
    alias: str | None = None
    published: Published | None = None

    @property
    def short_name(self) -> str:
        """What a user types."""
        return self.alias or self.name


MODELS = (
    Model("gpt-oss-20b", "20b", Published("openai/gpt-oss-20b", 13_800_000_000, layers=24, experts=32)),
    Model("gpt-oss-120b", "120b", Published("openai/gpt-oss-120b", 65_200_000_000, layers=36, experts=128)),
    Model("demo"),
)
DEMO = MODELS[-1]


def find_model(name: str) -> Model | None:
    """The model of that name or alias, or None."""
    return next((model for model in MODELS if name in (model.name, model.alias)), None)
