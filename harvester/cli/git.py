"""What a git checkout tells of the change being worked on: the branch names it, its commit links it."""

from __future__ import annotations

import re
import subprocess


def branch() -> str | None:
    """Return the branch of the checkout in this folder, or None outside one and on a main branch."""
    name = _git("symbolic-ref", "--quiet", "--short", "HEAD")
    return None if name in (None, "main", "master", "trunk") else name


def commit_link() -> str | None:
    """Return the address of the checked-out commit where the remote is a web host, else its bare name, or None."""
    commit = _git("rev-parse", "HEAD")
    if commit is None:
        return None
    remote = _git("remote", "get-url", "origin") or ""
    found = re.fullmatch(r"(?:https://(?:[^@/]*@)?|ssh://git@|git@)([\w.-]+)(?::\d+)?[:/](.+?)(?:\.git)?/?", remote)
    return f"https://{found[1]}/{found[2]}/commit/{commit}" if found else f"commit {commit}"


def _git(*words: str) -> str | None:
    try:
        done = subprocess.run(["git", *words], capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None  # no git on this machine, or it hangs on a network folder: then the person names the change
    return done.stdout.strip() or None if done.returncode == 0 else None
