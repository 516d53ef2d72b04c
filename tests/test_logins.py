"""Each login names one user, and contains no invisible characters."""

from __future__ import annotations

import sys
import unicodedata
from collections.abc import Iterator

import pytest
from marshmallow import ValidationError

from handlers.schemas import AddFollowers
from store import logins
from store.models import User
from tests.site import Site, fresh_site, problem
from web.fields import Shape
from web.schemas import UserBody

COMPOSED, DECOMPOSED = "zo\u00eb", "zoe\u0308"
UNSEEN = {"Cc", "Cf", "Zs", "Zl", "Zp"}


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Iterator[Site]:
    with fresh_site(tmp_path_factory.mktemp("site")) as served_site:
        yield served_site


def user(login):
    return {"login": login, "email": "ann@example.org"}


def test_a_login_is_one_user_however_its_letters_were_typed(site):
    assert site.post("/api/v2/user", user(DECOMPOSED)).status == 201
    reported = problem(site.post("/api/v2/user", user(COMPOSED)), 409)
    assert list(reported["errors"]) == ["login"]
    assert [found.login for found in User.select() if found.login[0] == "z"] == [COMPOSED]


def test_case_counts_in_a_login(site):
    assert [site.post("/api/v2/user", user(each)).status for each in ("Ann", "aNn")] == [201, 201]


@pytest.mark.parametrize(
    "login",
    [
        "ann\u200b",
        "\u202eann",
        "an\u00adn",
        "a\u2066b",
        "a\ufe0f",
        "\u3164",
        "a\U000e0041",
        "a b",
        "\ta",
    ],
    ids=ascii,
)
@pytest.mark.parametrize("field", ["login", "followerLogin"])
def test_characters_that_are_not_seen_are_refused_by_field(site, login, field):
    path, body = "/api/v2/user", user(login)
    if field == "followerLogin":
        path, body = "/api/v1/add-followers", {"userId": 1, "followerLogin": login, "count": 1}
    assert list(problem(site.post(path, body), 400)["errors"]) == [field]
    with pytest.raises(ValidationError) as caught:
        AddFollowers().load({"userId": 1, "followerLogin": login, "count": 1})
    assert list(caught.value.messages) == ["followerLogin"]


def test_every_character_of_these_kinds_is_refused():
    shape = Shape(logins.PATTERN, "")
    for character in map(chr, range(sys.maxunicode + 1)):
        if unicodedata.category(character) in UNSEEN:
            with pytest.raises(ValidationError):
                shape(f"a{character}")


@pytest.mark.parametrize("login", ["zoë", "Ω", "李雷", "אבג", "ann_1", "🙂", "ก็"])
def test_letters_of_all_languages_are_taken(login):
    assert UserBody().load(user(login))["login"] == login
    loaded = AddFollowers().load({"userId": 1, "followerLogin": login, "count": 1})
    assert loaded["follower_login"] == login


def test_followers_of_a_message_have_the_same_logins_as_those_of_a_request():
    loaded = AddFollowers().load({"userId": 1, "followerLogin": DECOMPOSED, "count": 1})
    assert loaded["follower_login"] == COMPOSED
