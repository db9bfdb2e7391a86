"""Putting a child on the hub: a repository is made where there is none, and the folder uploaded as one commit."""

from pathlib import Path
from typing import Any, Protocol

from huggingface_hub.errors import HfHubHTTPError, HFValidationError

from evomm.errors import EvommError, UsageError


class Hub(Protocol):
    """The two calls of huggingface_hub's ``HfApi`` that pushing takes."""

    def create_repo(self, repo_id: str, *, private: bool, exist_ok: bool) -> Any:
        """Make a repository, unless it is there."""

    def upload_folder(self, *, repo_id: str, folder_path: Path, commit_message: str) -> Any:
        """Upload all files of a folder."""


def refuse_no_id(repo: str) -> None:
    """Raise UsageError unless it is OWNER/NAME, before any work is done."""
    owner, slash, name = repo.partition("/")
    if not (owner and slash and name) or "/" in name or "@" in repo:
        raise UsageError(f"--push-to-hub {repo}: expected OWNER/NAME, as in huggingface.co/OWNER/NAME")


def push(folder: Path, repo: str, hub: Hub, private: bool = True) -> str:
    """Upload a folder; returns where it is now.

    Raises UsageError for a name that is none, EvommError when the hub refuses or does not answer; the folder stays.
    """
    refuse_no_id(repo)
    try:
        hub.create_repo(repo, private=private, exist_ok=True)
        hub.upload_folder(repo_id=repo, folder_path=folder, commit_message=f"{folder.name}, merged with evomm")
    except HFValidationError as error:
        raise UsageError(f"--push-to-hub {repo}: {error}") from error
    except (HfHubHTTPError, OSError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise EvommError(
            f"{repo}: the hub did not take it ({reason}); `hf auth login` signs in, and "
            f"`hf upload {repo} {folder}` tries again: the model is in {folder}"
        ) from error
    return f"https://huggingface.co/{repo}"
