"""Pull what a command lacks: its image, as ``--pull`` says, or the damaged layers of an image.

The text that names an image comes in, and a text that names an image of the store goes out; or a
session comes in, and a `Restore` goes out.  Registries and sources are imported only for a pull.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stacker.errors import AuthenticationError, NetworkError, NotFoundError, UsageError

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from collections.abc import Callable

    from stacker.cli.session import Session
    from stacker.image.digest import ImageID
    from stacker.operations.durability import Restore

POLICIES = ("missing", "never", "always", "newer")
_DIGITS = frozenset("0123456789abcdef")


def add_pull(parser: ArgumentParser) -> None:
    """Add the option that says when to pull the image."""
    parser.add_argument(
        "--pull",
        choices=POLICIES,
        help="when to pull IMAGE: only if the store lacks it (missing), never, or always; newer is "
        "like always, but uses the image in the store if the pull fails (default: missing; never "
        "for an image ID)",
    )


def pulled(image: str, policy: str | None, find: Callable[[str], ImageID], session: Session) -> str:
    """Return a text that names an image of the store, after a pull if the policy requests one.

    :param image: an image ID, a unique prefix of one, a name, or a source.
    :param policy: one of `POLICIES`; ``None`` for the default.
    :param find: returns the ID of an image in the store, or raises `NotFoundError`.
    :raises UsageError: an image ID with a policy that needs a source.
    :raises NotFoundError: the source has no such image.
    :raises NetworkError: the registry cannot be reached.
    """
    is_id = not image or set(image.removeprefix("sha256:")) <= _DIGITS
    if is_id and policy in {"always", "newer"}:
        raise UsageError(
            f"cannot pull an image ID: got {image!r} with --pull {policy}, want a name or a source"
        )
    if policy == "never" or is_id:
        return image
    known = _known(image, find)
    if known is not None and policy in {None, "missing"}:
        return known
    try:
        return _pull(image, session)
    except (NetworkError, NotFoundError, AuthenticationError) as error:
        if known is not None and policy == "newer":
            session.warn(f"used the image in the store: {error.message}")
            return known
        if known is None:
            error.message += f"; the store has no image {image!r} either"
        raise


def _known(image: str, find: Callable[[str], ImageID]) -> str | None:
    try:
        return str(find(image))
    except NotFoundError:
        return None


def _pull(image: str, session: Session) -> str:
    from dataclasses import replace

    from stacker.cli.options import parse
    from stacker.cli.verbs.pull import pull_source

    _, args = parse(["pull", "--", image], session.config)
    # The document of the command itself is the only one on stdout.
    quiet = replace(session, json=False, verbosity=-1) if session.json else session
    result, _ = pull_source(args, quiet)
    return str(result.image_id)


def restorer(session: Session, args: Namespace | None = None) -> Restore:
    """Return the function that unpacks damaged layers again, for verbs that use no `Store`.

    :param args: the options for registries and the limits; ``None`` for the defaults.
    """
    return lambda _, image_id, diff_ids: session.open(args).restore(
        image_id, diff_ids, on_event=session.notice
    )
