"""The Hugging Face hub: whether it can be reached, and what its refusals mean."""

from collections.abc import Iterator

_SECONDS = 5.0
"""How long the hub may take to answer at all. Its own client would try six times, half a minute in all."""


def reachable() -> bool:
    """Whether the hub answers; never asked where the user has switched it off (HF_HUB_OFFLINE)."""
    import httpx
    from huggingface_hub import constants, get_session

    if constants.HF_HUB_OFFLINE:
        return False
    try:
        get_session().head(constants.ENDPOINT, timeout=_SECONDS)
    except httpx.TransportError:
        return False
    return True


def refusal(error: BaseException, source: str, revision: str | None) -> str | None:
    """Why the hub does not give `source`, and what to do; None if `error` is about something else."""
    from huggingface_hub import errors

    chain = list(_chain(error))

    def told(kind: type[Exception]) -> bool:
        return any(isinstance(one, kind) for one in chain)

    if told(errors.GatedRepoError):
        return (
            f"{source} is gated: its owners decide who may have it. Ask for access at https://huggingface.co/{source}, then log in with "
            "`hf auth login`."
        )
    if told(errors.RevisionNotFoundError):
        return f"{source} has no revision {revision} on the hub. Give a branch, a tag or a commit that it has."
    if told(errors.RepositoryNotFoundError):
        return f"{source} is neither a folder here nor a model on the hub. If it is a private one, log in with `hf auth login`."
    if told(errors.LocalEntryNotFoundError):
        return out_of_reach(source)
    return None


def out_of_reach(source: str) -> str:
    """What to do about a model that lies nowhere here while the hub does not answer."""
    return (
        f"{source} is neither a folder here nor in the cache of models, and the hub cannot be reached. Download it where there is a "
        f"network (`hf download {source}`), or give a folder."
    )


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
