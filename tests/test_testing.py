"""The tools for users' tests, used in a folder with two files, as in a user's project."""

from __future__ import annotations

import signal
import threading
import traceback
from dataclasses import fields, replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from feedbus import DeadLetter, Outage
from feedbus.errors import Unroutable, UsageError
from feedbus.generations import topology_setup
from feedbus.inline import NeverDone
from feedbus.records.packs import Pack
from feedbus.testing import RecordingBus
from feedbus.testing.observations import Handled, Published, RecordingSender
from tests.projects import PATIENCE_SECONDS
from tests.shops import Shop, order
from tests.small_topologies import sharded
from tests.system_fixtures import closing_store
from tests.systems import System


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    return Shop(tmp_path_factory.mktemp("shop"))


@pytest.fixture
def system(shop):
    with shop.system() as system:
        yield system
        shop.module.failures.clear()


def test_what_a_handler_publishes_reaches_the_next_handler(system):
    system.publish("orders", order(), key="chair")
    assert system.run() == 2
    assert [each.key for each in system.published("receipts")] == ["mail.ann"]
    assert [each.payload for each in system.handled("mail")] == [order(quantity=1)]
    assert system.dead_letters() == []


def test_a_rejected_message_is_a_dead_letter_with_its_reason(system):
    system.publish("orders", order(quantity=0), key="chair")
    system.run()
    (letter,) = system.dead_letters("reserve")
    assert (letter.reason, letter.key) == ("quantity must be positive", "chair")
    assert letter.payload == order(quantity=0)
    assert system.dead_letters("mail") == []
    assert system.dead_letters("reserve") == [letter] or len(system.dead_letters()) == 1


def test_what_does_not_validate_is_a_dead_letter_with_each_fields_errors(system):
    system.publish("orders", {"id": "x", "customer": "ann"}, key="chair")
    system.run()
    assert system.dead_letters("reserve")[0].errors == {"id": ["Not a valid integer."]}
    assert system.handled("reserve") == []


def test_retries_of_minutes_come_at_once_and_the_clock_shows_when(shop):
    with shop.system(now=datetime(2026, 1, 31, tzinfo=UTC)) as system:
        shop.module.failures[:] = [RuntimeError("down")] * 3
        system.publish("receipts", order(), key="mail.ann")
        system.run()
        errors = [each.error for each in system.handled("mail")]
        assert [str(error) for error in errors] == ["down", "down", "down", "None"]
        assert system.dead_letters() == []
        assert system.clock.now() == datetime(2026, 1, 31, 0, 1, 11, tzinfo=UTC)  # 1 + 10 + 60 s


def test_a_message_that_always_fails_is_a_dead_letter_after_its_last_retry(shop, system):
    shop.module.failures[:] = [RuntimeError("down")] * 9
    system.publish("receipts", order(), key="mail.ann")
    system.run()
    (letter,) = system.dead_letters()
    assert (letter.reason, letter.attempts) == ("RuntimeError: down", 5)
    assert system.clock.monotonic() == 671
    assert len(shop.module.failures) == 4


def test_a_dead_letter_shows_what_a_failed_assertion_needs_in_one_short_line(shop, system):
    shop.module.failures[:] = [RuntimeError("down " * 100)] * 5
    system.publish("receipts", order(customer="ann" * 100), key="mail.ann")
    system.run()
    shown = repr(system.dead_letters()[0])
    assert shown.startswith(
        "DeadLetter(queue='mail', key='mail.ann', reason='RuntimeError: down down "
    )
    assert f"attempts=5, place='{shop.name}.py:31 in mail', payload={{'id': 1, 'cust" in shown
    assert len(shown) < 350


def test_the_records_of_a_test_show_no_empty_fields_and_the_beginning_of_a_long_payload():
    sent = Published("receipts", "mail.ann", {"id": 1})
    assert repr(sent) == "Published(exchange='receipts', key='mail.ann', payload={'id': 1})"
    long = Handled("mail", "mail", {"text": "x" * 10_000}, OSError("down"))
    assert repr(long).endswith("xxx…, error=OSError('down'))")
    assert len(repr(long)) < 400


def test_the_pages_name_all_attributes_of_what_a_test_observes():
    pages = Path(__file__).parents[1] / "docs" / "how-to"
    calls = (pages / "testing.md").read_text().partition("## What a test calls")[2]
    for call, observed in (("published", Published), ("handled", Handled)):
        row = next(each for each in calls.splitlines() if each.startswith(f"| `{call}("))
        assert [each.name for each in fields(observed) if f"`{each.name}`" not in row] == []
    table = (pages / "retries.md").read_text().partition("| attribute of a `DeadLetter` |")[2]
    names = {each.name for each in fields(DeadLetter)} | {"payload"}
    assert {each for each in names if f"`{each}`" not in table.partition("\n\n")[0]} == {"delivery"}


def test_the_log_of_a_failed_handler_begins_with_the_handler(shop, system, caplog):
    shop.module.failures[:] = [RuntimeError("down")]
    system.publish("receipts", order(), key="mail.ann")
    system.run()
    (record,) = (each for each in caplog.records if each.msg.name == "handler_failed")
    assert [each.name for each in traceback.extract_tb(record.exc_info[2])] == ["mail"]
    assert "feedbus/dispatch" not in caplog.text


def test_a_retry_with_a_wait_of_its_own_comes_after_that(shop, system):
    shop.module.failures.append(shop.module.Retry("busy", after_seconds=86_400))
    system.publish("receipts", order(), key="mail.ann")
    system.run()
    assert len(system.handled("mail")) == 2
    assert system.clock.monotonic() == 86_400


