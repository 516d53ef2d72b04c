"""The same work on other designs and frameworks, as their users write it: a message a follower."""

SHARDS = 10
PORT_CONSUMERS = (
    "publish_tweet",
    *(f"update_feed_{shard}" for shard in range(SHARDS)),
    "send_email",
    "send_sms",
)
