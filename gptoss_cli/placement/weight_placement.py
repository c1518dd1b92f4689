"""Which memory the parts of a model are to lie in. Imports no torch."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class WeightPlacement:
    """A device, in torch's words. The embedding may stay in host memory.

    With `experts`, the kernels for one token are Triton's and so many experts, counted over all layers, lie on the
    device; without, the reference kernels run and all of them do.
    """

    device: str = "cpu"
    experts: int | None = None
    embedding: bool = True

    def experts_of_layer(self, layer: int, layers: int) -> int:
        """How many experts of `layer` are on the device: every layer has its even part of them."""
        assert self.experts is not None
        return self.experts // layers + (layer < self.experts % layers)


MAPPED = WeightPlacement()
