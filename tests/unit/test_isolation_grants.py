"""What a session process may do at the broker, and the token by which it is known."""

import base64
import time

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from greenroom.common import subjects
from greenroom.common.errors import SettingsInvalid
from greenroom.common.message_catalog import CATALOG
from greenroom.runner.isolation.callout import Issuer, new_seed
from greenroom.runner.isolation.grants import Grant, Tokens, permissions, with_login

TOKENS = Tokens("a seed")
_IDS = st.text("abcXYZ019_-", min_size=1, max_size=20)


def covers(pattern: str, subject: str) -> bool:
    """Tell whether a subject, or all that a narrower pattern stands for, matches a pattern."""
    wanted, given_ = pattern.split("."), subject.split(".")
    for index, token in enumerate(wanted):
        if token == ">":
            return len(given_) > index
        if index >= len(given_) or (token not in {"*", given_[index]}) or (token == "*" and given_[index] == ">"):
            return False
    return len(wanted) == len(given_)


@given(grant=st.builds(Grant, _IDS, _IDS, st.integers(1, 2**40)), now=st.integers(0, 2**40))
def test_a_token_is_good_until_it_runs_out(grant: Grant, now: int) -> None:
    """It says what it was made of, to nobody who has another seed, and not after its time."""
    token = TOKENS.make(grant)
    assert TOKENS.read(token, now) == (grant if now < grant.until else None)
    assert Tokens("another seed").read(token, 0) is None
    assert token.replace("-", "").replace("_", "").isalnum()


@given(st.data())
def test_a_token_that_was_changed_is_none(data: st.DataObject) -> None:
    """Whatever is changed of it, or made up, nobody gets in with it."""
    token = TOKENS.make(Grant("acme", "s1", 2**40))
    at = data.draw(st.integers(0, len(token) - 1))
    letter = data.draw(st.sampled_from("ABCdef012-_.%"))
    # The last letter has bits that stand for nothing.
    if letter != token[at] and at < len(token) - 1:
        assert TOKENS.read(token[:at] + letter + token[at + 1 :], 0) is None
    assert TOKENS.read(data.draw(st.text(max_size=80)), 0) is None
    assert TOKENS.read("A" * 5000, 0) is None


@given(tenant=_IDS, one=_IDS, other=_IDS)
def test_a_session_may_do_nothing_to_another(tenant: str, one: str, other: str) -> None:
    """Of the subjects of its tenant's other sessions it may publish and hear none, nor any ledger, nor its own."""
    granted = permissions(Grant(tenant, one, 1))
    allowed = granted["pub"]["allow"] + granted["sub"]["allow"]
    for session_id in (one, other):
        tokens = {"tenant": tenant, "session_id": session_id}
        ours = session_id == one
        event = subjects.SESSION_EVENT.format(**tokens, type="user_spoke")
        assert any(covers(each, event) for each in granted["pub"]["allow"]) == ours
        for subject in (
            subjects.SESSION_AUDIO.format(**tokens, track="user"),
            subjects.SESSION_MEDIA.format(**tokens, direction="out"),
            subjects.SECRET.format(**tokens),
            subjects.MAILBOX.format(**tokens),
            f"$JS.API.DIRECT.GET.COMMANDS.{subjects.MAILBOX.format(**tokens)}",
            subjects.SESSION_ASK.format(**tokens, name="transfer"),
        ):
            assert any(covers(each, subject) for each in granted["pub"]["allow"]) == ours
        for subject in (
            subjects.SESSION_CMD.format(**tokens, name="connect"),
            subjects.SESSION_MEDIA.format(**tokens, direction="in"),
            subjects.MAILBOX_STORED.format(**tokens),
            f"{Grant(tenant, session_id, 1).inbox}.x",
        ):
            assert any(covers(each, subject) for each in granted["sub"]["allow"]) == ours
        assert not any(covers(each, subjects.SESSION_LIFECYCLE.format(**tokens)) for each in allowed)
    everything = (">", "gr.v1.>", "_INBOX.>", "$SYS.REQ.USER.AUTH", "$JS.API.>")
    assert not any(covers(each, subject) for each in allowed for subject in everything)


