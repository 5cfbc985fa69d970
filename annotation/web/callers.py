"""Who may do what under /api, as FastAPI dependencies: ask, vote, begin anew.

Owns when the voter's cookie is set, and the refusal of votes without sign-in. Knows no pair.
"""

from starlette.requests import Request
from starlette.responses import Response

from annotation.voting import Voting
from annotation.web.api_errors import Refused
from annotation.web.cookies import came_over_https
from annotation.web.sign_in import LOGIN_PATH
from annotation.web.voters import Caller, VoterCookies


class Callers:
    """Reads the caller of a request; a new one is named in whatever is answered."""

    # The dependencies are coroutines: FastAPI would send plain functions through a thread.

    def __init__(self, cookies: VoterCookies, voting: Voting) -> None:
        self._cookies = cookies
        self._voting = voting

    @property
    def sign_in(self) -> str | None:
        """Where to sign in, or None where nobody can."""
        return LOGIN_PATH if self._cookies.has_sign_in else None

    async def anyone(self, request: Request) -> Caller:
        """Who asks."""
        caller = self._cookies.caller(request)
        if caller.is_new:
            self._name(request, caller)
        return caller

    async def voter(self, request: Request) -> str:
        """The id of who asks."""
        return (await self.anyone(request)).voter

    async def elector(self, request: Request) -> Caller:
        """Who asks, where they may vote; 401 where votes without sign-in are refused."""
        caller = self._cookies.caller(request)
        if not self._voting.takes(signed_in=caller.signed_in):
            if self._cookies.has_sign_in:
                raise Refused(401, "Sign in with Hugging Face to vote here.", sign_in=LOGIN_PATH)
            raise Refused(401, "The owner of this app takes no votes without sign-in.")
        if caller.is_new:
            self._name(request, caller)
        return caller

    async def elected(self, request: Request) -> str:
        """The id of who asks, where they may vote."""
        return (await self.elector(request)).voter

    def begin_anew(self, request: Request, caller: Caller) -> None:
        """Let the answer make an anonymous `caller` somebody new; a signed-in one stays."""
        if not caller.signed_in:
            self._name(request, self._cookies.new_caller())

    def _name(self, request: Request, caller: Caller) -> None:
        secure = came_over_https(request)

        def attach(answer: Response) -> None:
            self._cookies.attach(answer, caller.voter, secure=secure)

        # Set by OneLineRoute on whatever is answered, so that a 503 names the voter too.
        request.state.finish = attach
