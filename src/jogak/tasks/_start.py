"""Going on from the weights of another run."""

from torch import nn

from jogak.errors import UserError


def copy_weights(trained: nn.Module, model: nn.Module) -> None:
    """Give `model` the weights of `trained`.

    Raises: UserError if they are not of one shape.
    """
    try:
        model.load_state_dict(trained.state_dict())
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise UserError(f"from: the model of the recipe is not the one to start from: {reason}") from None
