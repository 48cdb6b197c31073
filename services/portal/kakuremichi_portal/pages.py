"""What all pages share: templates, the style sheet, forms, and where one may be sent."""

import hashlib
import hmac
from importlib.resources import files
from urllib.parse import quote, urlsplit

import jinja2
from aiohttp import web

from kakuremichi_portal.problems import ProblemError

HTML = "text/html"
FORM = "application/x-www-form-urlencoded"
REFRESH_S = 5
SAFE = frozenset({"GET", "HEAD"})


def _static(name: str) -> tuple[bytes, str]:
    """A file and a path that changes with it."""
    content = (files("kakuremichi_portal") / "static" / name).read_bytes()
    return content, f"/static/{hashlib.sha256(content).hexdigest()[:12]}/{name}"


class Pages:
    """The templates, and the style sheet and the icon under paths that change with them."""

    def __init__(self) -> None:
        self.style, self.style_path = _static("portal.css")
        self.icon, self.icon_path = _static("icon.svg")
        self._templates = jinja2.Environment(
            loader=jinja2.PackageLoader("kakuremichi_portal"),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._templates.globals.update(style_path=self.style_path, icon_path=self.icon_path, refresh_s=REFRESH_S)

    def html(self, template: str, status: int, **shown: object) -> web.Response:
        text = self._templates.get_template(template).render(shown)
        return web.Response(text=text, status=status, content_type=HTML)


def refuse_foreign_form(request: web.Request, *, told: bool = False) -> None:
    """Refuse (403) what another site's page made this browser send.

    The cookie is SameSite=Strict already; this also keeps strangers' pages from signing somebody in as them.
    `told`: a browser that says nothing about where the request comes from is refused too.
    """
    origin, site = request.headers.get("Origin"), request.headers.get("Sec-Fetch-Site")
    foreign = (site is not None and site not in ("same-origin", "none")) or (
        origin is not None and urlsplit(origin).netloc != request.host
    )
    if foreign or (told and origin is None and site is None):
        raise ProblemError(403, "foreign-form", "origin: forms are taken from the portal's own pages only")


def refuse_foreign_key(form: dict[str, str], form_key: str) -> None:
    if not hmac.compare_digest(form.get("form_key", "").encode(), form_key.encode()):
        raise ProblemError(403, "foreign-form", "form_key: this form is not of this session", field="form_key")


async def read_form(request: web.Request) -> dict[str, str]:
    if request.content_type != FORM:
        raise ProblemError(415, "media-type", f"content-type: {FORM} is needed")
    return {name: value for name, value in (await request.post()).items() if isinstance(value, str)}


def see(path: str) -> web.Response:
    return web.Response(status=303, headers={"Location": path})


def local_path(text: str) -> str:
    """`text` if it is a path of this portal, else "/": whoever signs in is sent nowhere else.

    Browsers take `//host`, `/\\host` and control characters in front of them for another host.
    """
    plain = text.isascii() and text.isprintable() and "\\" not in text and len(text) <= 512
    if not plain or not text.startswith("/") or text.startswith("//"):
        return "/"
    parts = urlsplit(text)
    return text if not parts.scheme and not parts.netloc else "/"


def sign_in_path(request: web.Request) -> str:
    """The sign-in form, which leads back to the page that was asked for."""
    if request.method not in SAFE or request.path_qs == "/":
        return "/sign-in"
    return f"/sign-in?next={quote(local_path(request.path_qs), safe='')}"
