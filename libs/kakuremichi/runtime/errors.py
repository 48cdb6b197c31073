"""What an error of a library says, for sentences of ours."""


def reason_of(error: BaseException) -> str:
    """Its own words, or, where it has none, what it is: a `TimeoutError` says nothing at all."""
    return str(error) or ("no answer in time" if isinstance(error, TimeoutError) else type(error).__name__)
