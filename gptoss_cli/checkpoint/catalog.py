"""The models that gptoss knows by name. Facts only: no file and no network is touched."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Published:
    """Facts about a published model.

    `download_bytes` is the size of the files that the program needs, rounded to three digits, None if nobody has
    measured it: the Hub tells it when a download begins. The repository holds the weights two more times, in layouts
    that are not needed.
    """

    repository: str
    download_bytes: int | None
    layers: int
    experts: int


@dataclass(frozen=True, slots=True)
class Model:
    """A model name. `published` is None for the model that is part of the program.

    `is_classifier` is True for a model that judges content by a policy in its instructions, and is not for chats.
    """

    name: str
    alias: str | None = None
    published: Published | None = None
    is_classifier: bool = False

    @property
    def short_name(self) -> str:
        """The name that a user types."""
        return self.alias or self.name


MODELS = (
    Model("gpt-oss-20b", "20b", Published("openai/gpt-oss-20b", 13_800_000_000, layers=24, experts=32)),
    Model("gpt-oss-120b", "120b", Published("openai/gpt-oss-120b", 65_200_000_000, layers=36, experts=128)),
    # Trained from the two above, with their architecture (the user guide of gpt-oss-safeguard, OpenAI's cookbook).
    Model(
        "gpt-oss-safeguard-20b",
        "safeguard",
        Published("openai/gpt-oss-safeguard-20b", None, layers=24, experts=32),
        is_classifier=True,
    ),
    Model(
        "gpt-oss-safeguard-120b",
        "safeguard-120b",
        Published("openai/gpt-oss-safeguard-120b", None, layers=36, experts=128),
        is_classifier=True,
    ),
    Model("demo"),
)
DEMO = MODELS[-1]


def find_model(name: str) -> Model | None:
    """Return the model with this name or alias, or None."""
    return next((model for model in MODELS if name in (model.name, model.alias)), None)


def find_repository(repository: str) -> Model | None:
    """Return the model that is published in this repository, or None."""
    return next((model for model in MODELS if model.published and model.published.repository == repository), None)
