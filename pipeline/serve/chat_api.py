"""`/api`: what the page asks for beside the thumbs, which it sends to `/v1/feedback` like every client."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import asdict
from typing import Annotated

from fastapi import APIRouter, Path, Query, Request
from starlette.responses import JSONResponse, StreamingResponse

from data.transcripts import conversations
from pipeline.chat.words import TAGS
from pipeline.serve.answers import Draw
from pipeline.serve.chat_fields import (
    ChoiceRequest,
    ConsentRequest,
    EditRequest,
    LoginRequest,
    StopRequest,
    TurnRequest,
)
from pipeline.serve.chat_store import consent_of, delete_conversation, keep_choice, keep_edit, whole_conversation
from pipeline.serve.context import ServeContext, identity
from pipeline.serve.duels import Duel, Duels
from pipeline.serve.errors import Refused
from pipeline.serve.fields import Id
from pipeline.serve.guard import COOKIE, is_token, new_session
from pipeline.serve.turns import Turn, UnderWay, draw_of, keep_question

_COOKIE_SECONDS = 365 * 24 * 3600
Number = Annotated[int, Path(ge=1, lt=2**63)]


def chat_router(context: ServeContext) -> APIRouter:
    """The routes under /api."""
    router = APIRouter(prefix="/api", tags=["page"])
    duels, under_way = Duels(), UnderWay()

    @router.post("/login")
    async def login(body: LoginRequest, request: Request) -> JSONResponse:
        """Trades the token for a cookie that scripts cannot read, with a pseudonym of its own."""
        token = context.settings.token
        if token is None or not is_token(body.token, token):
            raise Refused(401, "That is not the token.")
        answer = JSONResponse({"ok": True})
        secure = request.headers.get("origin", "").startswith("https://")
        answer.set_cookie(
            COOKIE, new_session(token), max_age=_COOKIE_SECONDS, httponly=True, samesite="strict", secure=secure
        )
        return answer

    @router.get("/state")
    async def state(request: Request) -> dict:
        """What the page's menus hold."""
        settings, rater = context.settings, identity(request).rater
        return {
            "consent": await context.store.call(consent_of, context, rater),
            "models": list(context.assistant.checkpoints),
            "model": context.assistant.checkpoints[-1],
            "temperature": settings.temperature,
            "max_new_tokens": settings.max_new_tokens,
            "max_answer_tokens": settings.max_answer_tokens,
            "tags": list(TAGS),
            "rater": rater,
        }

    @router.post("/consent")
    async def consent(body: ConsentRequest, request: Request) -> dict:
        """Keeps what the person allows to be done with what is said and voted."""
        await context.store.call(context.feedback.set_consent, identity(request).rater, body.level)
        return {"level": body.level}

    @router.get("/conversations")
    async def listed(
        request: Request,
        search: Annotated[str, Query(max_length=200)] = "",
        limit: Annotated[int, Query(ge=1, le=1000)] = 200,
    ) -> list[dict]:
        """The person's conversations, newest first, at most `limit`; with `search`, those that say it somewhere."""
        rater = identity(request).rater
        found = await context.store.call(conversations, context.feedback, rater, search=search, limit=limit)
        return [asdict(c) for c in found]

    @router.get("/conversations/{conversation}")
    async def whole(conversation: Id, request: Request) -> dict:
        """Every version of every turn, with the person's own votes."""
        rater = identity(request).rater
        found = await context.store.call(whole_conversation, context, conversation, rater)
        duels.named(rater, {message["id"] for message in found["messages"]})
        return found

    @router.delete("/conversations/{conversation}")
    async def delete(conversation: Id, request: Request) -> dict:
        """Removes a conversation and all that was said of it, for good. `exports`: how many of before hold words of this person."""
        rater = identity(request).rater
        gone = await context.store.call(delete_conversation, context.feedback, conversation, rater)
        context.store.wipe_when_quiet()
        under_way.stop_all(conversation)
        return gone

    @router.post("/turn")
    async def turn(body: TurnRequest, request: Request) -> StreamingResponse:
        """Keeps the question and streams its answer, or two to choose from."""
        who = identity(request)
        checkpoint = context.checkpoint(body.model)
        other = context.checkpoint(body.other_model) if body.other_model else checkpoint
        if body.against is None and body.other_model is None and checkpoint == context.assistant.checkpoints[-1]:
            other = context.settings.candidate or checkpoint
        drawn = [checkpoint]
        # Here too, so that what cannot be drawn is refused before the question is kept.
        _sampling(context, body)
        asked = await context.store.call(keep_question, context.feedback, body, who.rater)
        if body.against is None and body.compare == "auto" and duels.offered(context.settings.comparison_share):
            drawn = [checkpoint, other]
        elif body.against is not None:
            drawn = [other]
        draws = [draw_of(asked, name, _sampling(context, body)) for name in drawn]
        duel = _duel(duels, who.rater, body, draws)
        # The left one begins: who could see a model's answer always begin first would know whose it is.
        draws.sort(key=lambda draw: duel is not None and duel.side(draw.id) == "right")
        drawings = []
        try:
            for draw in draws:
                drawings.append(context.desk.take(draw, who.client))
        except BaseException:
            for drawing in drawings:
                drawing.cancel()
            raise
        return StreamingResponse(
            _stoppable(Turn(asked, drawings, duel), under_way, who.rater, request), media_type="text/event-stream"
        )

    @router.post("/stop")
    async def stop(body: StopRequest, request: Request) -> dict:
        """Ends an answer after the token it is at; what was said is kept."""
        return {"stopped": under_way.stop(body.answer, identity(request).rater)}

    @router.post("/edit")
    async def edit(body: EditRequest, request: Request) -> dict:
        """Keeps the person's own wording beside an answer: a demonstration."""
        return {"id": await context.store.call(keep_edit, context.feedback, body, identity(request).rater)}

    @router.post("/duels/{duel}")
    async def choose(duel: Id, body: ChoiceRequest, request: Request) -> dict:
        """Keeps the choice, and only then says who wrote which answer."""
        found = duels.find(duel, identity(request).rater)
        if found is None:
            raise Refused(404, "This choice is not open any more.")
        result = await context.store.call(keep_choice, context, found, body.winner)
        duels.end(found)
        return result

    @router.post("/comparisons/{comparison}/withdraw")
    async def withdraw(comparison: Number, request: Request) -> dict:
        """Takes a choice back."""
        rater = identity(request).rater
        if not await context.store.call(context.feedback.withdraw_comparison, comparison, rater=rater):
            raise Refused(404, "There is no such choice to take back.")
        return {"withdrawn": comparison}

    return router


def _sampling(context: ServeContext, body: TurnRequest):
    return context.sampling(
        max_new_tokens=body.max_new_tokens, temperature=body.temperature, top_p=body.top_p, seed=None
    )


def _duel(duels: Duels, rater: str, body: TurnRequest, draws: Sequence[Draw]) -> Duel | None:
    if body.against is not None:
        # It was read before with its model's name on it.
        return duels.start(rater, body.against, draws[0].id, blind=False)
    if len(draws) == 2:
        return duels.start(rater, draws[0].id, draws[1].id, blind=True)
    return None


async def _stoppable(turn: Turn, under_way: UnderWay, rater: str, request: Request) -> AsyncIterator[str]:
    for drawing in turn.drawings:
        under_way.add(rater, drawing)
    try:
        async for line in turn.lines(request.is_disconnected):
            yield line
    finally:
        for drawing in turn.drawings:
            drawing.cancel()
            under_way.remove(drawing)
