"""Where the server listens, who may talk to it, and how much each request may ask for."""

from __future__ import annotations

import ipaddress
import secrets
from dataclasses import dataclass
from urllib.parse import urlsplit

from data.errors import UserError

# 128 bits in base64url. Variety is checked too: length alone would let "aaaa…" through.
_TOKEN_CHARACTERS, _TOKEN_VARIETY = 22, 10
NEW_TOKEN = "new"


@dataclass(frozen=True)
class ServeSettings:
    """One server's address, secret and limits. Sizes name their unit."""

    host: str = "127.0.0.1"
    port: int = 8000
    token: str | None = None
    allowed_hosts: tuple[str, ...] = ()
    rater: str = "local"
    temperature: float = 0.7
    max_new_tokens: int = 256
    max_answer_tokens: int = 1024
    max_body_bytes: int = 262_144
    queue_limit: int = 64
    batch_rows: int = 8
    answer_seconds: float = 300.0
    comparison_share: float = 0.2
    consent: str = "publish"
    # Who answers beside the assistant in service where a turn is answered twice; None is that assistant once more.
    candidate: str | None = None

    @property
    def open_to_others(self) -> bool:
        return not is_loopback(self.host)

    @property
    def url(self) -> str:
        """What to open in a browser on this machine."""
        host = {"0.0.0.0": "127.0.0.1", "::": "[::1]", "[::]": "[::1]"}.get(self.host, self.host)
        return f"http://{f'[{host}]' if ':' in host and not host.startswith('[') else host}:{self.port}/"

    @property
    def elsewhere(self) -> str:
        """How others reach it, where it listens on every address; empty where `url` is theirs too."""
        if self.host.strip("[]") not in ("0.0.0.0", "::"):
            return ""
        return f"from other machines: this one's address in place of {urlsplit(self.url).hostname}; a name must stand in chat.allowed_hosts"

    @staticmethod
    def of(chat, *, host: str, port: int, token: str | None) -> ServeSettings:
        """The settings of a `chat` section and the command line.

        Raises:
            UserError: others could reach the server without a token, or the token is too short to be one.
        """
        token = secrets.token_urlsafe(24) if token == NEW_TOKEN else token or None
        if token is None and not is_loopback(host):
            raise UserError(
                f"--host {host}: others can reach this address, so it needs a token. Add --token new, or stay on 127.0.0.1."
            )
        if token is not None and not _is_strong(token):
            raise UserError(
                f"--token: needs at least {_TOKEN_CHARACTERS} letters and digits drawn at random, printable ASCII without "
                f"spaces (got {len(token)} characters). --token new makes one."
            )
        return ServeSettings(
            host=host,
            port=port,
            token=token,
            allowed_hosts=tuple(chat.allowed_hosts),
            rater=chat.rater,
            temperature=chat.temperature,
            max_new_tokens=chat.max_new_tokens,
            max_answer_tokens=max(chat.max_answer_tokens, chat.max_new_tokens),
            max_body_bytes=chat.max_body_bytes,
            queue_limit=chat.queue_limit,
            batch_rows=chat.batch_rows,
            answer_seconds=chat.answer_seconds,
            comparison_share=chat.comparison_share,
            consent=chat.consent,
        )


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _is_strong(token: str) -> bool:
    written = all("!" <= c <= "~" for c in token)
    return written and len(token) >= _TOKEN_CHARACTERS and len(set(token)) >= _TOKEN_VARIETY
