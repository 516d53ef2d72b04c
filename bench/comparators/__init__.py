"""The same work on other designs and frameworks, with one message for each follower."""

SHARDS = 10
PORT_CONSUMERS = (
    "publish_tweet",
    *(f"update_feed_{shard}" for shard in range(SHARDS)),
    "send_email",
    "send_sms",
)
