"""feedbus.config.weight_editing: weights are set, and nothing else in the file is touched."""

import pytest

from feedbus import config
from feedbus.config.weight_editing import rewrite, set_weights
from feedbus.errors import UsageError

HEAD = """# The house.
name = "house"   # its name

[exchanges]
feed = { type = "x-consistent-hash" }  # a ring
"""
WEIGHTS = {0: 12, 1: 9, 2: 30}
WHOLE = "weights = { 0 = 12, 1 = 9, 2 = 30 }"
OPTIONS = 'exchange = "feed"\nhandler = "h:f"\n'


def edited(queues, queue="feed_readers", weights=WEIGHTS):
    return set_weights((HEAD + queues).encode(), queue, weights).decode().removeprefix(HEAD)


def test_a_weight_gives_way_to_weights_in_its_place_and_its_comment_stays():
    before = "[queues.feed_readers]\nshards   = 3\nweight   = 1            # even\n" + OPTIONS
    aligned = WHOLE.replace("weights =", "weights  =")
    assert edited(before) == before.replace("weight   = 1            #", f"{aligned}  #")


def test_weights_are_replaced_where_they_stand():
    before = f"[queues.feed_readers]\nweights={{0=2}}# why\nshards=3\n{OPTIONS}# the end"
    assert edited(before) == before.replace("{0=2}", WHOLE.removeprefix("weights = "))


def test_a_weight_beside_weights_goes_but_for_its_comment():
    before = f"[queues.feed_readers]\n  weight = 2 # twice\n  weights = {{ 1 = 3 }}\n{OPTIONS}"
    assert edited(before) == f"[queues.feed_readers]\n# twice\n  {WHOLE}\n{OPTIONS}"


def test_without_any_weight_a_line_is_put_behind_the_shards():
    before = f"[queues.feed_readers]\n{OPTIONS}shards     = 3 # three\n\n[commands]\n"
    assert edited(before) == before.replace(
        "# three\n", f"# three\n{WHOLE.replace(' =', '    =', 1)}\n"
    )


DOTTED = 'feed_readers.exchange = "feed"\nfeed_readers.handler = "h:f"\n'


def test_dotted_keys_are_set_one_by_one():
    lines = "feed_readers.weights.1 = {} # two\n{}"
    before = f"[queues]\nfeed_readers.shards = 3\n{lines.format(2, '')}{DOTTED}"
    rest = "feed_readers.weights.0 = 12\nfeed_readers.weights.2 = 30\n"
    assert edited(before) == f"[queues]\nfeed_readers.shards = 3\n{lines.format(9, rest)}{DOTTED}"


TABLE = "[queues.feed_readers]"
INLINE = '[queues]\nfeed_readers = {{ {}exchange = "feed", shards = 3{}, handler = "h:f" }}\n'


@pytest.mark.parametrize(
    "queues",
    [
        f"{TABLE}\nshards = 3\n{OPTIONS}",
        f"{TABLE}\n{OPTIONS}shards = 3",
        f"{TABLE}\nweight = 4\nshards = 3\n{OPTIONS}",
        f"{TABLE}\nweight = 4\nshards = 3\n{OPTIONS}[queues.feed_readers.weights]\n2 = 1\n",
        f"{TABLE}\nshards = 3\n{OPTIONS}[queues.feed_readers.weights]\n",
        f"{TABLE}\nshards = 3\nweight = 7\nweights.0 = 3\n{OPTIONS}",
        INLINE.format("", ""),
        INLINE.format("weight = 2, ", ""),
        INLINE.format("weight = 2, weights = { 1 = 9 }, ", ""),
        INLINE.format("weights.1 = 9, ", ", weight = 2"),
        f"[queues]\nfeed_readers.shards = 3\n{DOTTED}",
        f"[queues]\nfeed_readers.weight = 3\nfeed_readers.shards = 3\n{DOTTED}",
        f'[queues."feed_readers"]\n"shards" = 3\n{OPTIONS}',
        f"[defaults.queue]\nshards = 3\nweight = 5\n{OPTIONS}{TABLE}  # all by default\n",
        f"[defaults.queue]\nshards = 3\nweights = {{ 1 = 5 }}\n{TABLE}\n{OPTIONS}",
    ],
)
@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_however_a_queue_is_written_its_weights_are_set_and_nothing_else(tmp_path, queues, ending):
    file = tmp_path / "topology.toml"
    text = (HEAD + queues).replace("\n", ending)
    file.write_bytes(text.encode())
    before = config.load(file)
    after = rewrite(before, {"feed_readers": WEIGHTS})
    assert config.load(file) == after
    assert after.queues["feed_readers"].weights == (12, 9, 30)
    written = file.read_bytes().decode()
    assert written.count("#") == text.count("#")
    assert written.count("\n") == written.count(ending)
    assert [file.name for file in tmp_path.iterdir()] == ["topology.toml"]


def test_the_weight_of_a_queue_without_shards_is_set():
    assert edited(f"[queues.audit]\nweight = 1 # one\n{OPTIONS}", "audit", 25) == (
        f"[queues.audit]\nweight = 25 # one\n{OPTIONS}"
    )
    assert edited(f"[queues.audit]\n{OPTIONS}", "audit", 25) == (
        '[queues.audit]\nexchange = "feed"\nweight   = 25\nhandler = "h:f"\n'
    )


def test_a_link_stays_a_link_and_a_file_keeps_its_mode_and_its_mark(tmp_path):
    real, link = tmp_path / "real.toml", tmp_path / "topology.toml"
    real.write_text(f"{HEAD}[queues.feed_readers]\nshards = 3\n{OPTIONS}", encoding="utf-8-sig")
    real.chmod(0o640)
    link.symlink_to("real.toml")
    rewrite(config.load(link), {"feed_readers": WEIGHTS})
    assert link.is_symlink()
    assert real.stat().st_mode & 0o7777 == 0o640
    assert real.read_bytes().startswith(b"\xef\xbb\xbf# The house.")
    assert config.load(link).queues["feed_readers"].weights == (12, 9, 30)


def test_a_file_that_has_changed_meanwhile_is_left_alone(tmp_path):
    file = tmp_path / "topology.toml"
    file.write_text(f"{HEAD}[queues.feed_readers]\nshards = 3\n{OPTIONS}")
    topology = config.load(file)
    changed = f"{HEAD}[queues.feed_readers]\nshards = 4\n{OPTIONS}"
    file.write_text(changed)
    with pytest.raises(UsageError, match="the file has changed"):
        rewrite(topology, {"feed_readers": WEIGHTS})
    assert file.read_text() == changed
    assert [file.name for file in tmp_path.iterdir()] == ["topology.toml"]
