"""What the page reads from the store and writes to it, beside its questions; on the store's own thread."""

from __future__ import annotations

from dataclasses import asdict

from data.consent import ASKED_PREFIX, Consents
from data.feedback import FeedbackStore
from data.transcripts import choices, nodes, owner, place, stands_at, writer_of
from pipeline.serve.chat_fields import EditRequest
from pipeline.serve.context import ServeContext
from pipeline.serve.duels import Duel
from pipeline.serve.errors import Refused


def consent_of(context: ServeContext, rater: str) -> dict:
    """What counts for the person, and whether to ask: who is one of several and has not said yet."""
    consents = Consents(context.feedback, context.settings.consent)
    ask = rater.startswith(ASKED_PREFIX) and consents.given(rater) is None
    return {"level": consents.level(rater), "ask": ask}


def whole_conversation(context: ServeContext, conversation: str, rater: str) -> dict:
    """Every version of every turn, and what the rater said of them. Raises Refused where it is not this rater's."""
    store = context.feedback
    found = owner(store, conversation)
    if found is None or found[0] != rater:
        raise Refused(404, "There is no such conversation.")
    said, made = nodes(store, conversation, rater), choices(store, conversation, rater)
    return {
        "id": conversation,
        "system_prompt": found[1],
        "messages": [{**asdict(n), "model": context.name_of(n.model)} for n in said],
        # Which versions to show at first: those that the talk was left at.
        "shown": [n.id for n in stands_at(said, made)],
        "choices": [
            {"question": question, **_said(context, number, left, right, winner)}
            for number, question, left, right, winner in made
        ],
    }


def delete_conversation(store: FeedbackStore, conversation: str, rater: str) -> dict:
    """Removes a conversation of this rater. Raises Refused where it is not this rater's."""
    found = owner(store, conversation)
    if found is None or found[0] != rater:
        raise Refused(404, "There is no such conversation.")
    store.forget_conversation(conversation)
    store.empty_log()
    return {"deleted": conversation, "exports": len(store.exports_with(rater))}


def keep_edit(store: FeedbackStore, body: EditRequest, rater: str) -> str:
    """The id of the person's own wording, once it is kept. Raises Refused for what is no answer of this rater's talks."""
    found = place(store, body.original)
    if found is None or found[2] == "human" or owner(store, found[0])[0] != rater:
        raise Refused(404, "There is no such answer.")
    return store.edit(body.original, rater=rater, content=body.text)


def keep_choice(context: ServeContext, duel: Duel, winner: str) -> dict:
    """Keeps the choice and names the models. Raises Refused where one of the answers never came."""
    store = context.feedback
    for answer in (duel.left, duel.right):
        found = place(store, answer)
        if found is None or found[3] == "error":
            raise Refused(409, "One of the two answers never came; there is nothing to choose from.")
    number = store.compare(
        duel.left, duel.right, rater=duel.rater, winner=winner, blind=duel.blind, shown_ms=duel.shown_ms
    )
    return _said(context, number, duel.left, duel.right, winner)


def _said(context: ServeContext, number: int, left: str, right: str, winner: str) -> dict:
    """A choice that was made, with the models that it was between."""
    sides = (("left", left), ("right", right))
    models = {side: context.name_of(writer_of(context.feedback, answer)) for side, answer in sides}
    return {"comparison": number, "winner": winner, "answers": {"left": left, "right": right}, "models": models}
