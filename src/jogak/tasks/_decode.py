"""Settings of the search: what the run says, changed by what is asked for."""

from jogak import config


def decode_with(decode: config.Decode, **changes: float | None) -> config.Decode:
    """`decode` with other values of its fields; None leaves one as it is. Asking for n answers widens the beam to n.

    Raises: UserError for a value that does not fit.
    """
    given = {name: value for name, value in changes.items() if value is not None}
    if given.get("n_best", 1) > given.get("beam", decode.beam):
        given["beam"] = given["n_best"]
    return config.validate(config.Decode, {**decode.model_dump(), **given}, "decode", {})
