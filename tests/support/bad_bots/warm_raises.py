"""Its `warm` fails."""


async def bot(_runner_args: object) -> None:
    """Do nothing."""


async def warm() -> None:
    """Find no model."""
    raise FileNotFoundError("no model.onnx")
