"""The page of accounts in a real browser."""

import pytest

from support.chromium import Page
from support.portal_https import PASSWORD, PortalWorld

pytestmark = pytest.mark.timeout(120)


async def test_an_administrator_makes_an_account_changes_its_role_and_removes_it(at: PortalWorld, page: Page) -> None:
    await at.account("ann", "admin")
    await page.go(f"{at.url}/sign-in")
    await page.fill(name="ann", password=PASSWORD)
    await page.press("Sign in")
    await page.press("Account")
    await page.press("Accounts")
    assert await page.path() == "/accounts"

    await page.run("document.querySelector('.gate [name=name]').value = 'bob'")
    await page.fill(label="Bob", password=PASSWORD, again=PASSWORD)
    await page.press("Make it")
    assert await page.path() == "/accounts"
    bob = await at.signed_in("bob")
    assert (await bob.get("/api/v1/services")).status == 200

    await page.run("document.querySelector('[aria-label=\"Role of bob\"]').value = 'publisher'")
    await page.press("Change", within="tbody tr:nth-child(2)")
    assert await page.run("document.querySelector('[aria-label=\"Role of bob\"]').value") == "publisher"
    assert (await bob.get("/")).where == "/sign-in", "its sessions end"

    await page.press("Remove bob")
    assert "bob" not in await page.run("document.querySelector('table').innerText")
