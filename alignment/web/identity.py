"""Who people are to a served home: its secrets, its sessions, and whom they sign in with.

Made of settings and the home alone. Signs nobody in, which `annotation.web.sign_in` does, and
knows no admin, who is the business of `admin_doors`.
"""

from annotation.home import Home, derived_secret
from annotation.settings import AnnotationSettings
from annotation.web.sessions import Sessions
from annotation.web.sign_in import Provider


class Identity:
    """The secrets of one home, and who has signed in to it, where people may."""

    def __init__(
        self, settings: AnnotationSettings, home: Home, *, organisation: str | None
    ) -> None:
        self._settings = settings
        self._home = home
        self._organisation = organisation
        self.sessions = self._build_sessions()

    def secret(self, name: str) -> bytes:
        """One of the app's secrets: of COOKIE_SECRET where it is set, else the home's own."""
        configured = self._settings.cookie_secret
        if configured is None:
            return self._home.secret(name)
        return derived_secret(configured.get_secret_value(), name)

    @property
    def provider(self) -> Provider | None:
        """Whom people sign in with."""
        settings = self._settings
        if settings.oauth_client_id is None or settings.oauth_client_secret is None:
            return None
        # With a custom domain it names several hosts; the provider knows the first.
        host = settings.space_host.split(",")[0].strip() if settings.space_host else None
        return Provider(
            url=settings.openid_provider_url,
            client_id=settings.oauth_client_id,
            client_secret=settings.oauth_client_secret,
            scopes=settings.oauth_scopes,
            public_url=f"https://{host}" if host else None,
            organisation=self._organisation,
        )

    def _build_sessions(self) -> Sessions | None:
        """Where people may sign in: who has."""
        if self._settings.oauth_client_id is None:
            return None
        secret = self.secret("session_secret")
        return Sessions(self._home.root / "sessions.json", secret, framed=self._settings.on_space)
