"""The tables of the feedback database."""

from __future__ import annotations

# Each entry takes the schema one version up; entries are only ever appended.
MIGRATIONS: tuple[str, ...] = (
    """
    CREATE TABLE model (
        id TEXT PRIMARY KEY, run TEXT NOT NULL, stage TEXT NOT NULL,
        weights_sha256 TEXT NOT NULL, template_sha256 TEXT NOT NULL, created_ms INTEGER NOT NULL,
        UNIQUE (run, stage, weights_sha256, template_sha256));
    CREATE TABLE rater (
        id TEXT PRIMARY KEY, consent TEXT NOT NULL DEFAULT 'local' CHECK (consent IN ('local', 'train', 'publish')),
        created_ms INTEGER NOT NULL);
    CREATE TABLE conversation (
        id TEXT PRIMARY KEY, rater TEXT NOT NULL REFERENCES rater (id), system_prompt TEXT, created_ms INTEGER NOT NULL);
    CREATE TABLE message (
        id TEXT PRIMARY KEY, conversation TEXT NOT NULL REFERENCES conversation (id), parent TEXT REFERENCES message (id),
        author TEXT NOT NULL CHECK (author IN ('human', 'model', 'human-edit')), content TEXT NOT NULL,
        model TEXT REFERENCES model (id), sampling TEXT, token_ids TEXT, logprobs TEXT,
        first_token_ms INTEGER, total_ms INTEGER,
        finish TEXT CHECK (finish IN ('stop', 'length', 'stopped', 'error')), created_ms INTEGER NOT NULL);
    CREATE INDEX message_of_conversation ON message (conversation);
    CREATE TABLE rating (
        id INTEGER PRIMARY KEY, message TEXT NOT NULL REFERENCES message (id), rater TEXT NOT NULL REFERENCES rater (id),
        value INTEGER NOT NULL CHECK (value IN (-1, 0, 1)), tags TEXT NOT NULL DEFAULT '[]', comment TEXT,
        created_ms INTEGER NOT NULL);
    CREATE INDEX rating_of_message ON rating (message, rater);
    CREATE TABLE comparison (
        id INTEGER PRIMARY KEY, left_message TEXT NOT NULL REFERENCES message (id),
        right_message TEXT NOT NULL REFERENCES message (id), rater TEXT NOT NULL REFERENCES rater (id),
        winner TEXT NOT NULL CHECK (winner IN ('left', 'right', 'tie', 'both_bad', 'skip')),
        blind INTEGER NOT NULL CHECK (blind IN (0, 1)), shown_ms INTEGER NOT NULL, withdrawn_ms INTEGER,
        created_ms INTEGER NOT NULL);
    CREATE TABLE export_log (id INTEGER PRIMARY KEY, sha256 TEXT NOT NULL, rows TEXT NOT NULL, created_ms INTEGER NOT NULL);
    """,
    """
    ALTER TABLE model ADD COLUMN adapter TEXT;
    ALTER TABLE model ADD COLUMN step INTEGER;
    """,
    """
    CREATE TABLE edit (
        message TEXT PRIMARY KEY REFERENCES message (id), original TEXT NOT NULL REFERENCES message (id),
        rater TEXT NOT NULL REFERENCES rater (id), created_ms INTEGER NOT NULL);
    CREATE INDEX conversation_of_rater ON conversation (rater);
    """,
    # `rater.consent` was never asked for and is not read; what raters say of it is kept here, the newest counts.
    """
    CREATE TABLE consent (
        id INTEGER PRIMARY KEY, rater TEXT NOT NULL REFERENCES rater (id),
        level TEXT NOT NULL CHECK (level IN ('local', 'train', 'publish')), created_ms INTEGER NOT NULL);
    """,
    # Whoever removes a message is asked who refers to it: without an index that is a walk over the table for each. And deletions whose
    # traces were not wiped yet.
    """
    CREATE INDEX message_of_parent ON message (parent);
    CREATE INDEX comparison_of_left ON comparison (left_message);
    CREATE INDEX comparison_of_right ON comparison (right_message);
    CREATE INDEX edit_of_original ON edit (original);
    CREATE TABLE trace (id INTEGER PRIMARY KEY AUTOINCREMENT, created_ms INTEGER NOT NULL);
    """,
)
# What a rater may allow, each including the one before.
CONSENTS = ("local", "train", "publish")