def test_advance_lets_some_time_pass_and_handles_what_is_due_meanwhile(shop, system):
    shop.module.failures[:] = [RuntimeError("down")] * 2
    system.publish("receipts", order(), key="mail.ann")
    assert system.advance(0) == 1
    assert (system.retries(), system.retries("mail"), system.retries("echo")) == (1, 1, 0)
    assert system.delayed() == 0
    assert system.advance(5) == 1
    assert system.clock.monotonic() == 5
    assert system.advance(5) == 0
    assert system.advance(5) == 1
    assert system.retries() == 0


def test_a_dead_letter_stays_where_it_is_however_often_it_is_looked_at(system):
    for number in range(3):
        system.publish("orders", order(number, quantity=0), key="chair")
    system.run()
    for _ in range(3):
        assert [each.payload["id"] for each in system.dead_letters("reserve")] == [0, 1, 2]


def test_messages_of_one_key_are_handled_in_order_by_one_shard(system):
    for number in range(60):
        system.publish("orders", order(number), key=f"key {number % 6}")
    system.run()
    handled = system.handled("reserve")
    assert len({each.consumer for each in handled}) > 1
    for key in range(6):
        of_key = [each for each in handled if each.payload["id"] % 6 == key]
        assert len({each.consumer for each in of_key}) == 1
        assert [each.payload["id"] for each in of_key] == list(range(key, 60, 6))


def test_a_batch_handler_gets_what_waits_and_its_verdicts_are_seen(system):
    for number in range(40):
        system.publish("packed", order(number, quantity=number % 2), key=str(number))
    system.run()
    assert len(system.handled("count")) == 40
    assert sum(each.error is not None for each in system.handled("count")) == 20
    assert len(system.dead_letters("count")) == 20
    assert [each.payload["id"] for each in system.published("packed")] == list(range(40))


def test_an_outage_reaches_the_test_and_the_message_is_handled_after_it(shop, system):
    shop.module.failures.append(Outage("the printer is off"))
    system.publish("receipts", order(), key="mail.ann")
    with pytest.raises(Outage, match="the printer is off"):
        system.run()
    system.run()
    assert [type(each.error) for each in system.handled("mail")] == [Outage, type(None)]
    assert system.clock.monotonic() == 0  # this did not count as an attempt


def test_signals_neither_end_a_run_early_nor_find_anything_changed(system):
    heard = []
    signal.set_wakeup_fd(-1)  # remove the setting of an earlier test
    before = signal.signal(signal.SIGUSR1, lambda *_: heard.append(1))
    try:
        for number in range(20):
            system.publish("orders", order(number), key=str(number))
            signal.raise_signal(signal.SIGUSR1)
        assert system.run() == 40
        assert (len(heard), signal.set_wakeup_fd(-1)) == (20, -1)
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_a_run_without_end_is_stopped_with_what_to_do(system):
    system.publish("work", {"n": 1}, key="echo")
    with pytest.raises(NeverDone, match=r"stopped after \d+ deliveries: .* without end"):
        system.run(most=50)


def test_a_key_that_no_queue_gets_and_an_exchange_that_is_not_there_are_errors(system):
    with pytest.raises(Unroutable):
        system.publish("receipts", order(), key="nowhere")
    with pytest.raises(UsageError, match="no exchange named 'reciepts'"):
        system.publish("reciepts", order(), key="mail.ann")
    for look in (system.published, system.dead_letters, system.handled, system.retries):
        with pytest.raises(UsageError, match="named 'reciepts'; expected one of"):
            look("reciepts")


def test_a_system_leaves_nothing_to_the_next_one(shop):
    for _ in range(2):
        with shop.system() as system:
            system.publish("orders", order(quantity=0), key="chair")
            system.run()
            assert len(system.dead_letters()) == 1
            assert len(system.published()) == 1


def test_two_systems_are_apart_also_in_two_threads(shop):
    seen = []

    def use(number):
        with shop.system() as system:
            for _ in range(number):
                system.publish("orders", order(), key="chair")
            system.run()
            seen.append((number, len(system.handled("mail"))))

    threads = [threading.Thread(target=use, args=(number,)) for number in (1, 2, 3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_SECONDS)
    assert sorted(seen) == [(1, 1), (2, 2), (3, 3)]


def test_a_recording_bus_knows_the_exchanges_of_its_topology(shop):
    bus = RecordingBus(shop.topology)
    bus.publish("receipts", order(), key="mail.ann")
    assert [(each.exchange, each.key) for each in bus.published] == [("receipts", "mail.ann")]
    with pytest.raises(UsageError, match="no exchange named 'reciepts'"):
        bus.publish("reciepts", order(), key="mail.ann")
    with pytest.raises(UsageError, match="cannot publish"):
        bus.publish("receipts", {"id": object()}, key="mail.ann")
    assert len(bus.published) == 1


def test_refused_records_of_a_pack_that_was_sent_again_as_single_messages_are_not_published(
    tmp_path,
):
    full = {"max_length": 1, "overflow": "reject-publish"}
    with closing_store():
        before = System.at(tmp_path, sharded(1, **full), pack=3).topology
        published: list[Published] = []
        sender = RecordingSender(before, published)  # it knows only the first ring
        topology_setup.set_up(replace(before, queues={"shard": sharded(2, **full)}))
        pack = Pack.numbered("0" * 24, ["k", "k", "k"], {}, {"n": [1, 2, 3]})
        refusals = sender.send(sender.encoder.encode("ring", pack))
        sender.close()
        assert [refusal.pack is not None for refusal in refusals] == [True, True]
        assert [record.payload for record in published] == [{"n": 1}]