# What two share is told apart by who sends it.
_SENT = {"direction": ("out", "listen"), "track": ("user", "bot"), "type": ("user_spoke",), "name": ("transfer",)}


def test_a_session_may_publish_what_the_catalogue_says_is_its_own() -> None:
    """Each message that a session process owns goes out on a subject that its login may use."""
    granted = permissions(Grant("acme", "s1", 1))["pub"]["allow"]
    owned = [row.subject for row in CATALOG if "session process" in row.owner]
    assert len(owned) >= 5
    for subject in owned:
        [rest] = {*subject.fields} - {"tenant", "session_id"} or {""}
        for value in _SENT.get(rest, ("",)):
            more = {rest: value} if rest else {}
            sent = subject.format(tenant="acme", session_id="s1", **more)
            if (subject, value) not in {(subjects.SESSION_MEDIA, "listen"), (subjects.SESSION_TAP, "out")}:
                assert any(covers(each, sent) for each in granted), sent


def test_who_stands_by_may_practise_and_nothing_else() -> None:
    """Its subjects are all in the corner where it practises."""
    granted = permissions(Grant("", "", 1))
    assert granted["sub"]["allow"] == ["_INBOX.practice.>"]
    assert granted["pub"]["allow"] == ["_INBOX.practice.>", "$JS.API.STREAM.NAMES"]


def test_the_login_takes_the_place_of_the_runners() -> None:
    """In each of the servers of a URL."""
    url = "tls://runner:p%40ss@10.0.0.1:4222,tls://runner:p%40ss@10.0.0.2:4222,nats://plain:4222"
    assert (
        with_login(url, "t")
        == "tls://session:t@10.0.0.1:4222,tls://session:t@10.0.0.2:4222,nats://session:t@plain:4222"
    )


def _question(**options: str) -> bytes:
    claims = {"nats": {"server_id": {"id": "NSERVER"}, "user_nkey": "UKEY", "connect_opts": options}}
    return b"h." + base64.urlsafe_b64encode(msgspec.json.encode(claims)).rstrip(b"=") + b".s"


def _claims(jwt: str) -> dict[str, object]:
    body = jwt.split(".")[1]
    return msgspec.json.decode(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)), type=dict[str, object])


def test_an_answer_is_for_who_asked() -> None:
    """It names the server and the key of the connection; without a good token it says no, and grants nothing."""
    issuer = Issuer(new_seed())
    now = time.time()
    for options in ({}, {"user": "session"}, {"user": "session", "pass": "made up"}, {"user": "api", "pass": "x"}):
        answer = _claims(issuer.answer(_question(**options), now).decode())
        assert (answer["aud"], answer["sub"], answer["iss"]) == ("NSERVER", "UKEY", issuer.public_key)
        said = msgspec.convert(answer["nats"], dict[str, object])
        assert "error" in said
        assert "jwt" not in said


@pytest.mark.parametrize("question", [b"", b"a.b", b"a.!.c", b"a.e30.c", b"x" * 70_000, b"a." + b"e30" * 3 + b".c"])
def test_what_isn_t_a_question_is_refused(question: bytes) -> None:
    """Nothing of it is signed."""
    with pytest.raises(ValueError, match=r".+"):
        Issuer(new_seed()).answer(question, 0)


@pytest.mark.parametrize("seed", ["SA", "nonsense", "SUAMK2FG4MI6UE3ACF3FK3OIQBCEIEZV7NSWFFEW63UXMRLFM2XLAXK4GY"])
def test_a_seed_that_isn_t_one_is_said(seed: str) -> None:
    """Not an nkey, or not an account's; without repeating it."""
    with pytest.raises(SettingsInvalid) as refused:
        Issuer(seed)
    assert seed not in str(refused.value).replace("SA…", "")
