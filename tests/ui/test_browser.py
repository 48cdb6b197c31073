"""The portal's pages in a real browser: what headers, cookies and forms do there, a test client cannot know."""

import pytest

from support.chromium import Page
from support.portal_https import COOKIE, PASSWORD, PortalWorld

pytestmark = pytest.mark.timeout(120)


async def sign_in(page: Page, at: PortalWorld, name: str) -> None:
    await page.go(f"{at.url}/sign-in")
    await page.fill(name=name, password=PASSWORD)
    await page.press("Sign in")


async def test_the_first_account_is_made_and_its_password_changed_in_a_browser(at: PortalWorld, page: Page) -> None:
    answer = await (await at.browser()).ask("POST", "/api/v1/setup-codes", headers=at.header)

    await page.go(answer.json["url"])
    await page.fill(name="ann", password=PASSWORD, again=PASSWORD)
    await page.press("Make it and sign in")
    assert await page.path() == "/"
    assert "Sign out ann" in await page.text()
    assert COOKIE not in await page.run("document.cookie"), "scripts can read the session"

    await page.press("Account")
    await page.fill(current=PASSWORD, password=f"{PASSWORD} again", again=f"{PASSWORD} again")
    await page.press("Change it and sign in again")
    await page.fill(name="ann", password=f"{PASSWORD} again")
    await page.press("Sign in")
    assert "Sign out ann" in await page.text()
    await page.press("Sign out")
    assert await page.path() == "/sign-in"


async def test_somebody_ends_another_session_of_theirs(at: PortalWorld, page: Page) -> None:
    await at.account("ann", "admin")
    elsewhere = await at.browser()
    signed_in = await elsewhere.post("/sign-in", {"name": "ann", "password": PASSWORD})
    assert signed_in.status == 303
    await sign_in(page, at, "ann")
    await page.press("Account")

    edge = "Math.max(...[...document.querySelectorAll('td button')].map(b => b.getBoundingClientRect().right))"
    assert await page.run(edge) <= 1200, "the button that ends a session is out of sight"
    await page.press("End")

    assert "this one" in await page.text()
    assert (await elsewhere.get("/")).where.startswith("/sign-in")


async def test_a_token_opens_a_session_too(at: PortalWorld, page: Page) -> None:
    await page.go(at.url)
    await page.run("document.querySelector('summary').click()")
    await page.fill(token=at.header["Authorization"].removeprefix("Bearer "))
    await page.press("Sign in", within="details")
    await page.go(f"{at.url}/account")
    assert "Role admin" in await page.text()


async def test_a_wrong_password_is_told_and_shows_nothing(at: PortalWorld, page: Page) -> None:
    await at.account("ann", "admin")
    await page.go(f"{at.url}/sign-in")
    await page.fill(name="ann", password="not it at all")
    await page.press("Sign in")
    assert await page.path() == "/sign-in"
    assert await page.run("document.querySelector('[role=alert]').innerText")
    # A page with this status is an error for the browser's log; here it is what was asked for.
    assert all("status of 401" in complaint for complaint in page.complaints)
    page.complaints.clear()
