"""A wrong URL or store is reported at its position, with the expected value."""

from __future__ import annotations

import pytest

from tests.topologies import ORDERS, START, assert_reported

WRONG_FILES = {
    "an unknown option of the broker": (
        START + ORDERS + '[broker]\n▸uri = "sqlite:///b.db"\n',
        "[broker] uri: unknown option; did you mean 'url'?",
    ),
    "a broker of an unknown scheme": (
        START + ORDERS + '[broker]\nurl = ▸"ampq://localhost"\n',
        (
            "[broker] url: expected a URL that begins with sqlite://, amqp://, amqps:// or "
            "pyamqp://, got 'ampq://…'; did you mean 'amqp://'?"
        ),
    ),
    "a store of an unknown scheme": (
        START + ORDERS + '[store]\nurl = ▸"mysql://localhost/x"\n',
        (
            "[store] url: expected a URL that begins with sqlite://, postgresql:// or postgres://, "
            "got 'mysql://…'"
        ),
    ),
    "an sqlite URL that lacks a slash": (
        START + ORDERS + '[store]\nurl = ▸"sqlite://var/x.db"\n',
        (
            "[store] url: expected a file: sqlite:///relative/to/this.db or "
            "sqlite:////absolute.db, got 'sqlite://…'"
        ),
    ),
    "an sqlite URL in memory": (
        START + ORDERS + '[broker]\nurl = ▸"sqlite:///:memory:"\n',
        (
            "[broker] url: expected a file: sqlite:///relative/to/this.db or "
            "sqlite:////absolute.db, got 'sqlite://…'"
        ),
    ),
    "a URL whose port is none, its password kept secret": (
        START + ORDERS + '[broker]\nurl = ▸"amqp://me:secret@host:56x72/"\n',
        "[broker] url: expected a port from 1 to 65535 after the host, got 'amqp://…'",
    ),
    "a password with a slash": (
        START + ORDERS + '[broker]\nurl = ▸"amqp://guest:5/abcSecret@HOST//"\n',
        (
            "[broker] url: expected %2F, %3F, %23 and %40 for '/', '?', '#' and '@' in a user, a "
            "password or a name, got 'amqp://…'"
        ),
    ),
    "an option of TLS that is misspelt": (
        START + ORDERS + '[broker]\nurl = ▸"amqps://h//?ssl_cacerts=/x"\n',
        (
            "[broker] url: expected heartbeat, ssl_ca_certs, ssl_certfile, ssl_keyfile, "
            "ssl_server_name or ssl_verify after '?', got 'ssl_cacerts'; "
            "did you mean 'ssl_ca_certs'?"
        ),
    ),
    "a management API that would get the password of amqps in clear text": (
        START + ORDERS + '[broker]\nurl = "amqps://h//"\nmanagement = ▸"http://h:15672"\n',
        (
            "[broker] management: expected https://, because url is amqps://: http:// would send"
            " the password unencrypted, got 'http://…'"
        ),
    ),
    "a store's option that libpq does not know": (
        START + ORDERS + '[store]\nurl = ▸"postgresql://u@h/db?sslmod=require"\n',
        (
            "[store] url: expected postgresql://USER:PASSWORD@HOST:PORT/NAME?OPTION=VALUE, "
            "as PostgreSQL's libpq reads it, got 'postgresql://…'; did you mean 'sslmode'?"
        ),
    ),
    "an sqlite URL with a question": (
        START + ORDERS + '[store]\nurl = ▸"sqlite:///x.db?mode=ro"\n',
        "[store] url: expected a file without '?' and '#', got 'sqlite://…'",
    ),
    "a URL with a blank": (
        START + ORDERS + '[broker]\nurl = ▸"amqp://my host/"\n',
        "[broker] url: expected a URL without spaces and control characters, got 'amqp://…'",
    ),
    "a prepare without a colon": (
        START + ORDERS + '[store]\nurl = "sqlite:///s.db"\nprepare = ▸"store.migrate"\n',
        (
            "[store] prepare: expected a dotted name such as 'package.module:name', "
            "got 'store.migrate'; did you mean 'store:migrate'?"
        ),
    ),
    "a time for keeping ids that is too short by default": (
        START
        + ORDERS
        + 'once = true\ndead_letters = { max_age = "30d" }\n'
        + '▸[store]\nurl = "sqlite:///s.db"\n',
        (
            "[store] keep_handled: expected more than 30d11m11s, because messages of 'orders' can"
            " be delivered again for so long (retry delays 11m11s, max_age of dead letters 30d),"
            " got 30d, the default"
        ),
    ),
    "a time for keeping ids that is shorter than the retries": (
        START + ORDERS + 'once = true\n[store]\nurl = "sqlite:///s.db"\nkeep_handled = ▸"10s"\n',
        (
            "[store] keep_handled: expected more than 11m11s, because messages of 'orders' can be"
            " delivered again for so long (retry delays 11m11s), got '10s'"
        ),
    ),
    "a store that nobody says where it is": (
        START + ORDERS + "▸[store]\n",
        "[store] url: expected sqlite:///FILE or postgresql://…, got nothing",
    ),
    "a store with an unknown adapter": (
        START + ORDERS + '[store]\nadapter = ▸"sqlalchmy"\nengine = "shop.db:engine"\n',
        (
            "[store] adapter: expected 'peewee', 'sqlalchemy' or a dotted name such as "
            "'package.module:name', got 'sqlalchmy'; did you mean 'sqlalchemy'?"
        ),
    ),
    "sqlalchemy without an engine": (
        START + ORDERS + '▸[store]\nadapter = "sqlalchemy"\n',
        (
            "[store] engine: expected the dotted name of an SQLAlchemy engine, such as "
            "'shop.db:engine', for adapter = \"sqlalchemy\", got nothing"
        ),
    ),
    "an engine without sqlalchemy": (
        START + ORDERS + '[store]\nurl = "sqlite:///s.db"\n▸engine = "shop.db:engine"\n',
        '[store] engine: has no effect with adapter = "peewee": expected url instead',
    ),
    "a variable that is unset and has no default": (
        START + ORDERS + '[broker]\nurl = ▸"${BROKER}"\n',
        (
            "[broker] url: variable BROKER is not set and has no default; expected BROKER in the"
            " environment, or ${BROKER:-default}"
        ),
    ),
    "a variable that is not closed": (
        START + ORDERS + '[broker]\nurl = ▸"${BROKER:-sqlite:///x.db"\n',
        (
            "[broker] url: expected ${NAME} or ${NAME:-default} ($$ for a dollar), "
            "got another text after '${'"
        ),
    ),
}


@pytest.mark.parametrize(("marked", "reported"), WRONG_FILES.values(), ids=WRONG_FILES)
def test_a_wrong_file_is_reported_at_its_place(tmp_path, marked, reported):
    assert_reported(tmp_path, marked, reported)
